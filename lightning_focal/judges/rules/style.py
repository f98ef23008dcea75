"""Checks of style that need no list of phrases: punctuation, case, characters, repetition, readability."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

import regex

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Run, check
from lightning_focal.judges.rules.verdicts import count_between, verdict
from lightning_focal.judges.rules.view import ResponseView

__all__: list[str] = []

_CLOSERS = " \t\n\"'”’)]}*_`"
_EMOJI = regex.compile(r"[\p{Extended_Pictographic}\p{Regional_Indicator}--[©®™]]", regex.VERSION1)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_VOWELS = re.compile(r"[aeiouy]+")
_SMALL_WORDS = frozenset(
    ("a", "an", "and", "as", "at", "but", "by", "for", "from", "in", "nor", "of", "on", "or", "the", "to", "vs", "with")
)
_QUOTATION = re.compile(r'"[^"\n]+"|“[^”\n]+”|«[^»\n]+»')


def _questions(view: ResponseView) -> int:
    if "?" not in view.text and "？" not in view.text:
        return 0
    return sum(sentence.rstrip(_CLOSERS).endswith(("?", "？")) for sentence in view.sentences)


@check("ends_with_question")
def ends_with_question() -> Run:
    """The last character is a question mark; closing quotes, brackets and markup aside."""

    def run(view: ResponseView) -> Verdict:
        last = view.text.rstrip(_CLOSERS)[-1:]
        return verdict(last in ("?", "？"), f"last character {last!r}")

    return run


@check("contains_question", {"min": 1})
def contains_question(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` sentences end in a question mark."""
    return count_between(_questions, "questions", min, max)


@check("no_question")
def no_question() -> Run:
    """No question mark."""
    return count_between(lambda view: view.text.count("?") + view.text.count("？"), "question marks", None, 0)


@check("no_exclamation")
def no_exclamation() -> Run:
    """No exclamation mark."""
    return count_between(lambda view: view.text.count("!") + view.text.count("！"), "exclamation marks", None, 0)


@check("no_commas")
def no_commas() -> Run:
    """No comma."""
    return count_between(lambda view: view.text.count(",") + view.text.count("，"), "commas", None, 0)


@check("ends_with_punctuation")
def ends_with_punctuation() -> Run:
    """The last character is `.`, `!`, `?` or `…`; closing quotes, brackets and markup aside."""

    def run(view: ResponseView) -> Verdict:
        last = view.text.rstrip(_CLOSERS)[-1:]
        return verdict(bool(last) and last in ".!?…。！？", f"last character {last!r}")

    return run


@check("quoted")
def quoted() -> Run:
    """The whole response stands in double quotation marks."""

    def run(view: ResponseView) -> Verdict:
        text = view.stripped
        met = len(text) > 2 and (text[0], text[-1]) in (('"', '"'), ("“", "”"))
        return verdict(met, f"starts with {text[:1]!r}, ends with {text[-1:]!r}")

    return run


