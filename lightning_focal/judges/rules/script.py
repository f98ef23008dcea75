"""Text of every script: one character, one word, one sentence, and when two writings are the same.

Characters are the grapheme clusters and words the word segments of Unicode (UAX #29), with these rules of ours:

* inner hyphens, at signs and the rest of a URL belong to a word, a colon does not;
* scripts that part no words (Han, Hiragana, Thai, Lao, Khmer, Burmese) have a word a character, Katakana a word a run;
* emoji are no words.

Sentences end at the marks that Unicode calls ``Sentence_Terminal``, at an ellipsis, at a Greek question mark (``;``) and at an Armenian
colon. A Latin mark needs white space behind it, others do not. Abbreviations are a heuristic of ours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import regex

__all__ = ["CLOSERS", "OPENERS", "asks", "count_characters", "count_emoji", "count_marks", "fold", "joins", "ngrams"]
__all__ += ["sentences_of", "split_words"]

_OTHER_SCRIPT = re.compile("[\xad\u0300-\u03ff\u0483-\u0489\u0530-\u1dff\u200b-\u200f\u202a-\u202e\u203c-\u203d\u2047-\u2049\u2060-\u206f"
                           "\u20d0-\u20ff\u2c00-\U0010ffff]")  # fmt: skip
"""What a text of Latin and Cyrillic letters and common punctuation does not hold: without it the quick patterns are right."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{lb=SA}"
_INSIDE = r"\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}"
_LETTER = r"\w\p{N}\p{WB=ALetter}"
_LETTERS = rf"[{_LETTER}--[{_UNSPACED}\p{{Katakana}}{_INSIDE}]][{_LETTER}{_INSIDE}--[{_UNSPACED}\p{{Katakana}}]]*+"
_PLAIN_WORD = re.compile(r"\w+(?:://[!-~]*[0-9A-Za-z/]|(?:['’.@·‐‑-]\w+|,(?<=\d,)(?=\d)\w+)*)")
_WORD = regex.compile(
    rf"(?=[{_UNSPACED}])\X|[\p{{Katakana}}ー][\p{{Katakana}}ー\p{{M}}]*+|(?![#*0-9]\ufe0f?\u20e3){_LETTERS}"
    rf"(?:://[!-~]*[0-9A-Za-z/]|(?:(?:['’.@·‐‑-]|(?<=\p{{Hebrew}})[\"״](?=\p{{Hebrew}}))(?:{_LETTERS})|[,٫٬](?<=\d.)(?=\d)(?:{_LETTERS}))*+)",
    regex.VERSION1,
)


def _is_plain(text: str) -> bool:
    return text.isascii() or _OTHER_SCRIPT.search(text) is None


def split_words(text: str) -> list[str]:
    """Split into words.

    >>> split_words("Don't over-think it: 3.5 is fine, e.g. at https://a.org/b?c=1.")
    ["Don't", 'over-think', 'it', '3.5', 'is', 'fine', 'e.g', 'at', 'https://a.org/b?c=1']
    >>> len(split_words("पानी पीना")), len(split_words("喝足够的水"))
    (2, 5)
    """
    return _PLAIN_WORD.findall(text) if _is_plain(text) else _WORD.findall(text)


_FLAG = regex.compile(r"\p{Regional_Indicator}{2}")  # parted beforehand: in a run of them \X looks back to the first at each
_CHARACTER = regex.compile(r"\X")


def count_characters(text: str) -> int:
    r"""Count grapheme clusters: what a reader takes for one character.

    >>> count_characters("e\u0301"), count_characters("👨‍👩‍👧"), count_characters("नि")
    (1, 1, 1)
    """
    if text.isascii():
        return len(text) - text.count("\r\n")
    return len(_CHARACTER.findall(_FLAG.sub("-", text)))


def ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """All runs of ``length`` consecutive words."""
    return list(zip(*(words[i:] for i in range(length)), strict=False))


