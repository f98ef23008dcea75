r"""What an answer says, however it is written: Unicode, LaTeX, Markdown, money, units, percent, mixed numbers, lists."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

from lightning_focal.functional import extract_boxed
from lightning_focal.judges.math_worker import all_paired, same_value

__all__ = ["Answer", "gold_answer", "read_answer", "same_answer", "stated_answer"]

_DOLLAR = "\ue000"  # a printed dollar sign, so that no other means one
_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"), **dict.fromkeys("·⋅∙•", r"\cdot "), **dict.fromkeys("°º˚", "°"), **dict.fromkeys("‘’“”„\"", ""),
    **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad\ufe0f", ""), **dict.fromkeys("、，", ","),
    "×": r"\times ", "÷": "/", "⁄": "/", "∕": "/", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∅": r"\emptyset ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∠": r"\angle ", "…": r"\ldots ", "⋯": r"\ldots ", "。": ".", "٫": ".", "٬": ",", "٪": "%", "∗": "*",
    "⟨": "(", "⟩": ")",
}  # fmt: skip
_TRANSLATION = str.maketrans(_CHARACTERS)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣʸᵃᵇᵏᵐᵗ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ]+")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_GREEK = re.compile(r"(?<![\u0370-\u03ff])[\u0391-\u03c9](?![\u0370-\u03ff])")
_ROOT = re.compile(r"([√∛∜])\s*(?:(\d+(?:\.\d+)?|[a-zA-Z]|\\pi)|(?=[({]))")
_DEGREE = {"√": "", "∛": "[3]", "∜": "[4]"}


def _large(found: re.Match[str]) -> str:
    return rf"\times10^{{{3 * found.lastindex if found.lastindex else 12}}}"


_MARKDOWN = re.compile(r"(?<![\w)}\]\\])(\*{1,3}|_{2,3}|`{1,3})(?=[^\s*`])(.+?)(?<=[^\s*`])\1(?!\w)", re.DOTALL)
_COMMANDS = {
    name: meant
    for meant, names in {
        "": "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm displaystyle textstyle limits nolimits rm bf it",
        " ": "thinspace enspace newline", "°": "degree degrees textdegree degreeCelsius", "\\frac": "dfrac tfrac cfrac",
        "\\ldots ": "dots dotsb dotsc dotsi dotsm dotso cdots hdots ldots", "\\le ": "leq leqslant", "\\ge ": "geq geqslant", "\\ne ": "neq",
        "\\emptyset ": "varnothing", "\\log ": "lg", "\\vee ": "lor", "(": "langle", ")": "rangle", "[": "lbrack", "]": "rbrack",
        "\\{": "lbrace", "\\}": "rbrace",
    }.items()
    for name in names.split()
}  # fmt: skip
"""What commands without arguments stand for."""
_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\text\s*\{\s*\\\$\s*\}|\\\$|\\textdollar(?![a-zA-Z])|\bUSD?\s*(?:\\?\$)?(?=\s*[\d\\])", _DOLLAR),
        (r"\\[()\[\]](?![a-zA-Z0-9.]*pt\])", " "),
        (rf"\\(left\s*\.|right\s*\.|{'|'.join(sorted(_COMMANDS, key=len, reverse=True))})(?![a-zA-Z])\s?",
         lambda found: _COMMANDS.get(found[1], "")),
        (r"\\!\s*|\\boxed\s*(?=[^\s{a-zA-Z])", ""),
        (r"(?<!\\)\\(?:[,;:> ~]|q?quad)|~|\\hspace\{[^{}]*\}|\\phantom\{[^{}]*\}", " "),
        (r"\\(?:textbf|textit|textrm|textsf|texttt|textnormal|emph|mbox|hbox|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bm|operatorname\*?)"
         r"(?=\s*\{)", r"\\text"),
        (r"\\text\s*\{\s*([-+\d.,/% ]*|[a-zA-Z]|\s+)\s*\}", r" \1 "),
        (r"((?:[<>]|\\[lg]e)[^,;]*?)[,\s]*(?:\\text\s*\{\s*or\s*\}|\bor\b|\\vee)(?=[^,;]*(?:[<>]|\\[lg]e))", r"\1\\cup"),
        (r"[,\s]*\\text\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|,?\s+(?:and|or)\s+(?=[^ ])", ", "),
        (r"\\log\s*_\s*\{?\s*e\s*\}?", r"\\ln "),
        (r"\\\{\s*[a-z](?:\s*\\in\s*\\mathbb\s*\{?R\}?)?\s*(?::|\||\\mid|\\vert)([^{}|:]*[<>=\\][^{}|:]*)\\\}", r"\1"),
        (r"\\pmod\s*\{?\s*(\w+)\s*\}?|\\?\(\s*mod\s*(\w+)\s*\)", r"\\pmod{\1\2}"),
        (r"(?<=\d)(?:\s*\\text\s*\{\s*to\s*\}\s*|\s+to\s+)(?=\d)", ":"),
        (r"\.{3,}", r"\\ldots "),
        (r"\^\s*\{?\s*\\circ\s*\}?", "°"),
        (r"(?<=\d)\s*([kM]?)\s*\\(?:Omega|ohm)(?![a-zA-Z])", r" \1ohm"),
        (r"\\%|\s*\\text\s*\{\s*(?i:percent(?:age)?|pct)\s*\}|\s*\b(?i:percent|pct)\b\.?", "%"),
        (r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w({\\-])", "^"),
        (r"(?<![a-zA-Z\\])(?i:pi)(?![a-zA-Z])", r"\\pi "),
        (r"(?<![a-zA-Z\\])(?i:inf|infinity)(?![a-zA-Z])", r"\\infty "),
        (r"(?<![a-zA-Z\\])(sin|cos|tan|cot|sec|csc|log|ln|exp|arcsin|arccos|arctan|sinh|cosh|tanh)(?=\s*[\^({\\]| (?:[a-zA-Z]|\d+)\b)", r"\\\1"),
        (r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\s*\{?\d\}?)?\s*[({]?\s*)(\d+(?:\.\d+)?)\s*°", r"\1\\frac{\2\\pi}{180}"),
        (r"(?<![a-zA-Z\\])sqrt\s*(?=[({\d])", r"\\sqrt "),
        (r"(?<=\d)\s*(?:\\text\s*\{)?\s*(?i:(thousand)|(million)|(billion)|trillion)\b\s*\}?", _large),
        (r"\\sqrt\s*(\d)(?!\d)", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*\{\s*([^{}]*?)\s*\}\s*\{\s*([^{}]*?)\s*\}", r"\\frac{\1}{\2}"),
        (r"(?<![\d.,}])(0|\d+(?=\s*\{\s*,\s*\}\s*(?!\d{3}(?!\d))))\s*\{\s*,\s*\}\s*(\d+)(?!\s*[\d,{])", r"\1.\2"),
        (r"\s*\{\s*,\s*\}\s*", ","),
        (r"(?<![\d.,\w])\d{1,3}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})(?![\d.,])", lambda found: found[0].replace(".", "").replace(",", ".")),
        (r"(?<=\d)[eE]([-+]?\d+)(?![\d.\w])", r"\\times10^{\1}"),
        (r"(?<=\d)\s*(?:\\times|\\cdot|[xX*])\s*10\s*\^\s*\{?\s*\(?\s*([-+]?)\s*(\d+)\s*\)?\s*\}?", r"\\times10^{\1\2}"),
        (r"(?<![\d.,\w^])([1-9]\d{0,2}(?: \d{3})+)(?![\d,])", lambda found: found[0].replace(" ", "")),
        (r"(?<![\d.,\w^])\d+\.\d{3}(?: \d{3})*(?: \d{1,3})(?![\d,.])", lambda found: found[0].replace(" ", "")),
        (r"(?<![\d.,\w^])(\d{1,3}(?:['_]\d{3})+)(?!\d)", lambda found: re.sub("['_]", "", found[0])),
        (r"(?<![\d.^_/}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}"),
        (r"(?<=\d)\s*\\frac\{\s*([a-zA-Z]+)\s*\}\{\s*([a-zA-Z]+)\s*((?:\^\s*\{?\d\}?)?)\s*\}\Z", r" \1/\2\3"),
        (r"(?<=\d)\s+(?=\\frac)", ""),
        (r"\s+", " "),
    )
]  # fmt: skip
_ZEROS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})*,000(?!,?\d)")
_THOUSANDS = re.compile(r"(?<![\d.,\w])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d+)")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_END = re.compile(r"(?:(?<![.\\])\.|(?<!\\)[,;:]|\\\\|\s)+\Z")

_DIGITS = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PLAIN = re.compile(rf"([-+]?)\s*({_DIGITS})(?:\\times10\^\{{([-+]?\d{{1,4}})\}})?")
_POWER = re.compile(r"([-+]?)\s*10\s*\^\s*\{?\s*([-+]?\d{1,4})\s*\}?")
_RATIO = re.compile(rf"([-+]?)\s*(?:(\d+)\s*)?\\frac\{{([-+]?)({_DIGITS})\}}\{{([-+]?)({_DIGITS})\}}")
_SLASH = re.compile(rf"([-+]?)\s*\(?\s*({_DIGITS})\s*/\s*({_DIGITS})\s*\)?")
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?|\((\d+)\)|(\d+?)\6{2,}\d*\s*\\ldots\s*)")
_BASE = re.compile(r"(\d+)\s*_\s*\{?\s*(\d{1,2})\s*\}?")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?\s*(?:([ap])\.?\s*m\.?)|(\d{1,2}):(\d\d)", re.IGNORECASE)
_SUBSCRIBED = r"\\?[a-zA-Z]+(?:\s*_\s*(?:\w|\{[\w,]+\}))?"
_NAME = re.compile(
    rf"({_SUBSCRIBED}'*(?:\s*\([a-z](?:,\s*[a-z])*\)|(?:\s*:\s*{_SUBSCRIBED})+)?|\\text\{{[^{{}}]*\}}|[A-Za-z][a-z]+(?: [a-z]+){{0,3}})"
)
_APART = re.compile(r"\d \d")
_GLUED = re.compile(r"([-+]?[\d.]+)([a-zA-Z])")
_SYMBOL = re.compile(r"\\?[a-zA-Z]|[a-zA-Z]_\w+|\\[a-z]+")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt|in|approx|equiv)(?![a-zA-Z])")
_LETTERS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ '’/-])*")
_PRODUCT = re.compile(r"[a-hj-np-zA-Z]|[a-hj-np-z]{2}|[w-z]+")
_CHOICE = re.compile(r"\(?\s*([A-Za-z])\s*\)")
_LABELLED = re.compile(r"(?:\\text\s*\{)?\(([A-Z])\)\}?\s*([^,(].*)")
_LIMITS = re.compile(r"\s*(<=?|>=?|\\[lg]e(?![a-zA-Z]))\s*")

_PREFIXES = {"": ("", 0), "n": ("nano", -9), "μ": ("micro", -6), "m": ("milli", -3), "c": ("centi", -2), "d": ("deci", -1)}
_PREFIXES |= {"k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9)}
_METRIC = {
    "length": "m meter metre", "mass": "g gram gramme", "volume": "l L liter litre", "current": "A ampere", "force": "N newton",
    "energy": "J joule", "power": "W watt", "pressure": "Pa pascal", "voltage": "V volt", "resistance": "ω ohm", "frequency": "Hz hertz",
    "amount": "mol mole",
}  # fmt: skip
"""Names of units by dimension, symbols of up to three letters and words, before which prefixes stand."""
_MEASURES = {
    "length": "in inch inche:127/5000 ft foot feet:381/1250 yd yard:1143/1250 mi mile:201168/125",
    "mass": "gm:1/1000 kilo:1 t ton tonne:1000 lb pound:45359237/100000000 oz ounce:45359237/1600000000",
    "time": "ns:1/1000000000 ms millisecond:1/1000 s sec second:1 min minute:60 h hr hour:3600 d day:86400 wk week:604800 "
    "month:2629746 yr year:31556952",
    "volume": "gal gallon:473176473/125000000 qt quart:473176473/500000000 pt pint:473176473/1000000000 cup:473176473/2000000000",
    "dollar": f"{_DOLLAR} dollar usd buck:1 cent ¢:1/100", "euro": "€ euro eur:1", "sterling": "£ gbp:1", "yen": "¥ yen jpy:1",
    "rupee": "₹ rupee rs inr:1", "angle": "° degree deg:1", "radian": "radian rad:1", "celsius": "°c c celsius:1",
    "fahrenheit": "°f f fahrenheit:1", "kelvin": "k kelvin:1", "current": "amp:1", "energy": "cal calorie:4184/1000 kcal:4184",
    "pressure": "atm atmosphere:101325",
}  # fmt: skip
"""Names of other units by dimension, each group with what it is worth."""
_UNITS = {
    (symbol if len(name) < 4 else word) + name: (Fraction(10) ** (power - 3 * (dimension == "mass")), dimension)
    for dimension, names in _METRIC.items()
    for name in names.split()
    for symbol, (word, power) in _PREFIXES.items()
} | {
    name: (Fraction(worth), dimension)
    for dimension, units in _MEASURES.items()
    for names, worth in re.findall(r"([^:]+):(\S+)\s*", units)
    for name in names.split()
}
_DERIVED = {
    "volume": {"length": 3}, "force": {"mass": 1, "length": 1, "time": -2}, "energy": {"mass": 1, "length": 2, "time": -2},
    "power": {"mass": 1, "length": 2, "time": -3}, "pressure": {"mass": 1, "length": -1, "time": -2}, "frequency": {"time": -1},
}  # fmt: skip
_SPEEDS = {"mph": "mile/hour", "kmph": "km/hour", "kph": "km/hour", "kmh": "km/hour", "fps": "foot/second"}
_UNIT_WORDS = re.compile(rf"(?:[{_DOLLAR}]|[^\W\d_]+\.?|[°€£¥₹¢/])(?:\s*\^\s*\{{?(-?[1-9])\}}?)?\s*|\s+|\\cdot")
_UNIT_WORD = rf"[a-zA-Zμω°€£¥₹¢{_DOLLAR}][a-zA-Zμω°.]*(?:\s*\^\s*\{{?-?[1-9]\}}?)?"
_TAIL = re.compile(rf"(?<![\\a-zA-Z^_{{])\s*(/?\s*{_UNIT_WORD}(?:(?:\s*(?:/|\\cdot)\s*|\s+){_UNIT_WORD})*)\s*\Z")

Unit = tuple[Fraction, tuple[tuple[str, int], ...]]
"""What a unit is worth, and powers of dimensions."""


@dataclass(frozen=True)
class Answer:
    r"""An answer as :func:`read_answer` reads it.

    ``text`` is LaTeX, without ``name`` (the x of ``x = 5``), ``unit`` (where a known one) and ``percent`` sign; ``number`` the value of a plain
    number and ``step`` what its last written digit counts where it may have been rounded; ``word`` what is compared of a word or choice;
    ``brackets`` enclose the ``parts`` of a list.
    """

    text: str
    name: str = ""
    number: Fraction | None = None
    step: Fraction | None = None
    percent: bool = False
    unit: Unit | None = None
    word: str = ""
    brackets: str = ""
    parts: tuple[Answer, ...] = ()


def _plain_characters(text: str) -> str:
    """Write characters that stand for commands or plain letters as these."""
    text = _RAISED.sub(lambda run: f"^{{{_ascii(run[0])}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{_ascii(run[0])}}}", text)
    text = _VULGAR.sub(lambda one: "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", one[0]).split("⁄")), text)
    text = _GREEK.sub(_greek, unicodedata.normalize("NFKC", text.translate(_TRANSLATION)).translate(_TRANSLATION))
    text = _ROOT.sub(lambda root: f"\\sqrt{_DEGREE[root[1]]}" + (f"{{{root[2]}}}" if root[2] else ""), text)
    return "".join(str(unicodedata.decimal(c)) if c > "\x7f" and c.isdecimal() else c for c in text)


def _ascii(run: str) -> str:
    return unicodedata.normalize("NFKC", run).replace("−", "-")


def _greek(found: re.Match[str]) -> str:
    kind, _, letter = unicodedata.name(found[0]).replace("GREEK ", "").partition(" LETTER ")
    if found[0] in "μω" or " " in letter or not letter or letter == "OMICRON":
        return found[0]
    return f"\\{letter.lower() if kind == 'SMALL' else letter.capitalize()} "


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at ``start`` closes, or -1."""
    depth, pair = 0, {"(": ")", "[": "]", "{": "}"}[text[start]]
    for i in range(start, len(text)):
        if text[i] in (text[start], pair) and not (text[start] == "{" and i and text[i - 1] == "\\"):
            depth += 1 if text[i] == text[start] else -1
            if depth == 0:
                return i
    return -1


