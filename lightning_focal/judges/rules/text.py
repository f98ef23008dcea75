"""Checks of what the text says: phrases, keywords, patterns, overlap with the prompt, lists of English words (heuristics, ours)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import regex

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Run, check, count_between, listed, negated, register, rule, several, verdict
from lightning_focal.judges.rules.script import OPENERS, count_characters, fold, ngrams, split_words
from lightning_focal.judges.rules.view import ResponseView, occurrences

__all__: list[str] = []


def _options(text: str | list[str], ignore_case: bool) -> tuple[str, ...]:
    return tuple(fold(option, ignore_case) for option in ([text] if isinstance(text, str) else text))


def _phrase(word: str) -> str:
    return fold(word).strip()


def _compared(view: ResponseView, ignore_case: bool) -> str:
    return view.lower if ignore_case else fold(view.text, False).strip()


@rule("exact", {"text": ["yes", "no"]})
def _exact(view: ResponseView, text: str | list[str], ignore_case: bool = False) -> Verdict:
    """The response, outer white space aside, is `text` (or one of them)."""
    met = _compared(view, ignore_case) in map(str.strip, _options(text, ignore_case))
    return verdict(met, "equal" if met else f"{len(view.stripped)} characters, not {listed(_options(text, False))}")


@rule("contains", {"text": "see a doctor"})
def _contains(view: ResponseView, text: str, ignore_case: bool = True) -> Verdict:
    """`text` occurs, also within a word."""
    met = fold(text, ignore_case) in fold(view.text, ignore_case)
    return verdict(met, f"{text!r} {'occurs' if met else 'does not occur'}")


@rule("not_contains", {"text": "guaranteed"})
def _not_contains(view: ResponseView, text: str, ignore_case: bool = True) -> Verdict:
    """`text` does not occur, not even within a word."""
    return negated(_contains(view, text, ignore_case))


@rule("starts_with", {"text": "Dear"})
def _starts_with(view: ResponseView, text: str | list[str], ignore_case: bool = True) -> Verdict:
    """The response starts with `text` (or one of them), outer white space aside."""
    return verdict(_compared(view, ignore_case).startswith(_options(text, ignore_case)), f"starts with {view.stripped[:30]!r}")


@rule("ends_with", {"text": ["Good luck!", "All the best!"]})
def _ends_with(view: ResponseView, text: str | list[str], ignore_case: bool = True) -> Verdict:
    """The response ends with `text` (or one of them), outer white space aside."""
    return verdict(_compared(view, ignore_case).endswith(_options(text, ignore_case)), f"ends with {view.stripped[-30:]!r}")


@check("keywords", {"words": ["protein", "fibre"], "at_least": 1})
def keywords(words: list[str], at_least: int | None = None) -> Run:
    """At least `at_least` of `words` (default: all) occur as whole words, whatever their case."""
    needed = len(words) if at_least is None else at_least
    if not 1 <= needed <= len(words):
        raise ValueError(f"`at_least` must be from 1 to the number of words ({len(words)}), got {needed}")
    phrases = [_phrase(word) for word in words]

    def run(view: ResponseView) -> Verdict:
        missing = [phrase for phrase in phrases if not occurrences(view.lower, phrase)]
        found = len(phrases) - len(missing)
        lacking = f"; missing {listed(missing)}" if missing else ""
        return verdict(found >= needed, f"{found} of {len(phrases)} keywords, at least {needed} asked{lacking}")

    return run


@check("any_keyword", {"words": ["budget", "cost"]})
def any_keyword(words: list[str]) -> Run:
    """One of `words` occurs as a whole word, whatever its case."""
    return keywords(words, 1)


@check("keyword_count", {"word": "water", "min": 2, "max": 4})
def keyword_count(word: str, min: int = 1, max: int | None = None) -> Run:
    """`word` occurs from `min` to `max` times as a whole word, whatever its case."""
    phrase = _phrase(word)
    if not phrase:
        raise ValueError(f"`word` must not be blank, got {word!r}")
    return count_between(lambda view: occurrences(view.lower, phrase), f"times {word!r}", min, max)


def _none_of(text: str, phrases: Sequence[str], what: str, otherwise: str) -> Verdict:
    found = [phrase for phrase in phrases if occurrences(text, phrase)]
    return verdict(not found, f"{what}: {listed(found)}" if found else otherwise)


@rule("forbidden_words", {"words": ["very", "really"]})
def _forbidden_words(view: ResponseView, words: list[str]) -> Verdict:
    """None of `words` occurs as a whole word, whatever its case."""
    return _none_of(view.lower, [_phrase(word) for word in words], "forbidden", f"none of {len(words)} forbidden words")


@check("regex", {"pattern": "^Answer: \\d+$"})
def regex_found(pattern: str, ignore_case: bool = False) -> Run:
    """`pattern` is found (`^` and `$` match at lines); a search that takes too long is an error, not a miss."""
    try:
        flags = regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0)
        compiled = regex.compile(unicodedata.normalize("NFC", pattern), flags)
    except regex.error as error:  # its text ends in "at position n"
        raise ValueError(f"`pattern` must be a regular expression, got {pattern!r} ({error})") from None

    def run(view: ResponseView) -> Verdict:
        try:
            found = compiled.search(unicodedata.normalize("NFC", view.text), timeout=view.regex_timeout)
        except TimeoutError:
            return Verdict(Outcome.ERROR, None, f"pattern {pattern!r} cut off after {view.regex_timeout:g} s")
        return verdict(found is not None, "pattern not found" if found is None else f"pattern found at character {found.start()}")

    return run


@check("not_regex", {"pattern": "https?://"})
def regex_not_found(pattern: str, ignore_case: bool = False) -> Run:
    """`pattern` is not found; a search that takes too long is an error, not a miss."""
    run = regex_found(pattern, ignore_case)
    return lambda view: negated(run(view))


_NO_LETTER = regex.compile(r"[^\p{L}\p{M}]")
_prompt_runs = lru_cache(maxsize=4096)(lambda words, length: frozenset(ngrams(words, length)))


@lru_cache(maxsize=4096)
def _long_words(words: tuple[str, ...], letters: int) -> frozenset[str]:
    return frozenset(word for word in words if count_characters(word) >= letters and not _NO_LETTER.search(word))


@rule("mentions_prompt", {"at_least": 2, "min_letters": 5}, least=1)
def _mentions_prompt(view: ResponseView, at_least: int = 1, min_letters: int = 5) -> Verdict:
    """`at_least` different words of the last user turn, each of `min_letters` letters or more, occur."""
    wanted = _long_words(view.prompt_words, min_letters)
    if len(wanted) < at_least:
        return Verdict(Outcome.NOT_APPLICABLE, None, f"the prompt has {len(wanted)} such words, {at_least} asked")
    found = len(wanted & view.word_set)
    return verdict(found >= at_least, f"{found} words of the prompt, at least {at_least} asked")


@rule("no_prompt_echo", {"words": 8}, least=1)
def _no_prompt_echo(view: ResponseView, words: int = 8) -> Verdict:
    """No run of `words` consecutive words is copied from the last user turn."""
    prompt = _prompt_runs(view.prompt_words, words)
    copied = sum(run in prompt for run in ngrams(view.lower_words, words))
    return verdict(not copied, f"{copied} runs of {words} words copied from the prompt")


_FIRST_PERSON = frozenset((
    "i", "i'm", "i've", "i'd", "i'll", "me", "my", "mine", "myself",
    "we", "we're", "we've", "we'd", "we'll", "us", "our", "ours", "ourselves", "let's",
))  # fmt: skip
_READER = frozenset(("you", "you're", "you've", "you'd", "you'll", "your", "yours", "yourself", "yourselves"))
_APOLOGIES = ["sorry", "apologise", "apologize", "apologies", "apology", "unfortunately", "regret", "forgive me"]
_HEDGES = [
    "perhaps", "maybe", "might", "may be", "possibly", "probably", "presumably", "arguably", "could be", "i think", "i guess",
    "i believe", "i suppose", "it seems", "seems to", "appears to", "likely", "sort of", "kind of", "not sure", "not certain",
    "in some cases", "it depends", "generally speaking", "to some extent", "as far as i know",
]  # fmt: skip
_DISCLAIMERS = [
    "as an ai", "as a large language model", "as a language model", "i'm an ai", "i am an ai", "i'm just an ai",
    "i'm a language model", "i am a language model", "being an ai", "as an artificial intelligence",
]  # fmt: skip
_OPENINGS = (
    "sure", "certainly", "of course", "absolutely", "definitely", "great question", "good question", "excellent question",
    "that's a great question", "what a great question", "that is a great question", "thank you for", "thanks for",
    "i'd be happy to", "i would be happy to", "i'm happy to", "i'm glad you asked", "happy to help", "no problem",
    "here is", "here's", "here are", "okay", "ok", "alright",
)  # fmt: skip


@rule("no_first_person")
def _no_first_person(view: ResponseView) -> Verdict:
    """No I, me, my, we, us, our and the like; `i.e.` and `US` aside."""
    found = sorted(_FIRST_PERSON & set(view.prose_words))
    if found == ["us"]:  # or the country
        found = sorted(_FIRST_PERSON & set(split_words(fold(view.prose.replace("US", "")))))
    return verdict(not found, f"first person: {listed(found)}" if found else "no first person")


@check("addresses_reader", {"min": 1})
def addresses_reader(min: int = 1) -> Run:
    """You, your, yours or yourself occurs at least `min` times."""
    return count_between(lambda view: sum(word in _READER for word in view.prose_words), "times you or your", min, None)


def _no_phrases(kind: str, phrases: Sequence[str], what: str, summary: str) -> None:
    register(kind, lambda: lambda view: _none_of(view.lower_prose, phrases, what, f"no {what}"), {}, summary)


_no_phrases("no_apology", _APOLOGIES, "apology", "No apology: sorry, apologise, unfortunately, regret and the like.")
_no_phrases("no_hedging", _HEDGES, "hedging", "No hedging: perhaps, maybe, might, I think, it seems and the like.")
_no_phrases("no_ai_disclaimer", _DISCLAIMERS, "AI disclaimer", "No `as an AI`, `as a language model`, `I am an AI` and the like.")
several("hedging", "cautious words", lambda view: sum(occurrences(view.lower_prose, word) for word in _HEDGES),
        " and phrases: perhaps, maybe, might, I think and the like", min=2)  # fmt: skip


@rule("no_filler_opening")
def _no_filler_opening(view: ResponseView) -> Verdict:
    """Does not open with Sure, Certainly, Of course, Great question, Here is and the like."""
    start = view.lower_prose.lstrip(OPENERS)
    found = next((p for p in _OPENINGS if start.startswith(p) and not start[len(p) : len(p) + 1].isalnum()), None)
    return verdict(found is None, "no filler opening" if found is None else f"opens with {found!r}")