class _Equal(dict[int, str]):
    """Maps a character to what it is compared as, each looked up in the Unicode database once."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        compatible = unicodedata.decomposition(char).partition(">")[0] in _COMPARED_AS
        self[code] = "" if _UNSEEN.match(char) else unicodedata.normalize("NFKC", char) if compatible else char
        return self[code]


# not <super>, <sub>, <fraction>, <circle>, <square>: 2² is not 22
_COMPARED_AS = frozenset(
    ("<compat", "<noBreak", "<wide", "<narrow", "<small", "<vertical", "<font", "<initial", "<medial", "<final", "<isolated")
)
_UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}ـ՛՜՞]")  # and marks set within Arabic and Armenian words
_EQUAL = _Equal(zip(map(ord, "‘’ʼ´‐‑−“”„\N{GREEK QUESTION MARK}"), "''''---\"\"\";", strict=True))


def fold(text: str, ignore_case: bool = True) -> str:
    r"""Write a text as it is compared: composed, without invisible characters, with plain spaces, hyphens, quotes and widths.

    Superscripts, subscripts and fractions stay, as do dashes.

    >>> fold("Re\u0301sume\u0301\u00a0ＡＢ don’t Straße x²")
    "résumé ab don't strasse x²"
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).translate(_EQUAL))
    return unicodedata.normalize("NFC", text.casefold()) if ignore_case else text


@lru_cache(maxsize=65536)
def _class_of(char: str) -> str:
    if regex.match(rf"[{_UNSPACED}]", char):
        return "unspaced"
    return "katakana" if regex.match(r"[\p{Katakana}ー]", char) else "word" if regex.match(r"\w|\p{M}", char) else ""


@lru_cache(maxsize=65536)
def joins(left: str, right: str) -> bool:
    """Say whether two neighbouring characters of a folded text belong to one word or one character."""
    kind = _class_of(right)
    return unicodedata.category(right).startswith("M") or (kind in ("word", "katakana") and _class_of(left) == kind)


_EMOJI = regex.compile(
    r"\p{Regional_Indicator}{2}|[#*0-9]\ufe0f?\u20e3"
    r"|(?:\p{Emoji_Presentation}(?!\ufe0e)|\p{Extended_Pictographic}(?=\ufe0f|\p{Emoji_Modifier}|\u200d\p{Extended_Pictographic}))"
    r"[\ufe0f\p{Emoji_Modifier}\U000e0020-\U000e007f]*(?:\u200d\p{Extended_Pictographic}[\ufe0f\p{Emoji_Modifier}]*)*"
)


def count_emoji(text: str) -> int:
    """Count emoji: a flag, a family or a hand with its skin tone is one; a sign that is shown as text (``©``, ``✔``) is none.

    >>> count_emoji("👨‍👩‍👧 👍🏽 🇩🇪 1️⃣ ❤️ © ✔")
    5
    """
    return 0 if text.isascii() else len(_EMOJI.findall(text))


@cache
def _marks(name: str) -> str:
    """All punctuation whose Unicode name holds ``name``, and emoji of it; a symbol named after a comma is no comma."""
    emoji = "So" if name != "COMMA" else ""
    marks = (chr(code) for code in range(0x12000) if unicodedata.category(chr(code)) in ("Po", emoji))
    return "".join(mark for mark in marks if name in unicodedata.name(mark, ""))


# ; asks in Greek, behind two Greek letters at least: one is a variable
_GREEK_QUESTION = regex.compile(r"(?<=\p{Greek}\p{M}*\p{Greek}\p{M}*[^\p{L};]{0,9});")


def count_marks(text: str, name: str) -> int:
    """Count ``QUESTION MARK``, ``EXCLAMATION MARK`` or ``COMMA`` of any script, by the names that Unicode gives; ``;`` asks in Greek.

    >>> count_marks("كيف حالك؟ Πού είναι;", "QUESTION MARK"), count_marks("ماء، 水、", "COMMA")
    (2, 2)
    """
    if text.isascii():
        return sum(map(text.count, _marks(name)[:1]))  # the first is that of ASCII
    greek = _GREEK_QUESTION.findall(text) if name == "QUESTION MARK" and ";" in text else ()
    return sum(map(text.count, _marks(name))) + len(greek)


def asks(sentence: str) -> bool:
    """Say whether a question mark is among the last marks of a sentence, or, in Armenian, in its words.

    >>> asks("Really?!"), asks("“Why?”"), asks("Why? No."), asks("Πού είναι;"), asks("Ինչպե՞ս եք։")
    (True, True, False, True, True)
    """
    bare = sentence.rstrip(CLOSERS)
    words = bare.rstrip("!.…！。؛;։" + _marks("QUESTION MARK"))
    return count_marks(bare, "QUESTION MARK") > count_marks(words, "QUESTION MARK") or "\N{ARMENIAN QUESTION MARK}" in bare