def _braced_roots(text: str) -> str:
    r"""``\sqrt(x+1)`` with braces."""
    while (found := re.search(r"\\sqrt(\[\d+\])?\s*\(", text)) and (end := _closing(text, found.end() - 1)) > 0:
        text = f"{text[: found.start()]}\\sqrt{found[1] or ''}{{{text[found.end() : end]}}}{text[end + 1 :]}"
    return text


def _unwrapped(text: str) -> str:
    """Without what encloses all of the text: Markdown, dollar signs, braces, boxes, a full stop."""
    while True:
        before = text
        text = _END.sub("", text).strip()
        found = re.match(r"(?:\\(?:boxed|fbox|text(?!\s*\{[a-z]{2}\})|textbf|mathrm|mathbf|textit|mbox)\s*)?\{", text)
        if found and _closing(text, found.end() - 1) == len(text) - 1:
            text = text[found.end() : -1]
        if (found := _MARKDOWN.match(text)) and not text[found.end() :].strip():
            text = found[2]
        if text.startswith("$") and text.endswith("$") and len(text) > 1 and not text.endswith("\\$"):
            text = text[1:-1]
        if text == before:
            return text


def _clean(text: str) -> str:
    if not text.isascii():
        text = _plain_characters(text)
    text = _MARKDOWN.sub(r"\2", _unwrapped(text.replace('"', "")))
    for pattern, replacement in _REPLACED[:1]:
        text = pattern.sub(replacement, text)
    if text.count("$") % 2:
        text = re.sub(r"\$(?=\s*[\d.])|(?<=\d)\$", _DOLLAR, text)
    text = text.replace("$", "")
    for pattern, replacement in _REPLACED[1:]:
        text = pattern.sub(replacement, text)
    return _unwrapped(_braced_roots(text))


