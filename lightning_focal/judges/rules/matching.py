"""Checks of what the text says: phrases, keywords, patterns, overlap with the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import regex

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Run, check
from lightning_focal.judges.rules.verdicts import count_between, listed, verdict
from lightning_focal.judges.rules.view import ResponseView

__all__: list[str] = []


def _options(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def _fold(text: str, ignore_case: bool) -> str:
    return text.casefold() if ignore_case else text


def _phrases(words: list[str]) -> list[str]:
    return [word.lower().replace("’", "'").strip() for word in words]


@check("exact", {"text": ["yes", "no"]})
def exact(text: str | list[str], ignore_case: bool = False) -> Run:
    """The response, outer white space aside, is `text` (or one of them)."""
    options = {_fold(option.strip(), ignore_case) for option in _options(text)}

    def run(view: ResponseView) -> Verdict:
        met = _fold(view.stripped, ignore_case) in options
        return verdict(met, "equal" if met else f"{len(view.stripped)} characters, not {listed(_options(text))}")

    return run


@check("contains", {"text": "see a doctor"})
def contains(text: str, ignore_case: bool = True) -> Run:
    """`text` occurs, also within a word."""
    wanted = _fold(text, ignore_case)

    def run(view: ResponseView) -> Verdict:
        met = wanted in _fold(view.text, ignore_case)
        return verdict(met, f"{text!r} {'occurs' if met else 'does not occur'}")

    return run


@check("not_contains", {"text": "guaranteed"})
def not_contains(text: str, ignore_case: bool = True) -> Run:
    """`text` does not occur, not even within a word."""
    unwanted = _fold(text, ignore_case)

    def run(view: ResponseView) -> Verdict:
        found = unwanted in _fold(view.text, ignore_case)
        return verdict(not found, f"{text!r} {'occurs' if found else 'does not occur'}")

    return run


def _keywords(words: list[str], at_least: int) -> Run:
    phrases = _phrases(words)

    def run(view: ResponseView) -> Verdict:
        missing = [phrase for phrase in phrases if not view.occurrences(phrase)]
        found = len(phrases) - len(missing)
        lacking = f"; missing {listed(missing)}" if missing else ""
        return verdict(found >= at_least, f"{found} of {len(phrases)} keywords, at least {at_least} asked{lacking}")

    return run


@check("keywords", {"words": ["protein", "fibre"], "at_least": 1})
def keywords(words: list[str], at_least: int | None = None) -> Run:
    """At least `at_least` of `words` (default: all) occur as whole words, whatever their case."""
    needed = len(words) if at_least is None else at_least
    if not 1 <= needed <= len(words):
        raise ValueError(f"`at_least` must be from 1 to the number of words ({len(words)}), got {needed}")
    return _keywords(words, needed)


@check("any_keyword", {"words": ["budget", "cost"]})
def any_keyword(words: list[str]) -> Run:
    """One of `words` occurs as a whole word, whatever its case."""
    return _keywords(words, 1)


@check("keyword_count", {"word": "water", "min": 2, "max": 4})
def keyword_count(word: str, min: int = 1, max: int | None = None) -> Run:
    """`word` occurs from `min` to `max` times as a whole word, whatever its case."""
    phrase = _phrases([word])[0]
    if not phrase:
        raise ValueError(f"`word` must not be blank, got {word!r}")
    return count_between(lambda view: view.occurrences(phrase), f"times {word!r}", min, max)


@check("forbidden_words", {"words": ["very", "really"]})
def forbidden_words(words: list[str]) -> Run:
    """None of `words` occurs as a whole word, whatever its case."""
    phrases = _phrases(words)

    def run(view: ResponseView) -> Verdict:
        found = [phrase for phrase in phrases if view.occurrences(phrase)]
        return verdict(not found, f"forbidden: {listed(found)}" if found else f"none of {len(phrases)} forbidden words")

    return run


def _compile(pattern: str, ignore_case: bool) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern, regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0))
    except regex.error as error:  # its text ends in "at position n"
        raise ValueError(f"`pattern` must be a regular expression, got {pattern!r} ({error})") from None


def _search(pattern: regex.Pattern[str], view: ResponseView, wanted: bool) -> Verdict:
    try:
        found = pattern.search(view.text, timeout=view.regex_timeout)
    except TimeoutError:
        return Verdict(Outcome.ERROR, None, f"pattern {pattern.pattern!r} cut off after {view.regex_timeout:g} s")
    if found is None:
        return verdict(not wanted, "pattern not found")
    return verdict(wanted, f"pattern found at character {found.start()}")


@check("regex", {"pattern": "^Answer: \\d+$"})
def regex_found(pattern: str, ignore_case: bool = False) -> Run:
    """`pattern` is found (`^` and `$` match at lines); a search that takes too long is an error, not a miss."""
    compiled = _compile(pattern, ignore_case)
    return lambda view: _search(compiled, view, True)


@check("not_regex", {"pattern": "https?://"})
def regex_not_found(pattern: str, ignore_case: bool = False) -> Run:
    """`pattern` is not found; a search that takes too long is an error, not a miss."""
    compiled = _compile(pattern, ignore_case)
    return lambda view: _search(compiled, view, False)


@check("starts_with", {"text": "Dear"})
def starts_with(text: str | list[str], ignore_case: bool = True) -> Run:
    """The response starts with `text` (or one of them), outer white space aside."""
    options = tuple(_fold(option, ignore_case) for option in _options(text))

    def run(view: ResponseView) -> Verdict:
        met = _fold(view.stripped, ignore_case).startswith(options)
        return verdict(met, f"starts with {view.stripped[:30]!r}")

    return run


@check("ends_with", {"text": ["Good luck!", "All the best!"]})
def ends_with(text: str | list[str], ignore_case: bool = True) -> Run:
    """The response ends with `text` (or one of them), outer white space aside."""
    options = tuple(_fold(option, ignore_case) for option in _options(text))

    def run(view: ResponseView) -> Verdict:
        met = _fold(view.stripped, ignore_case).endswith(options)
        return verdict(met, f"ends with {view.stripped[-30:]!r}")

    return run


@lru_cache(maxsize=4096)
def _long_words(words: tuple[str, ...], letters: int) -> frozenset[str]:
    return frozenset(word for word in words if len(word) >= letters and word.isalpha())


@check("mentions_prompt", {"at_least": 2, "min_letters": 5})
def mentions_prompt(at_least: int = 1, min_letters: int = 5) -> Run:
    """`at_least` different words of the last user turn, each of `min_letters` letters or more, occur."""
    if at_least < 1:
        raise ValueError(f"`at_least` must be at least 1, got {at_least}")

    def run(view: ResponseView) -> Verdict:
        wanted = _long_words(view.prompt_words, min_letters)
        if len(wanted) < at_least:
            return Verdict(Outcome.NOT_APPLICABLE, None, f"the prompt has {len(wanted)} such words, {at_least} asked")
        found = len(wanted & view.word_set)
        return verdict(found >= at_least, f"{found} words of the prompt, at least {at_least} asked")

    return run


@lru_cache(maxsize=4096)
def _runs(words: tuple[str, ...], length: int) -> frozenset[tuple[str, ...]]:
    return frozenset(_ngrams(words, length))


def _ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(length)), strict=False))


@check("no_prompt_echo", {"words": 8})
def no_prompt_echo(words: int = 8) -> Run:
    """No run of `words` consecutive words is copied from the last user turn."""
    if words < 1:
        raise ValueError(f"`words` must be at least 1, got {words}")

    def run(view: ResponseView) -> Verdict:
        prompt = _runs(view.prompt_words, words)
        copied = sum(gram in prompt for gram in _ngrams(view.lower_words, words)) if prompt else 0
        return verdict(not copied, f"{copied} runs of {words} words copied from the prompt")

    return run