OPENERS = " \t\n\"'“‘„‚«»‹›([{*_`¿¡「『（"
"""What stands before a sentence's first letter."""
CLOSERS = " \t\n\"'”’“»«›‹)]}*_`」』）】》〉\u200d\u200e\u200f\u2069"
"""What stands behind a sentence's last mark."""
_PLAIN_END = re.compile(r"[.!?…]+[\"'”’“»«›‹)\]}*_]*(?=\s|$)")
_END = regex.compile(
    r"[.!?…]++[\p{Pe}\p{Pf}\p{Pi}\"'*_\p{Cf}]*+(?=\s|$)|[.!?]*+(?:(?!(?<=\d)．(?=\d))[\p{STerm}--[.!?]]|፡፡)++[.!?]*+[\p{Pe}\p{Pf}\"'*_]*+"
    rf"|(?<=[{_UNSPACED}])[.!?]++(?=[{_UNSPACED}])"
    r"|(?<=\p{Greek}\p{M}*\p{Greek}\p{M}*[\p{Pe}\p{Pf}\"']*)[;\u037e](?=\s|$)|(?<=\p{Armenian}):(?=\s|$)",
    regex.VERSION1,
)  # fmt: skip


def _ended(words: str) -> frozenset[str]:
    return frozenset(f"{word}." for word in words.split())


_NO_END = _ended(
    "mr mrs ms dr prof st vs cf i.e e.g mt gen col capt lt sgt rev hon sen rep gov sra dra srta z.b d.h u.a bzw ca ggf vgl bspw"
)
_NO_END_BEFORE_NUMBER = _ended(
    "no nr nos fig figs eq sec ch p pp vol art approx min max jan feb mar apr jun jul aug sep sept oct nov dec"
)
_NO_END_BEFORE_LOWER_CASE = _ended("etc approx jr sr inc ltd co corp fig usw ex")


def sentences_of(block: str) -> Iterator[str]:
    """Split one block of prose, which has no markup, into sentences; a piece without a word is none.

    >>> list(sentences_of("Ask Dr. J. K. Ray at 3.5 p.m. or so... maybe. “Go!” she said. 好。很好！"))
    ['Ask Dr. J. K. Ray at 3.5 p.m. or so... maybe.', '“Go!” she said.', '好。', '很好！']
    """
    start = 0
    ends = (_PLAIN_END if _is_plain(block) else _END).finditer(block)
    for stop in [*(end.end() for end in ends), len(block)] if block else []:
        goes_on = block[stop - 1] not in "!?" and stop < len(block)
        if not goes_on or not _goes_on(block[max(start, stop - 80) : stop], block[stop : stop + 20].lstrip(OPENERS)):
            sentence = block[start:stop].strip()
            start = stop
            if sentence[:1].isalnum() or _PLAIN_WORD.search(sentence):
                yield sentence


def _goes_on(sentence: str, following: str) -> bool:
    """Say whether the last mark of ``sentence`` does not end it."""
    bare, lower = sentence.rstrip(CLOSERS), following[:1].islower()
    if not bare.endswith(".") or bare.endswith(".."):
        return lower and (bare.endswith((".", "…")) or bare != sentence)
    previous, last = (["", ""] + [word.lstrip(OPENERS) for word in bare.rsplit(None, 2)[-2:]])[-2:]
    word = last.lower()
    if word in _NO_END or (bare != sentence and lower):
        return True
    if word in _NO_END_BEFORE_NUMBER and following[:1].isdigit():
        return True
    if len(last) == 2 and last[0].isalpha():  # z. B., p. 5, J. K. Rowling, but: Take vitamin C. Then rest
        named = not previous or (previous.isalpha() and not previous.islower())
        return last[0].islower() or previous.endswith(".") or (following[:1].isupper() and named)
    short = word in _NO_END_BEFORE_LOWER_CASE or ("." in word[:-1].strip(".") and not word[0].isdigit())
    return (short and not following[:1].isupper()) or (lower and word[:-1].isdigit() and len(word) < 5)