def _number(text: str) -> tuple[Fraction, Fraction | None] | None:
    """Value of a plain number, and what its last digit counts where it may have been rounded."""
    try:
        if found := _PLAIN.fullmatch(text):
            digits, power = found[2], int(found[3] or 0)
            places = len(digits.partition(".")[2])
            scale = Fraction(10) ** power
            step = scale / 10**places if places >= 3 or found[3] else None
            return Fraction(f"{found[1]}{digits.rstrip('.')}") * scale, step
        if found := _POWER.fullmatch(text):
            return (-1 if found[1] == "-" else 1) * Fraction(10) ** int(found[2]), None
        if found := _RATIO.fullmatch(text):
            sign, whole, s1, a, s2, b = found.groups()
            value = int(whole or 0) + Fraction(s1 + a.rstrip(".")) / Fraction(s2 + b.rstrip("."))
            return (-value if sign == "-" else value), None
        if found := _SLASH.fullmatch(text):
            return Fraction(found[1] + found[2].rstrip(".")) / Fraction(found[3].rstrip(".")), None
        if found := _REPEATING.fullmatch(text):
            sign, whole, fixed, block = found[1], found[2] or "0", found[3], found[4] or found[5] or found[6]
            value = Fraction(f"{whole}.{fixed or 0}") + Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(fixed))
            return (-value if sign == "-" else value), None
    except ZeroDivisionError:
        return None
    return None


