"""Checks by lists of English words and phrases: person, apologies, hedging, openings. Heuristics (ours)."""

from __future__ import annotations

import re

from lightning_focal.judges.base import Verdict
from lightning_focal.judges.rules.registry import Run, check
from lightning_focal.judges.rules.verdicts import count_between, listed, verdict
from lightning_focal.judges.rules.view import ResponseView

__all__: list[str] = []

_FIRST_PERSON = frozenset((
    "i", "i'm", "i've", "i'd", "i'll", "me", "my", "mine", "myself",
    "we", "we're", "we've", "we'd", "we'll", "us", "our", "ours", "ourselves", "let's",
))  # fmt: skip
_ABBREVIATED = re.compile(r"\b[Ii]\.e\.|\bU\.S\.|\bUS\b")
_READER = frozenset(("you", "you're", "you've", "you'd", "you'll", "your", "yours", "yourself", "yourselves"))
_APOLOGIES = ("sorry", "apologise", "apologize", "apologies", "apology", "unfortunately", "regret", "forgive me")
_HEDGES = (
    "perhaps", "maybe", "might", "may be", "possibly", "probably", "presumably", "arguably", "could be", "i think", "i guess",
    "i believe", "i suppose", "it seems", "seems to", "appears to", "likely", "sort of", "kind of", "not sure", "not certain",
    "in some cases", "it depends", "generally speaking", "to some extent", "as far as i know",
)  # fmt: skip
_DISCLAIMERS = (
    "as an ai", "as a large language model", "as a language model", "i'm an ai", "i am an ai", "i'm just an ai",
    "i'm a language model", "i am a language model", "being an ai", "as an artificial intelligence",
)  # fmt: skip
_OPENINGS = (
    "sure", "certainly", "of course", "absolutely", "definitely", "great question", "good question", "excellent question",
    "that's a great question", "what a great question", "that is a great question", "thank you for", "thanks for",
    "i'd be happy to", "i would be happy to", "i'm happy to", "i'm glad you asked", "happy to help", "no problem",
    "here is", "here's", "here are", "okay", "ok", "alright",
)  # fmt: skip


def _none_of(phrases: tuple[str, ...], what: str) -> Run:
    def run(view: ResponseView) -> Verdict:
        found = [phrase for phrase in phrases if phrase in view.lower and view.occurrences(phrase)]
        return verdict(not found, f"{what}: {listed(found)}" if found else f"no {what}")

    return run


@check("no_first_person")
def no_first_person() -> Run:
    """No I, me, my, we, us, our and the like; `i.e.` and `US` aside."""

    def run(view: ResponseView) -> Verdict:
        found = sorted(_FIRST_PERSON & view.word_set)
        if found and set(found) <= {"i", "us"}:
            # the two that abbreviations hide in: look again without them
            again = ResponseView(view.messages, _ABBREVIATED.sub(" ", view.text))
            found = sorted(_FIRST_PERSON & again.word_set)
        return verdict(not found, f"first person: {listed(found)}" if found else "no first person")

    return run


@check("addresses_reader", {"min": 1})
def addresses_reader(min: int = 1) -> Run:
    """You, your, yours or yourself occurs at least `min` times."""
    return count_between(lambda view: sum(word in _READER for word in view.lower_words), "times you or your", min, None)


@check("no_apology")
def no_apology() -> Run:
    """No apology: sorry, apologise, unfortunately, regret and the like."""
    return _none_of(_APOLOGIES, "apology")


def _count_hedges(view: ResponseView) -> int:
    return sum(view.occurrences(phrase) for phrase in _HEDGES if phrase in view.lower)


@check("no_hedging")
def no_hedging() -> Run:
    """No hedging: perhaps, maybe, might, I think, it seems and the like."""
    return _none_of(_HEDGES, "hedging")


@check("hedging", {"min": 2})
def hedging(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` cautious words and phrases: perhaps, maybe, might, I think and the like."""
    return count_between(_count_hedges, "cautious words", min, max)


@check("no_ai_disclaimer")
def no_ai_disclaimer() -> Run:
    """No `as an AI`, `as a language model`, `I am an AI` and the like."""
    return _none_of(_DISCLAIMERS, "AI disclaimer")


@check("no_filler_opening")
def no_filler_opening() -> Run:
    """Does not open with Sure, Certainly, Of course, Great question, Here is and the like."""

    def run(view: ResponseView) -> Verdict:
        start = view.lower.lstrip("\"'“*_# ")
        found = next((p for p in _OPENINGS if start.startswith(p) and not start[len(p) : len(p) + 1].isalnum()), None)
        return verdict(found is None, "no filler opening" if found is None else f"opens with {found!r}")

    return run