@check("quotation", {"min": 1})
def quotation(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` passages stand in double quotation marks."""
    return count_between(lambda view: len(_QUOTATION.findall(view.text)), "quotations", min, max)


def _case(view: ResponseView, wrong: str, met: bool) -> Verdict:
    if not any(char.isalpha() for char in view.text):
        return verdict(False, "no letters")
    return verdict(met, f"no {wrong} letters" if met else f"{wrong} letters occur")


@check("lowercase")
def lowercase() -> Run:
    """There are letters, and none is upper case."""
    return lambda view: _case(view, "upper-case", view.text == view.text.lower())


@check("uppercase")
def uppercase() -> Run:
    """There are letters, and none is lower case."""
    return lambda view: _case(view, "lower-case", view.text == view.text.upper())


@check("title_case")
def title_case() -> Run:
    """In the first line every word starts with a capital, small words (a, of, the ...) after the first aside."""

    def run(view: ResponseView) -> Verdict:
        words = [word for word in view.lines[0].split() if word[0].isalpha()] if view.lines else []
        wrong = [w for i, w in enumerate(words) if w[0].islower() and (i == 0 or w.lower() not in _SMALL_WORDS)]
        if not words:
            return verdict(False, "the first line has no words")
        return verdict(not wrong, f"{len(wrong)} of {len(words)} words of the first line start in lower case")

    return run


@check("capitalised_sentences")
def capitalised_sentences() -> Run:
    """No sentence starts with a lower-case letter."""

    def count(view: ResponseView) -> int:
        return sum(sentence.lstrip("\"'“‘([*_")[:1].islower() for sentence in view.sentences)

    return count_between(count, "sentences in lower case", None, 0)


def _emoji(view: ResponseView) -> int:
    return 0 if view.text.isascii() else len(_EMOJI.findall(view.text))


@check("emoji", {"min": 1, "max": 3})
def emoji(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` emoji."""
    return count_between(_emoji, "emoji", min, max)


@check("no_emoji")
def no_emoji() -> Run:
    """No emoji."""
    return count_between(_emoji, "emoji", None, 0)


@check("ascii_only")
def ascii_only() -> Run:
    """ASCII characters alone."""
    return count_between(lambda v: 0 if v.text.isascii() else sum(c > "\x7f" for c in v.text), "other characters", None, 0)


def _numbers(view: ResponseView) -> int:
    return len({_value(number) for number in _NUMBER.findall(view.text)})


def _value(number: str) -> float | str:
    try:
        return float(number.replace(",", ""))
    except ValueError:
        return number


@check("contains_number")
def contains_number() -> Run:
    """A number in digits occurs."""
    return count_between(_numbers, "numbers", 1, None)


@check("no_digits")
def no_digits() -> Run:
    """No digit."""
    return count_between(lambda view: sum(char.isdigit() for char in view.text), "digits", None, 0)


@check("distinct_numbers", {"min": 2, "max": 5})
def distinct_numbers(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` different numbers in digits; 1,000 and 1000 are one number."""
    return count_between(_numbers, "different numbers", min, max)


@check("no_repeated_ngram", {"n": 4, "times": 1})
def no_repeated_ngram(n: int = 4, times: int = 1) -> Run:
    """No run of `n` words occurs more than `times` times."""
    for name, value in (("n", n), ("times", times)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")

    def most(view: ResponseView) -> int:
        words = view.lower_words
        return max(Counter(zip(*(words[i:] for i in range(n)), strict=False)).values(), default=0)

    return count_between(most, f"times the commonest run of {n} words", None, times)


@check("no_repeated_sentence")
def no_repeated_sentence() -> Run:
    """No sentence occurs twice, case and closing marks aside."""

    def count(view: ResponseView) -> int:
        sentences = [sentence.lower().strip(_CLOSERS + ".!?…") for sentence in view.sentences]
        return len(sentences) - len(set(sentences))

    return count_between(count, "repeated sentences", None, 0)


def _unique_share(view: ResponseView) -> float:
    return len(view.word_set) / max(1, len(view.lower_words))


@check("unique_words", graded=True)
def unique_words() -> Run:
    """Grade: the share of different words among all words."""

    def run(view: ResponseView) -> Verdict:
        reason = f"{len(view.word_set)} different of {len(view.lower_words)} words"
        return Verdict(Outcome.GRADED, _unique_share(view), reason)

    return run


@check("min_unique_words", {"ratio": 0.6})
def min_unique_words(ratio: float) -> Run:
    """The share of different words among all words is at least `ratio`."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"`ratio` must be from 0 to 1, got {ratio}")
    return count_between(_unique_share, "of the words are different", ratio, None)


@lru_cache(maxsize=65536)
def _syllables(word: str) -> int:
    groups = len(_VOWELS.findall(word))
    silent = groups > 1 and word.endswith("e") and not word.endswith(("le", "ee", "ie"))
    return max(1, groups - silent)


def _flesch(view: ResponseView) -> float:
    words = view.lower_words
    syllables = sum(map(_syllables, words))
    return 206.835 - 1.015 * len(words) / max(1, len(view.sentences)) - 84.6 * syllables / max(1, len(words))


@check("readability", {"min": 60})
def readability(min: float | None = None, max: float | None = None) -> Run:
    """Flesch reading ease from `min` to `max` (higher is easier): a heuristic for English, syllables are guessed.

    ``206.835 - 1.015 words/sentences - 84.6 syllables/words`` (Flesch 1948);
    syllables are groups of vowels, a silent final e aside.
    """
    if min is None and max is None:
        raise ValueError("`min` or `max` must be given, got neither")
    low, high = -math.inf if min is None else min, math.inf if max is None else max
    if low > high:
        raise ValueError(f"`min` must be at most `max` ({high:g}), got {low:g}")
    asked = " and ".join([f"at least {low:g}"] * (min is not None) + [f"at most {high:g}"] * (max is not None))

    def run(view: ResponseView) -> Verdict:
        ease = _flesch(view)
        return verdict(low <= ease <= high, f"Flesch reading ease {ease:.1f}, {asked} asked")

    return run