def _unit(text: str) -> tuple[Unit | None, bool]:
    """A unit in words or signs, None where it is no known one; and whether the text can be one at all."""
    text = _SPEEDS.get(text.strip().lower(), text)
    factor, powers, sign, times = Fraction(1), dict[str, int](), 1, 1
    known, any_word, parts = True, False, list(_UNIT_WORDS.finditer(text))
    if "".join(part[0] for part in parts) != text:
        return None, False
    for found in parts:
        word = re.split(r"[\s^]", found[0].strip(), maxsplit=1)[0].rstrip(".")
        if word in ("square", "sq"):
            times = 2
        elif word in ("cubic", "cu"):
            times = 3
        elif word in ("per", "/"):
            sign = -1
        elif word not in ("", "\\cdot"):
            any_word = True
            lower = word.lower()
            entry = _UNITS.get(word) or _UNITS.get(lower) or _UNITS.get(lower.removesuffix("s") if len(lower) > 2 else lower)
            if entry is None:
                known = False
                continue
            power = sign * (int(found[1]) if found[1] else times)
            times = 1
            powers[entry[1]] = powers.get(entry[1], 0) + power
            factor *= entry[0] ** power
    if "angle" in powers and len(powers) == 2 and powers["angle"] == 1 and {"celsius", "fahrenheit"} & powers.keys():
        del powers["angle"]
    for dimension in powers.keys() & _DERIVED.keys():
        power = powers.pop(dimension)
        factor /= (1000 if dimension == "volume" else 1) ** power  # a litre is a cubic decimetre
        for basic, times in _DERIVED[dimension].items():
            powers[basic] = powers.get(basic, 0) + power * times
    return ((factor, tuple(sorted((d, p) for d, p in powers.items() if p))) if known and powers else None), any_word


