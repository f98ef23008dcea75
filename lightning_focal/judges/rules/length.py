"""Checks of length: words, sentences, paragraphs, characters, lines. Bounds include both ends."""

from __future__ import annotations

from collections.abc import Callable

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Run, check
from lightning_focal.judges.rules.verdicts import count_between
from lightning_focal.judges.rules.view import ResponseView, split_words

__all__: list[str] = []


def _words(view: ResponseView) -> int:
    return len(view.words)


def _sentences(view: ResponseView) -> int:
    return len(view.sentences)


def _paragraphs(view: ResponseView) -> int:
    return len(view.paragraphs)


def _characters(view: ResponseView) -> int:
    return len(view.stripped)


def _lines(view: ResponseView) -> int:
    return len(view.lines)


def _at_least(count: Callable[[ResponseView], int], unit: str, low: int) -> Run:
    return count_between(count, unit, low, None, (unit, unit))


def _at_most(count: Callable[[ResponseView], int], unit: str, high: int) -> Run:
    return count_between(count, unit, None, high, (unit, unit))


@check("min_words", {"words": 20})
def min_words(words: int) -> Run:
    """At least `words` words."""
    return _at_least(_words, "words", words)


@check("max_words", {"words": 60})
def max_words(words: int) -> Run:
    """At most `words` words."""
    return _at_most(_words, "words", words)


@check("words_between", {"min": 20, "max": 60})
def words_between(min: int, max: int) -> Run:
    """From `min` to `max` words."""
    return count_between(_words, "words", min, max)


@check("min_sentences", {"sentences": 2})
def min_sentences(sentences: int) -> Run:
    """At least `sentences` sentences."""
    return _at_least(_sentences, "sentences", sentences)


@check("max_sentences", {"sentences": 3})
def max_sentences(sentences: int) -> Run:
    """At most `sentences` sentences."""
    return _at_most(_sentences, "sentences", sentences)


@check("sentences_between", {"min": 2, "max": 4})
def sentences_between(min: int, max: int) -> Run:
    """From `min` to `max` sentences."""
    return count_between(_sentences, "sentences", min, max)


@check("min_paragraphs", {"paragraphs": 2})
def min_paragraphs(paragraphs: int) -> Run:
    """At least `paragraphs` paragraphs, parted by blank lines."""
    return _at_least(_paragraphs, "paragraphs", paragraphs)


@check("max_paragraphs", {"paragraphs": 3})
def max_paragraphs(paragraphs: int) -> Run:
    """At most `paragraphs` paragraphs, parted by blank lines."""
    return _at_most(_paragraphs, "paragraphs", paragraphs)


@check("paragraphs_between", {"min": 2, "max": 3})
def paragraphs_between(min: int, max: int) -> Run:
    """From `min` to `max` paragraphs, parted by blank lines."""
    return count_between(_paragraphs, "paragraphs", min, max)


@check("min_characters", {"characters": 100})
def min_characters(characters: int) -> Run:
    """At least `characters` characters, outer white space aside."""
    return _at_least(_characters, "characters", characters)


@check("max_characters", {"characters": 280})
def max_characters(characters: int) -> Run:
    """At most `characters` characters, outer white space aside."""
    return _at_most(_characters, "characters", characters)


@check("characters_between", {"min": 100, "max": 280})
def characters_between(min: int, max: int) -> Run:
    """From `min` to `max` characters, outer white space aside."""
    return count_between(_characters, "characters", min, max)


@check("min_lines", {"lines": 2})
def min_lines(lines: int) -> Run:
    """At least `lines` lines that are not blank."""
    return _at_least(_lines, "lines", lines)


@check("max_lines", {"lines": 6})
def max_lines(lines: int) -> Run:
    """At most `lines` lines that are not blank."""
    return _at_most(_lines, "lines", lines)


@check("lines_between", {"min": 2, "max": 6})
def lines_between(min: int, max: int) -> Run:
    """From `min` to `max` lines that are not blank."""
    return count_between(_lines, "lines", min, max)


@check("target_words", {"words": 50, "spread": 25}, graded=True)
def target_words(words: int, spread: int | None = None) -> Run:
    """Grade: 1 at `words` words, falling linearly to 0 at `spread` words more or fewer (default: `words`)."""
    if words < 1:
        raise ValueError(f"`words` must be at least 1, got {words}")
    width = words if spread is None else spread
    if width < 1:
        raise ValueError(f"`spread` must be at least 1, got {width}")

    def run(view: ResponseView) -> Verdict:
        count = len(view.words)
        return Verdict(Outcome.GRADED, max(0.0, 1 - abs(count - words) / width), f"{count} words, {words} aimed at")

    return run


@check("max_average_sentence", {"words": 20})
def max_average_sentence(words: float) -> Run:
    """At most `words` words a sentence on average."""
    return count_between(
        lambda view: len(view.words) / max(1, len(view.sentences)), "words a sentence", None, words, ("words", "words")
    )


@check("max_longest_sentence", {"words": 30})
def max_longest_sentence(words: int) -> Run:
    """No sentence of more than `words` words."""

    def longest(view: ResponseView) -> int:
        return max((len(split_words(sentence)) for sentence in view.sentences), default=0)

    return count_between(longest, "words in the longest sentence", None, words, ("words", "words"))
