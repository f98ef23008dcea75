"""A response taken apart once, for the many checks that ask about the same words and lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import groupby

from lightning_focal.judges.rules.markup import Markup, read_markup
from lightning_focal.judges.rules.script import fold, joins, sentences_of, split_words
from lightning_focal.types import Message

__all__ = ["ResponseView", "occurrences"]


@lru_cache(maxsize=4096)
def _prompt_words(text: str) -> tuple[str, ...]:
    return tuple(split_words(fold(text)))


def occurrences(text: str, phrase: str) -> int:
    """Count a folded word or phrase in a folded text as whole words.

    >>> occurrences("rest. restless? rest!", "rest"), occurrences("身体健康", "健康")
    (2, 1)
    """
    size, count = len(phrase), 0
    start = text.find(phrase)
    while start != -1:
        end = start + size
        if not (start and joins(text[start - 1], phrase[0])) and not (end < len(text) and joins(phrase[-1], text[end])):
            count += 1
        start = text.find(phrase, end)
    return count


class ResponseView:
    r"""A response with its words, sentences, lines and markup, each computed when first asked for.

    *Prose* is the text without code fences and markup, with inline code masked.

    >>> view = ResponseView((), "Use this:\n\n```py\nfor i in range(3): print(i!=2)\n```\n\n**Ready?** Go.")
    >>> view.sentences
    ['Use this:', 'Ready?', 'Go.']
    """

    def __init__(self, messages: Sequence[Message], text: str, regex_timeout: float = 0.25) -> None:
        self.messages = messages
        self.text = text
        self.regex_timeout = regex_timeout

    @cached_property
    def stripped(self) -> str:
        """The text without outer white space."""
        return self.text.strip()

    @cached_property
    def lower(self) -> str:
        """The text as it is compared, see :func:`fold`."""
        return fold(self.text).strip()

    @cached_property
    def words(self) -> list[str]:
        """Words as written, code included, see :func:`split_words`."""
        return split_words(self.text)

    @cached_property
    def lower_words(self) -> list[str]:
        """Words as they are compared, code included."""
        return split_words(self.lower)

    @cached_property
    def word_set(self) -> frozenset[str]:
        """Distinct words as they are compared."""
        return frozenset(self.lower_words)

    @cached_property
    def markup(self) -> Markup:
        """Headings, lists, code and the like."""
        return read_markup(self.text)

    @cached_property
    def prose(self) -> str:
        """Prose as written, blocks parted by blank lines."""
        return "\n\n".join(self.markup.blocks)

    @cached_property
    def _is_prose(self) -> bool:
        """Whether the text has the words of its prose: nothing in it can be markup but hyphens."""
        return not any(mark in self.text for mark in "`<>&[]\\~_*#|") and not self.markup.numbered

    @cached_property
    def lower_prose(self) -> str:
        """Prose as it is compared."""
        return self.lower if self._is_prose else fold(self.prose)

    @cached_property
    def prose_words(self) -> list[str]:
        """Words of the prose as they are compared."""
        return self.lower_words if self._is_prose else split_words(self.lower_prose)

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences of the prose, see :mod:`~lightning_focal.judges.rules.script`; a heading, a list item, a table row is one at least."""
        return [sentence for block in self.markup.blocks for sentence in sentences_of(block)]

    @cached_property
    def lines(self) -> list[str]:
        """Lines that hold more than white space."""
        return [line for line in self.text.splitlines() if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Blocks of lines between blank lines; a blank line of a code fence parts none."""
        text = self.text
        if "```" in text or "~~~" in text:
            lines = re.split(r"\r\n?|\n", text)
            for first, last in self.markup.code_lines:
                lines[first:last] = [line if line.strip() else "\u00b6" for line in lines[first:last]]
            text = "\n".join(lines)
        filled_lines = (line if line.strip() else "" for line in text.splitlines())
        return ["\n".join(block) for filled, block in groupby(filled_lines, bool) if filled]

    @property
    def prompt_words(self) -> tuple[str, ...]:
        """Words of the last user turn as they are compared; none where the chat has no such turn."""
        return _prompt_words(next((turn["content"] for turn in reversed(self.messages) if turn.get("role") == "user"), ""))