def _split(text: str, separators: str) -> list[str]:
    """Split where no bracket is open."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c in separators and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def _list(text: str) -> tuple[str, tuple[str, ...]]:
    """Brackets and elements of a list; no elements where it is none."""
    opening, closing = text[:1], text[-1:]
    inner, brackets = text, ""
    if text.startswith("\\{") and text.endswith("\\}"):
        inner, brackets = text[2:-2], "{}"
    elif opening in ("(", "[") and closing in (")", "]") and len(text) > 2:
        inner, brackets = text[1:-1], opening + closing
    depth = 0
    for c in inner:  # "(1,2) \cup (3,4)" has no brackets of its own
        depth += (c in "([{") - (c in ")]}")
        if depth < 0 and brackets:
            inner, brackets = text, ""
            break
    if "\\begin" in inner or (re.search(r"\\cup|\\cap|\\setminus|\\mid|\||\\times(?!10\^)", inner) and brackets != "()"):
        return "", ()
    parts = _split(inner, ",;")
    if len(parts) == 1 and not brackets and re.fullmatch(rf"{_DIGITS}(?: {_DIGITS})+", text):
        parts = text.split()
    if len(parts) == 1 and brackets == "" and ":" in text and len(_split(text, ":")) > 1:
        return ":", tuple(part.strip() for part in _split(text, ":"))
    if (len(parts) == 1 and brackets != "{}") or any(not part.strip() for part in parts):
        return "", ()
    return brackets, tuple(part.strip() for part in parts)


def _word(text: str) -> str:
    """What is compared of a word or choice; empty for anything else."""
    bare = _TEXT.sub(r"\1", text).strip()
    if found := _CHOICE.fullmatch(bare):
        bare = found[1]
    letters = _LETTERS.fullmatch(bare)
    key = re.sub(r"[ '’/-]", "", bare)
    return "" if letters is None or (_PRODUCT.fullmatch(key) and "\\text" not in text and len(key) > 1) else key.casefold()


_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_IN_WORDS = {word: i for i, word in enumerate(_ONES.split())} | {"hundred": 100, "onehundred": 100} | {
    tens + one * (i > 0): 10 * ten + i
    for ten, tens in enumerate(_TENS.split(), 2)
    for i, one in enumerate(_ONES.split()[:10])
}  # fmt: skip
_LONGEST_READ = 1000


@lru_cache(maxsize=1 << 14)
def read_answer(text: str) -> Answer:
    r"""Read an answer: what stands in a box, or what :func:`stated_answer` finds. One of more than 1000 characters stays as it is.

    >>> read_answer("1½").number, read_answer(r"\$32,\!348.50").number, read_answer("5 km").unit
    (Fraction(3, 2), Fraction(64697, 2), (Fraction(1000, 1), (('length', 1),)))
    >>> read_answer("x = √2"), read_answer(r"\text{(A)}").word
    (Answer(text='\\sqrt{2}', name='x', number=None, step=None, percent=False, unit=None, word='', brackets='', parts=()), 'a')
    """
    return _read(_clean(text), 0) if len(text) <= _LONGEST_READ else Answer(text.strip())


def _read(text: str, depth: int) -> Answer:
    text = re.sub(r"\A\\(?:approx|sim|simeq|therefore)(?![a-zA-Z])", "", _END.sub("", text)).strip()
    while text.startswith("{") and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    name = ""
    if "=" in text and not re.search(r"[<>]|\\begin", text):
        sides = [side.strip() for side in _split(text, "=")]
        letters = [re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", side)) for side in sides]
        if len(sides) > 1 and all(sides) and "," not in "".join(sides[:-1]):
            if _NAME.fullmatch(sides[0]):
                name, text = re.sub(r"\\text|[\s{}]", "", sides[0]), sides[-1]
            elif _SYMBOL.fullmatch(sides[-1]) and not letters[0]:
                name, text = sides[-1], sides[0]
            elif not any(letters):
                text = sides[-1]
    elif found := re.match(r"([a-z])\s*\\in(?![a-zA-Z])\s*", text):
        name, text = found[1], text[found.end() :]
    elif _LIMITS.search(text):
        intervals = [_interval(part) for part in text.split("\\cup")]
        if len({symbol for symbol, _ in intervals}) == 1 and intervals[0][0]:
            name, text = intervals[0][0], "\\cup ".join(interval for _, interval in intervals)
    return replace(_value(text, depth), name=name)


def _interval(text: str) -> tuple[str, str]:
    """The symbol of an inequality between numbers, and the interval that it stands for; empty for anything else."""
    first, *more = _LIMITS.split(text.strip().removesuffix("\\"))
    signs, sides = more[::2], [first, *more[1::2]]
    if {sign[0] + sign[1:2] for sign in signs} & {">", ">=", "\\g"}:
        signs, sides = signs[::-1], sides[::-1]
        if not all(sign[:2] in (">", ">=", "\\g") for sign in signs):
            return "", ""
    place = next((i for i, side in enumerate(sides) if re.fullmatch("[a-zA-Z]", side)), -1)
    bounds = sides[:place] + sides[place + 1 :]
    if not signs or place < 0 or len(signs) > 2 or (len(signs) == 2 and place != 1):
        return "", ""
    if any(not bound or re.search(r"[=,a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", bound)) for bound in bounds):
        return "", ""
    low = ("(" if signs[0] in "<>" else "[") + bounds[0] if place == 1 else "(-\\infty"
    high = bounds[-1] + (")" if signs[-1] in "<>" else "]") if place < len(signs) else "\\infty)"
    return sides[place], f"{low},{high}"


def _value(text: str, depth: int) -> Answer:
    if value := _number(text):
        return Answer(text, number=value[0], step=value[1])
    if word := _word(text):
        worth = _IN_WORDS.get(word)
        return Answer(text, word=word) if worth is None else Answer(str(worth), number=Fraction(worth))
    if clock := _CLOCK.fullmatch(_TEXT.sub(r"\1", text)):
        return Answer(text, word=f"{int(clock[1] or clock[4])}:{clock[2] or clock[5] or '00'}{(clock[3] or '').lower()}")
    if found := _BASE.fullmatch(text):
        return Answer(text, word=f"{found[1].lstrip('0')}_{found[2]}")
    percent = text.endswith("%")
    body, unit = text.rstrip("% "), None
    if not percent:
        body, unit = _without_unit(text)
    body = _ZEROS.sub(lambda found: found[0].replace(",", ""), body)
    if (percent or body != text) and (found := _DECIMAL_COMMA.fullmatch(body)) and not _THOUSANDS.fullmatch(body.lstrip("+-")):
        body = f"{found[1]}.{found[2]}"  # one quantity, so no list
    brackets, elements = _list(body) if depth < 4 else ("", ())
    if not brackets and elements and (joined := _THOUSANDS.sub(lambda found: found[0].replace(",", ""), body)) != body:
        if value := _number(joined):
            return Answer(joined, number=value[0], step=value[1], percent=percent, unit=unit)
        if len(_split(joined, ",;")) == 1 and depth == 0:
            return replace(_value(joined, depth + 1), percent=percent, unit=unit)
        brackets, elements = _list(joined)
        body = joined
    if body != text and not elements:
        inner = _value(body, depth) if body else Answer(text)
        if inner.unit is None and not inner.percent and (inner.number is not None or not inner.word):
            return replace(inner, percent=percent, unit=unit)
    if not elements and body.count("\\pm") == 1 and depth < 4 and not _RELATION.search(body):
        left, right = (part.strip() for part in body.split("\\pm"))
        if (re.fullmatch(r"[^,]*", body) and not re.search(r"[({]", left.replace("\\frac{", ""))) or not left:
            both = (f"{left}+{right}" if left else right, f"{left}-{right}")
            return Answer(body, unit=unit, percent=percent, parts=tuple(_read(one, depth + 1) for one in both))
    parts = tuple(_read(element, depth + 1) for element in elements)
    if len(parts) > 1 and not brackets and not re.search("[,;:]", body):
        body = ", ".join(elements)
    return Answer(body, percent=percent, unit=unit, brackets=brackets, parts=parts)


def _without_unit(text: str) -> tuple[str, Unit | None]:
    """Take off a unit behind a value, or a sign of money before it."""
    if found := re.match(rf"([-+]?)\s*([{_DOLLAR}€£¥₹])\s*(?=[-+]?[\d.\\])", text):
        factor, dimension = _UNITS[found[2]]
        rest, more = _without_unit(text[found.end() :])
        rate = dict(more[1]) if more else {}
        return found[1] + rest, (factor * (more[0] if more else 1), tuple(sorted((rate | {dimension: 1}).items())))
    in_text = re.search(r"\\text\s*\{([^{}]*)\}\s*((?:\^\s*\{?-?[1-9]\}?)?)\s*\Z", text)
    found = _TAIL.search(_TEXT.sub(lambda one: f" {one[1]} ", text))
    if found and (body := found.string[: found.start()].strip()):
        unit, can_be = _unit(found[1])
        glued = not found[0][0].isspace() and not found[1].startswith(("°", _DOLLAR, "€", "£", "¥", "₹", "¢", "/"))
        letters = len(re.sub(r"[^a-zA-Z]", "", found[1]))
        figure = _number(_THOUSANDS.sub(lambda one: one[0].replace(",", ""), body)) or _DECIMAL_COMMA.fullmatch(body)
        symbol = (letters == 1 and (glued or not figure)) or (unit is None and (glued or letters == 2))
        if can_be and (in_text or not symbol) and (figure or (unit and not _word(body))):
            return body, unit
    if in_text and in_text.start():
        unit, can_be = _unit(re.sub(r"[()]", "", in_text[1]).strip() + in_text[2])
        if can_be:
            return text[: in_text.start()].strip(), unit
    return text, None


def same_answer(a: Answer, b: Answer) -> bool | None:
    """Whether two answers are the same; None = a computer algebra system must say so.

    Exact numbers must be equal. A decimal that was rounded may stand for what it is a rounding of, see
    :func:`~lightning_focal.judges.math_worker.same_value`. A percent sign may be left out or worked out (``50%`` is 50 and 0.5),
    and so may a unit; two units must agree, or turn into each other (5 km is 5000 m and not 5 cm). Words and choices are compared
    letter by letter, lists in brackets and those of choices or with dots in their order, others as sets.
    """
    if not a.text or not b.text:
        return None
    if a.name != b.name and _SYMBOL.fullmatch(a.name) and _SYMBOL.fullmatch(b.name):
        return False
    if bool(a.name) != bool(b.name) and _RELATION.search(a.text if b.name else b.text) and not (a.parts and b.parts):
        return None
    if a.unit and not b.unit and (found := _GLUED.fullmatch(b.text)):
        b = read_answer(f"{found[1]} {found[2]}")
    if b.unit and not a.unit and (found := _GLUED.fullmatch(a.text)):
        a = read_answer(f"{found[1]} {found[2]}")
    if (a.percent and b.unit) or (a.unit and b.percent):
        return False
    if a.unit and b.unit and a.unit != b.unit:
        if a.unit[1] != b.unit[1]:
            return False
        if a.number is None or b.number is None:
            return None
        a, b = _times(a, a.unit[0]), _times(b, b.unit[0])
    if a.number is not None and b.number is not None:
        if a.percent != b.percent:
            part, other = (a, b) if a.percent else (b, a)
            return _same_number(part, other) or _same_number(_times(part, Fraction(1, 100)), other)
        return _same_number(a, b)
    if a.text == b.text or (a.text.replace(" ", "") == b.text.replace(" ", "") and not _APART.search(f"{a.text}; {b.text}")):
        return True
    labels = [None if one.parts else _LABELLED.fullmatch(one.text) for one in (a, b)]
    if labels[0] and labels[1]:
        return labels[0][1] == labels[1][1]
    if label := labels[0] or labels[1]:
        other = b if labels[0] else a
        return other.word == label[1].lower() if len(other.word) == 1 else same_answer(read_answer(label[2]), other)
    letters = [_TEXT.sub(r"\1", one.text).casefold() for one in (a, b)]
    if bool(a.word) != bool(b.word) and letters[0].isalpha() and letters[1].isalpha():
        return letters[0] == letters[1]
    if a.word and b.word:
        return a.word == b.word or _same_clock_or_base(a.word, b.word)
    if (a.word and b.number is not None) or (b.word and a.number is not None):
        return _word_and_number(*((a, b) if a.word else (b, a)))
    if "\\ldots" in a.text or "\\ldots" in b.text:
        return _same_lists(a, b) is True if a.parts and b.parts else a.text.replace(" ", "") == b.text.replace(" ", "")
    if a.parts and b.parts:
        return _same_lists(a, b)
    if a.percent or b.percent or (a.name and b.name and a.name != b.name):
        return None
    same = _compared(a.text, b.text)
    return None if same is False and a.unit and b.unit else same


def _same_number(a: Answer, b: Answer) -> bool:
    return same_value(a.number or Fraction(), a.step, b.number or Fraction(), b.step)


def _times(a: Answer, factor: Fraction) -> Answer:
    return replace(a, number=(a.number or 0) * factor, step=a.step and a.step * factor)


def _same_clock_or_base(a: str, b: str) -> bool:
    """3:00 stands for 3:00 pm where one leaves it out; numbers to two bases have one value."""
    if ":" in a and ":" in b:
        return a.rstrip("ap") == b.rstrip("ap") and not (a[-1] in "ap" and b[-1] in "ap")
    if "_" in a and "_" in b:
        try:
            values = [int(digits, int(base)) for digits, base in (a.split("_"), b.split("_"))]
        except ValueError:
            return False
        return values[0] == values[1]
    return False


def _word_and_number(word: Answer, number: Answer) -> bool | None:
    if "_" in word.word:
        return word.word.partition("_")[0] == str(number.number)
    hour, colon, minute = word.word.partition(":")
    if minute[:2] == "00":
        return hour == str(number.number)
    return None if colon else False


def _same_lists(a: Answer, b: Answer) -> bool | None:
    kinds = {a.brackets, b.brackets}
    if len(kinds) == 2 and not kinds <= {"", "{}"} and not kinds <= {"", "()"}:
        return False if "" not in kinds else None
    ordered = bool(kinds - {"", "{}"}) or any(part.text == "\\ldots" for part in a.parts + b.parts)
    ordered = ordered or all(len(part.word) == 1 and part.text.strip("() ").isupper() for part in a.parts + b.parts)
    if ordered:
        if len(a.parts) != len(b.parts):
            return False
        found = [same_answer(x, y) for x, y in zip(a.parts, b.parts, strict=True)]
        if kinds == {":"} and False in found and None not in [part.number for part in a.parts + b.parts]:
            x, y = ([part.number for part in parts] for parts in (a.parts, b.parts))
            return all(x[i] * y[0] == y[i] * x[0] for i in range(len(x)))  # type: ignore[operator]
        return False if False in found else None if None in found else True
    if len(a.parts) * len(b.parts) > 2500:
        return None
    table = [[same_answer(x, y) for y in b.parts] for x in a.parts]
    return all_paired(table)


_OPERATORS: dict[type, Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: Decimal.__add__,
    ast.Sub: Decimal.__sub__,
    ast.Mult: Decimal.__mul__,
    ast.Div: Decimal.__truediv__,
    ast.Pow: Decimal.__pow__,
}
_SIMPLE = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}|\\sqrt\{([^{}]*)\}")
_FACTORS = re.compile(r"(?<=[\d.)a-zA-Zπ])(?=[(a-zA-Zπ])|(?<=[)a-zA-Zπ])(?=\d)")
_MEANT = {"\\cdot": "*", "\\times": "*", "\\pi": "π", "^": "**", "{": "(", "}": ")"}
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
_SIGNS = ((1, 1), (-1, 1), (-1, -1))
_EXACT = Context(prec=60)


@lru_cache(maxsize=1 << 14)
def _values(text: str) -> tuple[Decimal, ...] | None:
    """Values of a formula of numbers, roots, fractions, powers and symbols, at points of either sign; None = not known.

    A value has sixty digits and is neither large nor small, so that differences of it keep thirty.
    """
    if re.search(r"\d\s*\\frac|/.*[a-zA-Z(\\]|[a-zA-Z]\s*\(", text):  # a mixed number; 1/2x means two things, and so does f(x)
        return None
    before, formula = "", text.replace(" ", "")
    while before != formula:
        before, formula = formula, _SIMPLE.sub(lambda f: f"(({f[3]})**.5)" if f[3] else f"(({f[1]})/({f[2]}))", formula)
    for written, meant in _MEANT.items():
        formula = formula.replace(written, meant)
    letters = set(re.findall("[a-zA-Z]", formula))
    if not re.fullmatch(r"[\d.a-zA-Zπ+\-*/()]+", formula) or len(letters) > len({*map(str.lower, letters)}):
        return None
    try:
        with localcontext(_EXACT):
            tree = ast.parse(_FACTORS.sub("*", formula), mode="eval").body
            return tuple(_value_at(tree, signs) for signs in (_SIGNS if letters else _SIGNS[:1]))
    except (SyntaxError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value_at(node: ast.expr, signs: tuple[int, int]) -> Decimal:
    if isinstance(node, ast.BinOp):
        value = _OPERATORS[type(node.op)](_value_at(node.left, signs), _value_at(node.right, signs))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value_at(node.operand, signs)
    elif isinstance(node, ast.Name) and len(node.id) == 1 and node.id not in "eiEI":
        code = ord(node.id.lower()) - 90  # no special value, and no two the same
        value = _PI if node.id == "π" else signs[code % 2] * (1 + Decimal(code) / 61)
    else:
        value = Decimal(ast.unparse(node))
    if value and not 1e-15 < abs(value) < 1e15:
        raise OverflowError
    return value


def _compared(a: str, b: str) -> bool | None:
    """Whether two formulas have the same values; None = not known, or nearly the same."""
    x, y = _values(a), _values(b)
    if x is None or y is None:
        return None
    x, y = x * len(y), y * len(x)  # without symbols a value is the same everywhere
    differences = [abs(v - w) / max(abs(v), abs(w), _EXACT.create_decimal("1e-15")) for v, w in zip(x, y, strict=False)]
    return False if max(differences) > 1e-3 else True if max(differences) < 1e-25 else None


# -- the answer a text states -------------------------------------------------------------------------------------------------

_LONGEST = 50_000  # characters of a response, its last ones, that are searched for an answer outside a box
_STATED = re.compile(
    r"\b(?:answer|ans|final (?:result|value|solution)|(?:correct|right|best) (?:choice|option))\b(?:\s+(?:to|of|for)\s[^.:\n]{1,80}?)?[*_`\s]*"
    r"(?:(?::|=|\bis\b|\bare\b|\bwould be\b|\bshould be\b|\bmust be\b|\bequals\b|\bcomes to\b)"
    r"(?:\s*(?::|\btherefore\b|\bthus\b|\bthen\b|\bequal to\b|\bsimply\b|\bgiven by\b|\bexactly\b|\bindeed\b))*|\n(?:[-=]{3,}\s*\n)?)[*_`\s]*"
    r"|\b(?:I|we)(?: would)? (?:choose|pick|select|go with)\s+(?=(?:option |choice )?\(?[A-J]\b)"
    r"|^[ \t]*####\s|<answer>|(?:答案|答|答え|답|정답)(?:是|为|は|은|는|：|:)\s*"
    r"|\b(?:antwort|ergebnis|respuesta|resultado|réponse|risposta|resposta|ответ)\b(?:[*_`\s]*[:=—]|\s+(?:ist|lautet|es|est|è|é)\b\s*:?)[*_`\s]*",
    re.IGNORECASE | re.MULTILINE,
)
_ENVIRONMENT = (
    r"\$\$.{1,500}?\$\$|(?<!\\)\$(?=[^\s\d]|\d[^$\n]{0,500}(?<!\s)\$(?!\d))(?:\\.|[^$\\\n]){1,500}?\$(?!\d)"
    r"|(?<![\\$])\$\s(?=[^$\n]{1,500}\s\$(?!\s?\d))[^$\n]{1,500}\$|\\\(.{1,500}?\\\)|\\\[.{1,500}?\\\]"
)
_JOINED = re.compile(rf"(?:{_ENVIRONMENT})(?:\s*(?:,\s*)?(?:and|or|,)\s*(?:{_ENVIRONMENT}))*", re.DOTALL)
_BLANK = "[ \u00a0\u2009\u202f]"
_FIGURE = (
    rf"(?<![\w.,/^])[-−–+]?\s?(?:\\?[$€£¥₹]\s?)?(?:\d{{1,3}}(?:(?:[,']|\{{,\}}|\\,|{_BLANK})\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+|[½¼¾⅐-⅞])"
    rf"(?:[eE][-+]?\d+\b|\s*(?:[xX×*]|\\times)\s*10\s*(?:\^\s*\{{?[-−]?\d+\}}?|[⁻⁰-⁹¹²³]+))?"
    rf"(?:{_BLANK}?[½¼¾⅐-⅞]|{_BLANK}\d+\s?/\s?\d+|\s?[/⁄]\s?\d+(?![\d/]))?(?:\s?(?:\\?%|°|percent\b))?"
)
_TUPLE = r"(?<![\w)])[(\[]\s*[-−]?(?:\d+(?:[./]\d+)?|∞)(?:\s*,\s*[-−+]?(?:\d+(?:[./]\d+)?|∞))+\s*[)\]]"
_SPECIAL = r"(?:\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}|\\?sqrt\s*(?:\[\d\])?\{[^{}]*\}|\\pi(?![a-zA-Z])|π|[√∛∜]\s?\d+)"
_FORMULA = (
    rf"(?<![\w.,/^])[-−–]?\s?(?:\d+(?:[./]\d+)?\s?[-−+*/]\s?)?(?:\d+(?:[./]\d+)?\s?)?{_SPECIAL}"
    rf"(?:\s?[-−+*/]?\s?{_SPECIAL}|\s?[-−+*/^]\s?\d+(?:\.\d+)?)*"
)
_VALUES = re.compile(rf"{_JOINED.pattern}|{_TUPLE}|{_FORMULA}|(?:{_FIGURE})|(?<!\w)\([A-J]\)", re.DOTALL)
_DENIED = re.compile(
    r"\banswer\b[^.\n]{0,40}?\b(?:is|was)(?:\s+not|n't)\b(?:(?!\bbut\b|[,;]\s*(?:it|but|rather)\b)(?:[^.\n]|\.(?=\S)))*",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"\}(?:[ \t$,;&]|\n(?!\s*\n)|\\\\|\\[()\[\] ,]|\\q?quad|\\text\s*\{[\s,]*(?:and|or)?\s*\}|\band\b|\bor\b)*\Z"
)
_SENTENCE_END = re.compile(
    r"</|(?<![A-Z])[.!?。](?:[*_`\"')]*)(?:\s|\Z)|\n|;\s|\s\(?i\.e\."
    r"|,?\s(?:because|since|which|where|as|so|but|if|when|after|for)\s"
)
_VALUE = re.compile(r"\d|\\(?:infty|pi|emptyset|varnothing|sqrt)|[∞π∅√½]")


def _boxed(text: str) -> str | None:
    """Content of the last box, or of the last ones where nothing but commas and "and" stands between them."""
    found, head = [extract_boxed(text)], text
    while found[0] is not None:
        head = head[: head.rfind("\\boxed", 0, head.rfind(found[0]))]
        between = _BETWEEN.search(head, max(0, len(head) - 100))
        before = extract_boxed(head[: between.start() + 1]) if between else None
        if between is None or before is None or not head[: between.start() + 1].endswith(f"{{{before}}}"):
            return ", ".join(dict.fromkeys(filter(None, found)))
        found.insert(0, before)
    return None


def gold_answer(text: str) -> str:
    r"""The answer in a gold text: its last ``\boxed{...}``, what stands behind ``####``, or all of it.

    >>> gold_answer("48/2 = <<48/2=24>>24\n#### 72"), gold_answer(r"So $\boxed{5}$."), gold_answer("12 cm")
    ('72', '5', '12 cm')
    """
    boxed = _boxed(text)
    return (text.rpartition("####")[2] if boxed is None or not boxed.strip() else boxed).strip()


def stated_answer(text: str, guess: bool = True) -> str | None:
    r"""Find the answer that a text, without its thought, states.

    It is in the last ``\boxed{...}``, else behind the last "answer is" or "Answer:" (or ``####``, as GSM8K writes it). Else ``guess`` takes the
    last number or formula, or a text of few words. A last box that is never closed is no answer. None = there is nothing of these.

    >>> stated_answer("**Final Answer:** $x = 64$\n\nThat took 3 steps."), stated_answer("I say 41, no: 42.")
    ('$x = 64$', '42')
    """
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    if unclosed := list(re.finditer(r"\\boxed\s*\{", text)):
        text = text[: unclosed[-1].start()]
    text = _DENIED.sub("", text[-_LONGEST:])
    for mark in reversed(list(_STATED.finditer(text))):
        if (found := _after(text, mark.end())) is not None:
            return found
    whole = text.strip()
    short = len(whole) <= _LONGEST_READ and len(whole.split())
    if not guess or short == 1:
        return whole if guess else None
    values = [_said(found) for found in _VALUES.finditer(text)]
    if valued := [value for value in values if _VALUE.search(value)] or values:
        return valued[-1].strip()
    return whole if 0 < short <= 4 else None


def _said(found: re.Match[str]) -> str:
    """A value in a text, with the unit by which a comma in it is a decimal one."""
    tail = re.match(r"\s?[^\W\d_]+", found.string[found.end() : found.end() + 30])
    tail = tail if _DECIMAL_COMMA.fullmatch(found[0].strip()) else None
    return found[0] + (tail[0] if tail and _unit(tail[0].strip())[0] else "")


def _plain(answer: Answer, may_be_word: bool = True) -> bool:
    return answer.number is not None or bool(answer.word and may_be_word)


def _after(text: str, start: int) -> str | None:
    """The answer that begins at a place of a text."""
    rest = text[start : start + _LONGEST_READ].lstrip()
    found = _JOINED.match(rest) or _JOINED.match(rest.lstrip("*_`"))
    if found and not re.match(r"\s*=|\s+(?:is|are|equals)\b", found.string[found.end() :]):
        tail = re.match(r"\s*(?:\\?%|°|[a-zA-Z]+(?:\^\d|[²³])?)", found.string[found.end() :])
        unit = tail is not None and (tail[0].strip() in ("%", "\\%", "°", "percent") or _unit(tail[0].strip())[0] is not None)
        return found[0] + (tail[0] if tail and unit else "")
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    sentence = sentence.strip(" \t*_`")
    if found := re.match(r"(?i:option|choice)\s*\(?([A-Z])\b|\(?([A-Z])\)(?:\s|\Z)|([A-F])(?:[.:]\s|,\s(?=[a-z]))", sentence):
        return found[found.lastindex or 0]
    words = re.findall(r"[^\W\d_]{3,}", re.sub(r"\\[a-zA-Z]+", "", sentence))
    answer = read_answer(sentence)
    if not words or _plain(answer, len(words) <= 4) or (answer.parts and all(map(_plain, answer.parts))):
        return sentence or None
    verbs = list(re.finditer(r"\b(?:is|are|equals)\s", sentence))
    if verbs and (said := _after(sentence, verbs[-1].end())) is not None and _VALUE.search(said):
        return said
    values = [_said(found) for found in _VALUES.finditer(sentence)]
    return next(filter(_VALUE.search, values), values[0] if values else sentence if len(words) <= 4 else None)
