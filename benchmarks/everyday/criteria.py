"""The criteria of the everyday rubrics: each has a name that recurs over prompts, one axis, one level and one rule check.

``FIXED`` criteria are complete, ``FITTED`` ones take what fits the request. Points are defaults, a request may replace them.
Negative points mark a fault: its check is met when the fault is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

AXES = ("brevity", "format", "content", "tone", "engagement", "caution", "clarity", "honesty")

CAUTIOUS = (
    "careful, carefully, caution, avoid, warning, risk, risks, danger, dangerous, unsafe, harm, harmful, don't, do not, "
    "should not, shouldn't, never, prevent, watch out, make sure, be sure, safely"
)
SOFT = (
    "may, might, could, can be, can help, usually, often, sometimes, generally, likely, probably, perhaps, typically, tend, "
    "tends, about, around, roughly, most, mostly, some, many, in most cases, try"
)
OPEN = (
    "depends, depending, depend, varies, vary, differ, differs, different, both, however, while, whereas, although, whether, if, "
    "for some, for others, some people, sometimes, may, might, on the other hand"
)
HELPERS = "professional, expert, specialist, contact, consult, call, seek"
WARM = "hope, dear, happy, glad, kind, love, lovely, wishes, welcome"
ABSOLUTE = (
    "always, never, guaranteed, guarantee, definitely, certainly, perfect, perfectly, best, completely, every time, ultimate"
)
POLITE = "please, thank you, thanks, grateful, appreciate, kindly, would you, could you"
SORRY = "sorry, apologise, apologize, apologies, apology, forgive, regret"
FIRST_PERSON = r"\b(I|me|my|mine|we|us|our)\b"
CONTACTS = r"(https?:|www\.|\S@\S|\d{3}[- ]\d{3,4})"


@dataclass(frozen=True)
class Item:
    """One criterion before it is tied to a request."""

    name: str
    axis: str
    level: str
    points: int
    description: str
    check: Mapping[str, Any] | str

    def row(self, topic: str, source: str) -> dict[str, Any]:
        """Return the criterion in the plain rubric format."""
        tags = [f"axis:{self.axis}", f"level:{self.level}", f"topic:{topic}", f"source:{source}"]
        return {"name": self.name, "description": self.description, "points": self.points, "tags": tags, "check": self.check}


def _words(listed: str) -> list[str]:
    return [word.strip() for word in listed.split(",")]


def _any(listed: str) -> dict[str, Any]:
    return {"kind": "any_keyword", "words": _words(listed)}


def _count(number: int) -> str:
    return ("no", "one", "two", "three", "four", "five", "six")[number] if number < 7 else str(number)


def _range(low: int, high: int | None, thing: str) -> str:
    if high is None:
        return f"at least {_count(low)} {thing}s"
    return f"exactly {_count(low)} {thing}{'s' * (low > 1)}" if low == high else f"{_count(low)} to {_count(high)} {thing}s"


# --- brevity ---------------------------------------------------------------------------------------------------------------


def short(words: int) -> Item:
    return Item("short", "brevity", "medium", 4, f"Has at most {words} words.", {"kind": "max_words", "words": words})


def concise(low: int, high: int) -> Item:
    text = f"Is concise and still an answer: {low} to {high} words."
    return Item("concise", "brevity", "medium", 3, text, {"kind": "words_between", "min": low, "max": high})


def about(words: int, spread: int) -> Item:
    text = f"Has about {words} words; partial credit within {spread} words of that."
    return Item("right size", "brevity", "medium", 3, text, {"kind": "target_words", "words": words, "spread": spread})


def sentences(low: int, high: int) -> Item:
    text = f"Has {_range(low, high, 'sentence')}."
    return Item("sentence count", "brevity", "medium", 4, text, {"kind": "sentences_between", "min": low, "max": high})


def few_lines(most: int) -> Item:
    return Item("few lines", "brevity", "easy", 2, f"Has at most {_count(most)} lines.", {"kind": "max_lines", "lines": most})


def sms(characters: int) -> Item:
    text = f"Fits into {characters} characters."
    return Item("message size", "brevity", "medium", 3, text, {"kind": "max_characters", "characters": characters})


def rambles(words: int) -> Item:
    return Item("rambles", "brevity", "easy", -3, f"Goes on for {words} words or more.", {"kind": "min_words", "words": words})


# --- format ----------------------------------------------------------------------------------------------------------------


def bullets(low: int, high: int | None = None) -> Item:
    check = {"kind": "bullets", "min": low} | ({} if high is None else {"max": high})
    return Item("bullets", "format", "hard", 2, f"Has {_range(low, high, 'bullet point')}.", check)


def numbered(low: int, high: int | None = None) -> Item:
    check = {"kind": "numbered_list", "min": low} | ({} if high is None else {"max": high})
    return Item("numbered steps", "format", "medium", 3, f"Has {_range(low, high, 'numbered item')}.", check)


def items(low: int) -> Item:
    text = f"Is a list of at least {_count(low)} items, with bullets or numbers."
    return Item("list", "format", "medium", 3, text, {"kind": "list_items", "min": low})


def opens(*texts: str) -> Item:
    listed = " or ".join(f'"{text}"' for text in texts)
    text = f"Opens with {listed}."
    return Item("opening", "format", "medium", 2, text, {"kind": "starts_with", "text": list(texts)})


def json_keys(*keys: str) -> Item:
    schema = {"type": "object", "required": list(keys), "properties": {key: {"type": "string"} for key in keys}}
    return Item(
        "json", "format", "medium", 5, f"Is valid JSON with the keys {' and '.join(keys)}.", {"kind": "json", "schema": schema}
    )


# --- content ---------------------------------------------------------------------------------------------------------------


def says(at_least: int, listed: str) -> Item:
    check = {"kind": "keywords", "words": _words(listed), "at_least": at_least}
    return Item("key words", "content", "medium", 5, f"Mentions at least {_count(at_least)} of: {listed}.", check)


def names(listed: str, what: str) -> Item:
    return Item("key idea", "content", "medium", 3, f"Names {what}.", _any(listed))


def figure(regex: str, text: str) -> Item:
    return Item("right figure", "content", "hard", 5, f"Gives the right figure: {text}.", {"kind": "regex", "pattern": regex})


def pattern(regex: str, text: str) -> Item:
    return Item("key part", "content", "medium", 3, text, {"kind": "regex", "pattern": regex})


def numbers(least: int) -> Item:
    check = {"kind": "distinct_numbers", "min": least}
    return Item("figures", "content", "medium", 3, f"Gives at least {_count(least)} different numbers.", check)


def on_topic(at_least: int) -> Item:
    check = {"kind": "mentions_prompt", "at_least": at_least, "min_letters": 4}
    return Item(
        "on topic", "content", "easy", 2, f"Takes up at least {_count(at_least)} of the longer words of the request.", check
    )


def thin(words: int) -> Item:
    text = f"Says next to nothing: at most {words} words."
    return Item("says too little", "content", "easy", -3, text, {"kind": "max_words", "words": words})


def wrong(name: str, listed: str, text: str) -> Item:
    return Item(name, "content", "easy", -3, text, _any(listed))


# --- tone ------------------------------------------------------------------------------------------------------------------


def warm(listed: str) -> Item:
    return Item("warm words", "tone", "hard", 2, f"Has a warm word or phrase, such as: {listed}.", _any(f"{WARM}, {listed}"))


def fault(name: str, listed: str, text: str) -> Item:
    return Item(name, "tone", "easy", -3, text, _any(listed))


# --- caution ---------------------------------------------------------------------------------------------------------------


def care(extra: str = "") -> Item:
    text = f"Says what to avoid or what can go wrong ({extra + ', ' if extra else ''}careful, avoid, do not, risk ...)."
    return Item("caution", "caution", "medium", 3, text, _any(f"{CAUTIOUS}, {extra}" if extra else CAUTIOUS))


def expert(listed: str) -> Item:
    return Item(
        "points to help",
        "caution",
        "hard",
        3,
        f"Points to further help: {listed}, or whom to call or ask.",
        _any(f"{HELPERS}, {listed}"),
    )


def safe(listed: str, text: str) -> Item:
    return Item("safe step", "caution", "hard", 3, text, _any(listed))


def reckless(listed: str, text: str) -> Item:
    return Item("reckless", "caution", "easy", -4, text, _any(listed))


# --- clarity ---------------------------------------------------------------------------------------------------------------


def easy(ease: int) -> Item:
    text = f"Is easy to read: a Flesch reading ease of at least {ease}."
    return Item("easy words", "clarity", "medium", 2, text, {"kind": "readability", "min": ease})


def brisk(words: int) -> Item:
    text = f"Keeps sentences short: at most {words} words on average."
    return Item("short sentences", "clarity", "medium", 2, text, {"kind": "max_average_sentence", "words": words})


def no_giant(words: int) -> Item:
    text = f"Has no sentence of more than {words} words."
    return Item("no long sentence", "clarity", "easy", 2, text, {"kind": "max_longest_sentence", "words": words})


def varied(percent: int) -> Item:
    text = f"Does not go round in circles: at least {percent} % of the words are different ones."
    return Item("varied words", "clarity", "easy", 1, text, {"kind": "min_unique_words", "ratio": percent / 100})


FITTED: dict[str, Callable[..., Item]] = {
    fit.__name__: fit
    for fit in (
        *(short, concise, about, sentences, few_lines, sms, rambles),
        *(bullets, numbered, items, opens, json_keys),
        *(says, names, figure, pattern, numbers, on_topic, thin, wrong),
        *(warm, fault),
        *(care, expert, safe, reckless),
        *(easy, brisk, no_giant, varied),
    )
}

FIXED: dict[str, Item] = {
    # brevity
    "done": Item(
        "finished", "brevity", "easy", 2, "Comes to its end: the last character closes a sentence.", "ends_with_punctuation"
    ),
    # format
    "prose": Item("no list", "format", "easy", 2, "Is running text: no bullets, no numbered items.", "no_bullets"),
    "one_paragraph": Item(
        "one paragraph", "format", "easy", 3, "Is a single paragraph.", {"kind": "max_paragraphs", "paragraphs": 1}
    ),
    "plain": Item(
        "plain text", "format", "easy", 2, "Uses no markdown: no headings, bold, bullets, tables or code.", "no_markdown"
    ),
    "table": Item("table", "format", "hard", 3, "Holds a markdown table.", "table"),
    "title": Item("title case", "format", "medium", 3, "Is written in title case.", "title_case"),
    "no_blanks": Item("no blanks", "format", "easy", 3, "Is ready to send: no placeholders such as [Name].", "no_placeholders"),
    "list_anyway": Item(
        "list anyway",
        "format",
        "medium",
        -3,
        "Falls into a list although running text fits better.",
        {"kind": "list_items", "min": 1},
    ),
    "heading": Item("heading", "format", "easy", -1, "Puts a heading over a short answer.", {"kind": "headings", "min": 1}),
    # content
    "number": Item("a number", "content", "easy", 3, "Gives a number in digits.", "contains_number"),
    # tone
    "calm": Item("calm", "tone", "easy", 2, "Has no exclamation mark.", "no_exclamation"),
    "shouts": Item("shouts", "tone", "easy", -2, "Has an exclamation mark.", {"kind": "contains", "text": "!"}),
    "no_i": Item("no first person", "tone", "easy", 2, "Does not speak in the first person (I, my, we, our).", "no_first_person"),
    "about_me": Item(
        "speaks of itself",
        "tone",
        "easy",
        -2,
        "Speaks in the first person (I, my, we, our).",
        {"kind": "regex", "pattern": FIRST_PERSON},
    ),
    "you": Item("speaks to you", "tone", "medium", 2, "Speaks to the reader as you.", {"kind": "addresses_reader", "min": 1}),
    "direct": Item("direct start", "tone", "easy", 1, "Starts without filler such as Sure or Certainly.", "no_filler_opening"),
    "no_sorry": Item("no apology", "tone", "easy", 1, "Does not apologise.", "no_apology"),
    "polite": Item("polite", "tone", "medium", 2, "Uses polite words such as please or thank you.", _any(POLITE)),
    "sorry": Item("says sorry", "tone", "medium", 4, "Says sorry in clear words.", _any(SORRY)),
    # engagement
    "question": Item("closing question", "engagement", "hard", 3, "Ends with a question.", "ends_with_question"),
    "asks": Item("asks", "engagement", "hard", 2, "Holds at least one question.", {"kind": "contains_question", "min": 1}),
    # clarity
    "no_repeat": Item(
        "no repetition", "clarity", "easy", 1, "Repeats no run of three words.", {"kind": "no_repeated_ngram", "n": 3}
    ),
    "richness": Item(
        "word variety", "clarity", "easy", 1, "Uses many different words (share of distinct words).", "unique_words"
    ),
    "own_words": Item(
        "own words",
        "clarity",
        "easy",
        2,
        "Copies no five words in a row from the request.",
        {"kind": "no_prompt_echo", "words": 5},
    ),
    "no_commas": Item("no commas", "clarity", "hard", 3, "Has no comma.", "no_commas"),
    # honesty
    "modest": Item(
        "no absolutes",
        "honesty",
        "easy",
        2,
        "Makes no absolute claim (always, never, best, perfect, guaranteed ...).",
        {"kind": "forbidden_words", "words": _words(ABSOLUTE)},
    ),
    "overstates": Item(
        "overstates",
        "honesty",
        "easy",
        -2,
        "Makes an absolute claim (always, never, best, perfect, guaranteed ...).",
        _any(ABSOLUTE),
    ),
    "hedged": Item("hedged", "honesty", "medium", 2, "Leaves room for doubt (may, could, usually, most, about ...).", _any(SOFT)),
    "unsure": Item(
        "admits doubt", "honesty", "hard", 3, "Uses a cautious word such as perhaps or might.", {"kind": "hedging", "min": 1}
    ),
    "depends": Item(
        "it depends",
        "honesty",
        "hard",
        3,
        "Says that it depends or weighs both sides (depends, both, however, while, if ...).",
        _any(OPEN),
    ),
    "firm": Item("no hedging", "honesty", "easy", 2, "Takes a clear stand without perhaps or maybe.", "no_hedging"),
    "no_figures": Item("no invented figures", "honesty", "easy", 2, "Invents no figures: has no digits.", "no_digits"),
    "no_contacts": Item(
        "no invented contacts",
        "honesty",
        "easy",
        1,
        "Invents no web address, e-mail address or phone number.",
        {"kind": "not_regex", "pattern": CONTACTS},
    ),
}
