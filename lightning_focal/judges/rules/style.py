"""Checks of style: punctuation, case, characters, repetition, readability."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

import regex

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Count, Run, check, count_between, none, register, rule, several, verdict
from lightning_focal.judges.rules.script import CLOSERS, OPENERS, asks, count_emoji, count_marks, fold, ngrams
from lightning_focal.judges.rules.view import ResponseView

__all__: list[str] = []

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_QUOTES = ('""', "“”", "„“", "„”", "””", "«»", "»«", "「」", "『』")
_QUOTATION = re.compile("|".join(f"{pair[0]}[^{pair}\\n]+{pair[1]}" for pair in _QUOTES))
_SMALL_WORDS = frozenset(
    ("a", "an", "and", "as", "at", "but", "by", "for", "from", "in", "nor", "of", "on", "or", "the", "to", "vs", "with")
)
_ENDS = regex.compile(r"[\p{STerm}…]")


def _marks(name: str) -> Count:
    return lambda view: count_marks(view.prose, name)


def _last(view: ResponseView) -> str:
    return view.text.rstrip(CLOSERS)[-1:]


@rule("ends_with_question")
def _ends_with_question(view: ResponseView) -> Verdict:
    """The last sentence ends in a question mark, of any script; closing quotes, brackets and markup aside."""
    ends = view.sentences[-1:]
    return verdict(bool(ends) and asks(ends[0]), f"last character {_last(view)!r}")


@rule("ends_with_punctuation")
def _ends_with_punctuation(view: ResponseView) -> Verdict:
    """The last character ends a sentence, such as `.`, `!`, `?`, `…` or `。`; closing quotes, brackets and markup aside."""
    last = _last(view)
    return verdict(_ENDS.match(last) is not None or asks(view.text[-80:]), f"last character {last!r}")


several("contains_question", "questions", lambda view: sum(map(asks, view.sentences)),
        ": sentences that end in a question mark", min=1)  # fmt: skip
none("no_question", "question marks", _marks("QUESTION MARK"), " of any script; code aside")
none("no_exclamation", "exclamation marks", _marks("EXCLAMATION MARK"), " of any script; code aside")
none("no_commas", "commas", _marks("COMMA"), " of any script; code aside")
several("quotation", "quotations", lambda view: len(_QUOTATION.findall(view.prose)),
        ": passages in double quotation marks", min=1)  # fmt: skip


@rule("quoted")
def _quoted(view: ResponseView) -> Verdict:
    """The whole response stands in double quotation marks."""
    text = view.stripped
    met = len(text) > 2 and text[0] + text[-1] in _QUOTES
    return verdict(met, f"starts with {text[:1]!r}, ends with {text[-1:]!r}")


def _case(view: ResponseView, wrong: str, met: bool) -> Verdict:
    if view.text.lower() == view.text.upper():
        return verdict(False, "no letters that have a case")
    return verdict(met, f"no {wrong} letters" if met else f"{wrong} letters occur")


@rule("lowercase")
def _lowercase(view: ResponseView) -> Verdict:
    """There are letters that have a case, and none is upper case."""
    return _case(view, "upper-case", view.text == view.text.lower())


@rule("uppercase")
def _uppercase(view: ResponseView) -> Verdict:
    """There are letters that have a case, and none is lower case."""
    return _case(view, "lower-case", view.text == view.text.upper())


@rule("title_case")
def _title_case(view: ResponseView) -> Verdict:
    """In the first line every word starts with a capital, small words (a, of, the ...) after the first aside."""
    starts = [word.lstrip(OPENERS) for word in (view.lines[0].split() if view.lines else [])]
    words = [word for word in starts if word[:1].isalpha()]
    wrong = [w for i, w in enumerate(words) if _starts_low(w) and (i == 0 or w.lower().rstrip(CLOSERS) not in _SMALL_WORDS)]
    if not words:
        return verdict(False, "the first line has no words")
    return verdict(not wrong, f"{len(wrong)} of {len(words)} words of the first line start in lower case")


def _starts_low(text: str) -> bool:
    """Say whether a text starts with a small letter that has a capital; those of Georgian have none."""
    return text[:1].islower() and text[0] != text[0].title()


def _lower_case_starts(view: ResponseView) -> int:
    return sum(_starts_low(sentence.lstrip(OPENERS.replace("`", ""))) for sentence in view.sentences)


def _emoji(view: ResponseView) -> int:
    return count_emoji(view.text)


def _numbers(view: ResponseView) -> int:
    return len({_value(number) for number in _NUMBER.findall(view.text)})


def _value(number: str) -> float | str:
    parted = re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", number)
    try:
        return float(number.replace(",", "" if parted else "."))
    except ValueError:  # 1.2.3
        return number


none("capitalised_sentences", "sentences in lower case", _lower_case_starts, ": each starts with something else")
several("emoji", "emoji", _emoji, min=1, max=3)
none("no_emoji", "emoji", _emoji)
none("ascii_only", "other characters", lambda view: sum(char > "\x7f" for char in view.text), " than ASCII")
none("no_digits", "digits", lambda view: sum(map(str.isdigit, view.text)))
several("distinct_numbers", "different numbers", _numbers, " in digits; 1,000 and 1000 are one number", min=2, max=5)


register("contains_number", lambda: count_between(_numbers, "numbers", 1, None), {}, "A number in digits occurs.")


@rule("no_repeated_ngram", {"n": 4, "times": 1}, least=1)
def _no_repeated_ngram(view: ResponseView, n: int = 4, times: int = 1) -> Verdict:
    """No run of `n` words occurs more than `times` times."""
    most = max(Counter(ngrams(view.lower_words, n)).values(), default=0)
    return verdict(most <= times, f"{most} times the commonest run of {n} words, at most {times} allowed")


def _repeated_sentences(view: ResponseView) -> int:
    sentences = [_ENDS.sub("", fold(sentence)).strip(CLOSERS) for sentence in view.sentences]
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

    ``206.835 - 1.015 words/sentences - 84.6 syllables/words`` (Flesch 1948); syllables are groups of vowels, a silent final e aside.
    """
    if min is None and max is None:
        raise ValueError("`min` or `max` must be given, got neither")
    low, high = -math.inf if min is None else min, math.inf if max is None else max
    if low > high:
        raise ValueError(f"`min` must be at most `max` ({high:g}), got {low:g}")
    asked = " and ".join([f"at least {low:g}"] * (min is not None) + [f"at most {high:g}"] * (max is not None))

    def run(view: ResponseView) -> Verdict:
        words, sentences = len(view.prose_words) or 1, len(view.sentences) or 1
        ease = 206.835 - 1.015 * len(view.prose_words) / sentences - 84.6 * sum(map(_syllables, view.prose_words)) / words
        return verdict(low <= ease <= high, f"Flesch reading ease {ease:.1f}, {asked} asked")

    return run
