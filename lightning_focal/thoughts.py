r"""Where the thought of a response ends and its answer begins, told from the marks that models write around thoughts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

__all__ = ["HARMONY", "MARKS", "Response", "answer_places", "closing_of", "is_empty", "opening_at_the_end", "split_thought"]

MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<mm:think>": "</mm:think>",
    "<ifm|think>": "</ifm|think>",
    "<|plamo:begin_think:plamo|>": "<|plamo:end_think:plamo|>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "◁think▷": "◁/think▷",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|channel>thought": "<channel|>",
}
"""What opens a thought, and what closes it, letter by letter as tokenizers and the parsers of servers spell it: ``<THINK>`` is text."""
HARMONY = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
"""Marks of the harmony format: a message for each channel, of which `final` alone is the answer."""

_CLOSED = {close: opened for opened, close in MARKS.items()}
# every mark holds one of these: a quick look spares most responses the pattern
_HINTS = ("<", "[THINK]", "[/THINK]", "◁", "assistantfinal")
_TAG = re.compile("|".join(map(re.escape, (*MARKS, *_CLOSED))))
_ANY = re.compile(rf"{_TAG.pattern}|{re.escape(HARMONY[1])}|assistantfinal")
# harmony without its special tokens
_UNMARKED = re.compile(r"analysis(?=\S)(.*?)assistant(?:commentary.*?assistant)?final", re.DOTALL)
_HEADER = re.compile(r"\s*(?:<\|start\|>[^<]*)?<\|channel\|>\s*(\w*)[^<]*(?:<\|constrain\|>[^<]*)?(?:<\|message\|>|\Z)")
_NEXT = r"(?:<\|start\|>[^<]*<\|channel\|>[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>)"
_ENDED = re.compile(rf"<\|(?:end|return|call)\|>(?=\s*(?:\Z|<\|channel\|>|{_NEXT}))|(?={_NEXT})")
_LATE = re.compile(rf"<\|end\|>(?=\s*{_NEXT})")
_OPENED = re.compile(rf"(?:{'|'.join(map(re.escape, MARKS))}|<\|channel\|>\s*analysis\s*<\|message\|>)\s*\Z")
_BLANK = re.compile(r"\s*")
_FENCE = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t]*([^`\n]*)$", re.MULTILINE)
_QUOTED = re.compile(r"(`+)(?!`)[^\n]+?(?<!`)\1(?!`)|\"[^\"\n]{1,80}\"|“[^”\n]{1,80}”|«[^»\n]{1,80}»|「[^」\n]{1,80}」")
_QUOTES = "\"'`“”‘’«»「」"
_GOES_ON = " \t,.;:!?)…"
_NAMED = re.compile(r"\s+(?:tag|token|mark|marker|element)s?\b", re.IGNORECASE)
_NEAR = 200  # characters around a mark that are looked at
_MOST = 500  # marks in a text whose code is looked for: nobody's answer has more


class Response(NamedTuple):
    """A response, taken apart.

    Args:
        thought: what was thought, without marks; several thoughts stand a blank line apart. None = there was no thought.
        answer: what is left; empty where a thought did not end.
        finished: every thought ended.
    """

    thought: str | None
    answer: str
    finished: bool = True


class _Part(NamedTuple):
    """A stretch of text that is no answer, and where the thought lies in it; nowhere where it is marks alone."""

    start: int
    stop: int
    inner: tuple[int, int] | None


def split_thought(text: str) -> Response:
    r"""Part the thought from the answer.

    A thought stands between the marks of :data:`MARKS`, or in a channel of the harmony format other than `final`. A closing mark
    without an opening one ends a thought that began with the text: the opening mark stood in the prompt. Marks in code, in quotation
    marks and in the midst of a sentence ("the <think> tag") are part of the answer. Text behind a thought that does not end is no answer.

    Args:
        text: a response as it was written.

    >>> split_thought("<think>\n4 + 4\n</think>\n\nIt is 8.")
    Response(thought='4 + 4', answer='It is 8.', finished=True)
    >>> split_thought("4 + 4</think>It is 8.")
    Response(thought='4 + 4', answer='It is 8.', finished=True)
    >>> split_thought("<think>4 + 4, or")
    Response(thought='4 + 4, or', answer='', finished=False)
    >>> split_thought("Models write `<think>` first.")
    Response(thought=None, answer='Models write `<think>` first.', finished=True)
    """
    return _split(text) if any(mark in text for mark in _HINTS) and _ANY.search(text) else Response(None, text)


@lru_cache(maxsize=2048)  # judges, votes, logs and files all ask for the parts of the same responses
def _split(text: str) -> Response:
    parts, finished = _parts(text)
    inner = [text[slice(*part.inner)].strip() for part in parts if part.inner is not None]
    answer = ""
    for start, stop in _between(parts, len(text)) if finished else ():
        piece = text[start:stop]
        answer += piece.lstrip() if start and (not answer or answer[-1].isspace()) else piece
    return Response("\n\n".join(filter(None, inner)) if inner else None, answer, finished)


def answer_places(text: str) -> tuple[list[tuple[int, int]], bool]:
    """Return where the answer stands in a response, as ``(start, stop)``, and whether every thought ended.

    >>> answer_places("<think>4 + 4</think>8")
    ([(20, 21)], True)
    """
    parts, finished = _parts(text)
    return list(_between(parts, len(text))) if finished else [], finished


def opening_at_the_end(text: str) -> str:
    r"""Return the mark, with white space behind it, by which the end of a prompt opens a thought; empty where it opens none.

    >>> opening_at_the_end("<|im_start|>assistant\n<think>\n"), opening_at_the_end("<think>\n\n</think>\n\n")
    ('<think>\n', '')
    """
    found = _OPENED.search(text, max(0, len(text) - _NEAR))
    return found[0] if found else ""


def closing_of(opening: str) -> str:
    """Return what closes a thought that was opened like this.

    >>> closing_of("[THINK]"), closing_of("<|channel|>analysis<|message|>")
    ('[/THINK]', '<|end|>')
    """
    return MARKS.get(opening.strip(), "<|end|>")


def is_empty(text: str) -> bool:
    r"""True when nothing visible was written.

    >>> is_empty(" \n"), is_empty(".")
    (True, False)
    """
    return not any(char.isprintable() and not char.isspace() for char in text)


def _between(parts: list[_Part], length: int) -> Iterator[tuple[int, int]]:
    ends = [0, *(part.stop for part in parts)]
    starts = [*(part.start for part in parts), length]
    return ((end, start) for end, start in zip(ends, starts, strict=True) if end < start)


def _parts(text: str) -> tuple[list[_Part], bool]:
    """What of a text is thought or mark, in order, and whether the last thought ended."""
    if unmarked := _UNMARKED.match(text):
        return [_Part(0, unmarked.end(), unmarked.span(1))], True
    return _channels(text) if _HEADER.match(text) or _LATE.search(text) else _marked(text)


def _channels(text: str) -> tuple[list[_Part], bool]:
    parts, at, finished = list[_Part](), 0, True
    if _HEADER.match(text) is None and (late := _LATE.search(text)):  # the first header stood in the prompt
        parts, at = [_Part(0, late.end(), (0, late.start()))], late.end()
    while at < len(text) and (header := _HEADER.match(text, at)):
        ended = _ENDED.search(text, header.end())
        stop, at = (ended.start(), ended.end()) if ended else (len(text), len(text))
        finished = ended is not None or header[1] == "final"
        if header[1] == "final":
            parts += [_Part(header.start(), header.end(), None), _Part(stop, at, None)]
        else:
            parts.append(_Part(header.start(), at, (header.end(), stop)))
    return parts, finished


def _marked(text: str) -> tuple[list[_Part], bool]:
    parts = list[_Part]()
    opened: re.Match[str] | None = None
    nested, end = 0, 0  # openings within a thought that nothing has closed yet; where the last part ends
    marks = list(_TAG.finditer(text))
    look = len(marks) <= _MOST
    answer = _Answer(text, 0, look)
    for mark in marks:
        kind, closes = _CLOSED.get(mark[0], mark[0]), mark[0] in _CLOSED
        if opened is not None:
            if kind != opened[0] or _is_quoted(text, mark):
                continue
            if not closes:
                nested += 1
                continue
            parts.append(_Part(opened.start(), mark.end(), (opened.end(), mark.start())))
        elif answer.says(mark, closes):
            continue
        elif not closes:
            opened = mark
            continue
        elif parts and not nested and _is_blank(text, mark.end(), len(text)):  # a mark too many, behind the answer
            parts.append(_Part(mark.start(), mark.end(), None))
        else:  # what stands before it was thought, too
            parts.append(_Part(end, mark.end(), (end, mark.start())))
            nested = max(0, nested - 1)
        opened, end = None, mark.end()
        answer = _Answer(text, end, look)
    if opened is not None:
        parts.append(_Part(opened.start(), len(text), (opened.end(), len(text))))
    return parts, opened is None


def _is_blank(text: str, start: int, stop: int) -> bool:
    found = _BLANK.match(text, start, stop)
    return found is not None and found.end() == stop


def _is_quoted(text: str, mark: re.Match[str]) -> bool:
    """Say whether quotation marks or backticks touch a mark on both sides."""
    before, after = text[max(0, mark.start() - 1) : mark.start()], text[mark.end() : mark.end() + 1]
    return bool(before and after) and before in _QUOTES and after in _QUOTES


class _Answer:
    """A stretch of answer, and which marks in it are text: in code, in quotation marks, in the midst of a sentence.

    Args:
        text: the response.
        start: where the stretch begins.
        look: look for blocks of code.
    """

    def __init__(self, text: str, start: int, look: bool) -> None:
        self.text, self.start, self.look = text, start, look
        self._blocks: list[_Block] | None = None

    def says(self, mark: re.Match[str], closes: bool) -> bool:
        """Say whether a mark is text."""
        text, begin, end = self.text, mark.start(), mark.end()
        if not closes and _is_blank(text, self.start, begin):  # a stretch that begins with it
            return False
        if _is_quoted(text, mark) or (self.look and self._in_code(begin, closes)):
            return True
        if closes and not self.start:  # nothing was thought before: who speaks of it says what it is
            return _NAMED.match(text, end) is not None
        low = max(self.start, begin - _NEAR)
        low = max(low, text.rfind("\n", low, begin) + 1)
        high = text.find("\n", end, end + _NEAR)
        line = text[low : high if high >= 0 else end + _NEAR]
        if any(found.start() < begin - low < found.end() for found in _QUOTED.finditer(line)):
            return True
        before, after = line[: begin - low], line[end - low :]
        if not before.strip() or before[-1] not in " \t":
            return False
        return after[0] in _GOES_ON if after.strip() else not closes

    def _in_code(self, place: int, closes: bool) -> bool:
        if self._blocks is None:
            self._blocks = _blocks(self.text, self.start)
        block = next((block for block in self._blocks if block.start <= place < block.stop), None)
        if block is None:
            return False
        block.opens |= not closes
        return block.closed or block.opens  # a thought may break off in a block: the mark behind it is meant


@dataclass
class _Block:
    """A fenced block of code: whether its fence is closed, and whether a mark in it opened a thought."""

    start: int
    stop: int
    closed: bool
    opens: bool = False


def _blocks(text: str, start: int) -> list[_Block]:
    blocks, fence = list[_Block](), ""
    for line in _FENCE.finditer(text[start:]):
        at = start + line.start()
        if fence and line[1].startswith(fence) and not line[2].strip():
            blocks[-1].stop, blocks[-1].closed, fence = start + line.end(), True, ""
        elif not fence or (line[1][0] == fence[0] and line[2].strip()):  # within a block, another one's language
            if fence:
                blocks[-1].stop = at
            blocks.append(_Block(at, len(text), False))
            fence = line[1]
    return blocks
