"""Checks of style: punctuation, case, characters, repetition, readability."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

import regex

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Count, Run, check, count_between, none, rule, several, verdict
from lightning_focal.judges.rules.view import ResponseView, ngrams

__all__: list[str] = []

_CLOSERS = " \t\n\"'”’)]}*_`"
_EMOJI = regex.compile(r"[\p{Extended_Pictographic}\p{Regional_Indicator}--[©®™]]", regex.VERSION1)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_QUOTATION = re.compile(r'"[^"\n]+"|“[^”\n]+”|«[^»\n]+»')
_SMALL_WORDS = frozenset(
    ("a", "an", "and", "as", "at", "but", "by", "for", "from", "in", "nor", "of", "on", "or", "the", "to", "vs", "with")
)
_QUESTION = ("?", "？")


def _marks(*marks: str) -> Count:
    return lambda view: sum(map(view.text.count, marks))


def _questions(view: ResponseView) -> int:
    return sum(sentence.rstrip(_CLOSERS).endswith(_QUESTION) for sentence in view.sentences)


def _last(view: ResponseView, allowed: tuple[str, ...]) -> Verdict:
    last = view.text.rstrip(_CLOSERS)[-1:]
    return verdict(last in allowed, f"last character {last!r}")


@rule("ends_with_question")
def _ends_with_question(view: ResponseView) -> Verdict:
    """The last character is a question mark; closing quotes, brackets and markup aside."""
    return _last(view, _QUESTION)


@rule("ends_with_punctuation")
def _ends_with_punctuation(view: ResponseView) -> Verdict:
    """The last character is `.`, `!`, `?` or `…`; closing quotes, brackets and markup aside."""
    return _last(view, tuple(".!?…。！？"))


def _quotations(view: ResponseView) -> int:
    return len(_QUOTATION.findall(view.text))


several("contains_question", "questions", _questions, ": sentences that end in a question mark", min=1)
none("no_question", "question marks", _marks(*_QUESTION))
none("no_exclamation", "exclamation marks", _marks("!", "！"))
none("no_commas", "commas", _marks(",", "，"))
several("quotation", "quotations", _quotations, ": passages in double quotation marks", min=1)


@rule("quoted")
def _quoted(view: ResponseView) -> Verdict:
    """The whole response stands in double quotation marks."""
    text = view.stripped
    met = len(text) > 2 and (text[0], text[-1]) in (('"', '"'), ("“", "”"))
    return verdict(met, f"starts with {text[:1]!r}, ends with {text[-1:]!r}")


def _case(view: ResponseView, wrong: str, met: bool) -> Verdict:
    if not any(char.isalpha() for char in view.text):
        return verdict(False, "no letters")
    return verdict(met, f"no {wrong} letters" if met else f"{wrong} letters occur")


@rule("lowercase")
def _lowercase(view: ResponseView) -> Verdict:
    """There are letters, and none is upper case."""
    return _case(view, "upper-case", view.text == view.text.lower())


@rule("uppercase")
def _uppercase(view: ResponseView) -> Verdict:
    """There are letters, and none is lower case."""
    return _case(view, "lower-case", view.text == view.text.upper())


@rule("title_case")
def _title_case(view: ResponseView) -> Verdict:
    """In the first line every word starts with a capital, small words (a, of, the ...) after the first aside."""
    words = [word for word in view.lines[0].split() if word[0].isalpha()] if view.lines else []
    wrong = [w for i, w in enumerate(words) if w[0].islower() and (i == 0 or w.lower() not in _SMALL_WORDS)]
    if not words:
        return verdict(False, "the first line has no words")
    return verdict(not wrong, f"{len(wrong)} of {len(words)} words of the first line start in lower case")


def _lower_case_starts(view: ResponseView) -> int:
    return sum(sentence.lstrip("\"'“‘([*_")[:1].islower() for sentence in view.sentences)


def _emoji(view: ResponseView) -> int:
    return 0 if view.text.isascii() else len(_EMOJI.findall(view.text))


def _numbers(view: ResponseView) -> int:
    return len({_value(number) for number in _NUMBER.findall(view.text)})


def _value(number: str) -> float | str:
    try:
        return float(number.replace(",", ""))
    except ValueError:  # 1.2.3
        return number


none("capitalised_sentences", "sentences in lower case", _lower_case_starts, ": each starts with something else")
several("emoji", "emoji", _emoji, min=1, max=3)
none("no_emoji", "emoji", _emoji)
none("ascii_only", "other characters", lambda view: sum(char > "\x7f" for char in view.text), " than ASCII")
none("no_digits", "digits", lambda view: sum(map(str.isdigit, view.text)))
several("distinct_numbers", "different numbers", _numbers, " in digits; 1,000 and 1000 are one number", min=2, max=5)


@check("contains_number")
def contains_number() -> Run:
    """A number in digits occurs."""
    return count_between(_numbers, "numbers", 1, None)


@rule("no_repeated_ngram", {"n": 4, "times": 1}, least=1)
def _no_repeated_ngram(view: ResponseView, n: int = 4, times: int = 1) -> Verdict:
    """No run of `n` words occurs more than `times` times."""
    most = max(Counter(ngrams(view.lower_words, n)).values(), default=0)
    return verdict(most <= times, f"{most} times the commonest run of {n} words, at most {times} allowed")


def _repeated_sentences(view: ResponseView) -> int:
    sentences = [sentence.lower().strip(_CLOSERS + ".!?…") for sentence in view.sentences]
    return len(sentences) - len(set(sentences))


none("no_repeated_sentence", "repeated sentences", _repeated_sentences, ", case and closing marks aside")


def _unique_share(view: ResponseView) -> float:
    return len(view.word_set) / max(1, len(view.lower_words))


@rule("unique_words", graded=True)
def _unique_words(view: ResponseView) -> Verdict:
    """Grade: the share of different words among all words."""
    reason = f"{len(view.word_set)} different of {len(view.lower_words)} words"
    return Verdict(Outcome.GRADED, _unique_share(view), reason)


@check("min_unique_words", {"ratio": 0.6})
def min_unique_words(ratio: float) -> Run:
    """The share of different words among all words is at least `ratio`."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"`ratio` must be from 0 to 1, got {ratio}")
    return count_between(_unique_share, "of the words are different", ratio, None)


@lru_cache(maxsize=65536)
def _syllables(word: str) -> int:
    groups = len(re.findall("[aeiouy]+", word))
    silent = groups > 1 and word.endswith("e") and not word.endswith(("le", "ee", "ie"))
    return max(1, groups - silent)


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
        words, sentences = len(view.lower_words) or 1, len(view.sentences) or 1
        ease = 206.835 - 1.015 * len(view.lower_words) / sentences - 84.6 * sum(map(_syllables, view.lower_words)) / words
        return verdict(low <= ease <= high, f"Flesch reading ease {ease:.1f}, {asked} asked")

    return run
