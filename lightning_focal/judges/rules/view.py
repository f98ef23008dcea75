"""A response taken apart once, for the many checks that ask about the same words and lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import groupby

from lightning_focal.types import Message

__all__ = ["ResponseView", "ngrams", "split_sentences", "split_words"]

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+•]\s|\d{1,3}[.)]\s|#))")
_MARKER = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)]|#{1,6})\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]*_]{0,3}\s+|(?<=[。！？])")
_NO_END = ("mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "cf.", "fig.", "i.e.", "e.g.")
_NO_END_BEFORE_LOWER_CASE = ("etc.", "approx.", "jr.", "sr.", "inc.", "a.m.", "p.m.")
_NUMBERED = re.compile(r"\s*\d{1,3}[.)]\s+\S")
_BULLET_STARTS = ("- ", "* ", "+ ", "• ", "-\t", "*\t", "+\t", "•\t")


def split_words(text: str) -> list[str]:
    """Split into words: runs of letters, digits and underscores, joined by inner apostrophes and hyphens.

    >>> split_words("Don't over-think it: 3.5 is fine.")
    ["Don't", 'over-think', 'it', '3', '5', 'is', 'fine']
    """
    return _WORD.findall(text)


def split_sentences(text: str) -> list[str]:
    r"""Split into sentences (a heuristic, ours): at ``.!?…`` before white space, blank lines, list items and headings.

    Common English abbreviations end no sentence, some of them only before a lower-case word; a piece without a word is none.

    >>> split_sentences("Ask Dr. Ray. Then rest!\n\n1. Drink water\n2. Sleep")
    ['Ask Dr. Ray.', 'Then rest!', 'Drink water', 'Sleep']
    """
    sentences = []
    for block in _BLOCK.split(text):
        marker = _MARKER.match(block)
        current = ""
        for piece in _SENTENCE_END.split(block[marker.end() :] if marker else block):
            if current and not _goes_on(current, piece):
                sentences.append(current)
                current = ""
            current = f"{current} {piece}" if current else piece
        sentences.append(current)
    return [sentence.strip() for sentence in sentences if _WORD.search(sentence)]


def _goes_on(sentence: str, following: str) -> bool:
    last = sentence.rsplit(None, 1)[-1].lower().lstrip("\"'“(") if sentence.endswith(".") else ""
    return last in _NO_END or (last in _NO_END_BEFORE_LOWER_CASE and not following[:1].isupper())


def ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """All runs of ``length`` consecutive words."""
    return list(zip(*(words[i:] for i in range(length)), strict=False))


@lru_cache(maxsize=4096)
def _prompt_words(text: str) -> tuple[str, ...]:
    return tuple(split_words(text.lower().replace("’", "'")))


class ResponseView:
    """A response with its words, sentences, lines and paragraphs, each computed when first asked for.

    Args:
        messages: the chat that was answered.
        text: the response as it stands.
        regex_timeout: seconds a pattern that came with a criterion may search.
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
        """The stripped text in lower case, with straight apostrophes."""
        return self.stripped.lower().replace("’", "'")

    @cached_property
    def words(self) -> list[str]:
        """Words as written, see :func:`split_words`."""
        return split_words(self.text)

    @cached_property
    def lower_words(self) -> list[str]:
        """Words in lower case, with straight apostrophes."""
        return split_words(self.lower)

    @cached_property
    def word_set(self) -> frozenset[str]:
        """Distinct words in lower case."""
        return frozenset(self.lower_words)

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences, see :func:`split_sentences`."""
        return split_sentences(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Lines that hold more than white space."""
        return [line for line in self.text.splitlines() if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Blocks of lines between blank lines."""
        lines = (line if line.strip() else "" for line in self.text.splitlines())
        return ["\n".join(block) for filled, block in groupby(lines, bool) if filled]

    @cached_property
    def bullets(self) -> int:
        """Number of lines that start with ``-``, ``*``, ``+`` or ``•`` and go on."""
        return sum(line.lstrip().startswith(_BULLET_STARTS) for line in self.lines)

    @cached_property
    def numbered(self) -> int:
        """Number of lines that start like ``1.`` or ``2)``."""
        return sum(_NUMBERED.match(line) is not None for line in self.lines)

    @cached_property
    def fences(self) -> list[tuple[str, str]]:
        """Closed code fences as ``(language, body)``."""
        found: list[tuple[str, str]] = []
        opened: tuple[str, str] | None = None
        body: list[str] = []
        for line in self.text.splitlines():
            mark = line.strip()
            if opened is None:
                if mark.startswith(("```", "~~~")):
                    opened, body = (mark[:3], mark.lstrip("`~").strip().lower()), []
            elif mark.startswith(opened[0]) and not mark.strip("`~"):
                found.append((opened[1], "\n".join(body)))
                opened = None
            else:
                body.append(line)
        return found

    @property
    def prompt_words(self) -> tuple[str, ...]:
        """Words of the last user turn in lower case; none where the chat has no such turn."""
        return _prompt_words(next((turn["content"] for turn in reversed(self.messages) if turn.get("role") == "user"), ""))

    def occurrences(self, phrase: str) -> int:
        """Count a lower-case word or phrase as whole words.

        >>> ResponseView((), "Rest. Restless? Rest!").occurrences("rest")
        2
        """
        text, size, count = self.lower, len(phrase), 0
        start = text.find(phrase)
        while start != -1:
            end = start + size
            if not (start and _joins(text[start - 1], phrase[0])) and not (end < len(text) and _joins(text[end], phrase[-1])):
                count += 1
            start = text.find(phrase, end)
        return count


def _joins(neighbour: str, edge: str) -> bool:
    return (neighbour.isalnum() or neighbour == "_") and (edge.isalnum() or edge == "_")
