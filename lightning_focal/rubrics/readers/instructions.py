r"""Instructions that a program checks, as the checks of our rule judge: IFEval, IFBench, and what open-instruct trains on.

The instructions of IFEval and IFBench are checked by the package if-verifiable, whose code for the former is that of
open-instruct's own copy. Those that open-instruct added, and the functions of RLVR-IFeval (``open_instruct/if_functions.py``),
are in no kept package: here they are regular expressions that count as the published code does, outer white space of the response
left out. Instructions that take a tokenizer of sentences or words are refused in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lightning_focal.rubrics.criterion import RubricError
from lightning_focal.rubrics.readers.fields import Own, Row, at, decoded, found, without_none

__all__ = ["counted", "function_entries", "instruction_entries"]

Check = dict[str, Any]


def counted(pattern: str, least: int, most: int | None = None, ignore_case: bool = False) -> Check:
    r"""Return the check that ``pattern`` is found from ``least`` to ``most`` times, counted as ``re.findall`` does.

    >>> counted(r"\S+", 2, 3)["pattern"]
    '(?s)\\A(?>(?:(?!\\S+).)*+(?:\\S+)){2,3}+(?:(?!\\S+).)*+\\Z'
    """
    rest = "" if most is None else rf"(?:(?!{pattern}).)*+\Z"
    times = f"{{{max(least, 0)},{'' if most is None else most}}}+"
    return _regex(rf"(?s)\A(?>(?:(?!{pattern}).)*+(?:{pattern})){times}{rest}", ignore_case=ignore_case)


def _regex(pattern: str, kind: str = "regex", ignore_case: bool = False) -> Check:
    return {"kind": kind, "pattern": pattern, **({"ignore_case": True} if ignore_case else {})}


def _bounds(n: int, relation: str, slack: int) -> tuple[int, int | None]:
    known = {"at least": (n, None), "at most": (0, n), "less than": (0, n - 1), "around": (n - slack, n + slack)}
    if relation not in known:
        raise ValueError(f"a known relation ({', '.join(known)}), got {relation!r}")
    return known[relation]


def _tenth(n: int) -> int:
    return max(round(n * 0.1), 1)


def _texts(given: Any) -> list[str]:
    given = decoded(given)
    if not isinstance(given, list) or not given or not all(isinstance(text, str) and text for text in given):
        raise ValueError(f"a non-empty list of texts, got {given!r}")
    return [re.escape(text) for text in given]


def _word(word: str) -> str:
    if not re.fullmatch(r"\w+", word):
        raise ValueError(f"a word of letters and digits alone (its checker finds no other), got {word!r}")
    return rf"\b{word}\b"


def _one(letter: str) -> str:
    if len(letter) != 1:
        raise ValueError(f"one letter, got {letter!r}")
    return re.escape(letter)


def _parts(n: int, parting: str) -> str:
    """Match ``n`` parts, none of them blank, with ``parting`` between them."""
    part = rf"(?:(?!{parting})\s)*+(?!{parting})\S(?:(?!{parting}).)*+"
    return rf"(?:{part}){parting}" * (n - 1) + rf"(?:{part})"


def _copies(prompt_to_repeat: str, N: int = 1) -> Check:
    return _regex(r"(?s)\A\s*" + r"\s*\*{6}\s*".join([re.escape(prompt_to_repeat.strip())] * N) + r"\s*\Z", ignore_case=True)


def _sections(mark: str, n: int) -> Check:
    """The text falls into ``n`` parts at ``mark``; an empty one in front is none."""
    step = rf"(?>(?:(?!{mark}).)*+{mark})"
    return _regex(rf"(?s)\A\s*+(?:(?={mark}){step}{{{n}}}|(?!{mark}){step}{{{n - 1}}})(?:(?!{mark}).)*+\Z")


_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"'
_JSON = (
    rf"(?P<value>[ \t\r\n]*(?:{_STRING}|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null|NaN|-?Infinity"
    r"|\[(?:(?&value)(?:,(?&value))*+|[ \t\r\n]*)\]"
    rf"|\{{(?:[ \t\r\n]*{_STRING}[ \t\r\n]*:(?&value)(?:,[ \t\r\n]*{_STRING}[ \t\r\n]*:(?&value))*+|[ \t\r\n]*)\}})[ \t\r\n]*)"
)
_RULE, _STARS, _BLANK, _INNER = r"\* \* \*", r"\*{3}", r"\n\n", r"\n\n(?!\s*\Z)"
_SENTENCE = r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=\.|\?|!)\s(?!\s*\Z)"

_FUNCTIONS: dict[str, Callable[..., Check]] = {
    "verify_keywords": lambda keyword_list: _regex(
        r"(?s)\A" + "".join(f"(?=.*{text})" for text in _texts(keyword_list)), ignore_case=True
    ),
    "verify_keyword_frequency": lambda word, N: counted(_word(word), N, N, ignore_case=True),
    "validate_forbidden_words": lambda forbidden_words: _regex("|".join(_texts(forbidden_words)), "not_regex", ignore_case=True),
    "verify_letter_frequency": lambda letter, N: counted(_one(letter), N, N),
    "validate_response_language": lambda language: _ifeval("language:response_language", {"language": language}),
    "verify_paragraph_count": lambda N: _regex(rf"(?s)\A{_parts(N, _RULE)}\Z"),
    "validate_word_constraint": lambda N, quantifier: counted(r"\S+", *_bounds(N, quantifier, _tenth(N))),
    "verify_sentence_constraint": lambda N, quantifier: counted(_SENTENCE, *_bounds(N - 1, quantifier, 1)),
    "validate_paragraphs": lambda N, first_word, i: _regex(
        rf"(?s)\A\s*+(?=(?>(?:(?!\n\n).)*+\n\n){{{i - 1}}}(?:(?!\n\n)\s)*+{re.escape(first_word)})"
        rf"(?>(?:(?!{_INNER}).)*+{_INNER}){{{N - 1}}}(?:(?!{_INNER}).)*+\Z"
    ),
    "verify_postscript": lambda postscript_marker: _regex(rf"{re.escape(postscript_marker)}\s*\S"),
    "validate_placeholders": lambda N: counted(r"\[[^\n]*?\]", N),
    "verify_bullet_points": lambda N: counted(r"^[^\S\n]*[*\-][^\n]*", N, N),
    "validate_title": lambda: _regex(r"<<[^\n]*?>>"),
    "validate_choice": lambda options: _regex("|".join(_texts(options))),
    "validate_highlighted_sections": lambda N: counted(r"\*[^\n]*?\*", N),
    "validate_sections": lambda N, section_splitter: _sections(re.escape(section_splitter), N),
    "validate_json_format": lambda: _regex(rf"\A{_JSON}\Z"),
    "validate_repeat_prompt": lambda original_prompt: _regex(rf"\A\s*{re.escape(original_prompt)}"),
    "validate_two_responses": lambda: _regex(r"(?s)\A(?!\s*(.*?)\s*\*{6}\s*\1\s*\Z)(?:(?!\*{6}).)*+\*{6}(?:(?!\*{6}).)*+\Z"),
    "validate_uppercase": lambda: _regex(r"\p{Changes_When_Uppercased}", "not_regex"),
    "validate_lowercase": lambda: _regex(r"\p{Changes_When_Lowercased}", "not_regex"),
    "validate_frequency_capital_words": lambda N, quantifier: counted(r"\b[A-Z]+\b", *_bounds(N, quantifier, _tenth(N))),
    "validate_end": lambda end_phrase: _regex(rf"{re.escape(end_phrase)}\s*\Z"),
    "validate_quotation": lambda: _regex(r'(?s)\A\s*"(?:.*")?\s*\Z'),
    "validate_no_commas": lambda: _regex(",", "not_regex"),
}
"""The functions of RLVR-IFeval by name, each with the arguments that its rows give."""

_ADDED: dict[str, Callable[..., Check]] = {
    "copy:copy": _copies,
    "copy:copying_simple": _copies,
    "copy:copying_multiple": _copies,
    "new:copy_span_idx": lambda prompt_to_repeat, n_start, n_end: _copies(prompt_to_repeat[n_start:n_end]),
    "keywords:word_once": lambda keyword: counted(keyword, 1, 1, ignore_case=True),
    "keywords:word_count_different_numbers": lambda keyword, frequency, relation: counted(
        keyword, *_bounds(frequency, relation, 0), ignore_case=True
    ),
    "keywords:exclude_word_harder": lambda keyword: _regex(rf"\S\s*{re.escape(f' {keyword} ')}\s*\S", "not_regex"),
    "count:count_increment_word": lambda keyword1, keyword2: _regex(
        rf"(?={counted(keyword1, 1, 1)['pattern']}){counted(keyword2, 2, 2)['pattern']}", ignore_case=True
    ),
    "count:lowercase_counting": lambda N: counted(r"\b[a-z]+\b", 0, N),
    "letters:letter_counting": lambda N, relation: counted("[a-zA-Z]", *_bounds(N, relation, 0)),
    "letters:letter_counting2": lambda letter, let_frequency, let_relation: counted(
        _one(letter), *_bounds(let_frequency, let_relation, 0), ignore_case=True
    ),
    "paragraphs:paragraphs": lambda: _regex(rf"(?s)\A\s*(?:\*{{3}})?{_parts(2, _STARS)}(?:\*{{3}}\s*)?\Z"),
    "paragraphs:paragraphs2": lambda: _regex(rf"(?s)\A(?:(?:(?!\n\n)\s)*+\n\n)?{_parts(2, _BLANK)}(?:\n\n(?:(?!\n\n)\s)*+)?\Z"),
    "first_word:first_word_answer": lambda first_word: _regex(rf"\A\s*{re.escape(first_word)}(?!\S)", ignore_case=True),
    "last_word:last_word_answer": lambda last_word: _regex(
        r"(?<!\S)[^\w\s]*" + "".join(rf"{re.escape(letter)}[^\w\s]*" for letter in last_word) + r"\s*\Z", ignore_case=True
    ),
    "detectable_format:square_brackets": lambda: _regex(r"\A\s*(?:\[\S*\](?!\S)\s*)*+\Z"),
    "detectable_format:bigram_wrapping": lambda: _regex(r"\A\s*(?:<<\S*\s+\S*>>(?!\S)\s*)*+(?:\S+\s*)?\Z"),
    "punctuation:punctuation_dot": lambda: _regex(r"\.", "not_regex"),
    "punctuation:punctuation_exclamation": lambda: _regex("!", "not_regex"),
}
"""What open-instruct added to IFEval for training, by instruction; the others of its additions are in :data:`_REFUSED`."""

_COUNTS = frozenset(("N", "i", "frequency", "let_frequency", "n_start", "n_end"))
_REFUSED = frozenset((
    "copy:repeat_phrase", "detectable_format:sentence_hyphens", "keywords:no_adjacent_consecutive", "first_word:first_word_sent",
    "last_word:last_word_sent", "count:counting_composition", "count:count_unique", "keywords:palindrome",
    "keywords:keyword_specific_position", "keywords:start_end",
))  # fmt: skip


def _ifeval(instruction: str, arguments: Row) -> Check:
    return {"kind": "ifeval", "instruction": instruction, "arguments": dict(arguments)}


def _made(make: Callable[..., Check], name: str, arguments: Mapping[str, Any], where: str, path: str) -> Check:
    whole = {key: int(float(v)) if key in _COUNTS and re.fullmatch(r"\d+(\.0)?", str(v)) else v for key, v in arguments.items()}
    try:
        return make(**whole)
    except (TypeError, ValueError, AttributeError) as error:
        expected = f"with the arguments that {name} takes ({str(error).rpartition('() ')[2]})"
        raise RubricError(where, path, expected, whole) from None


def instruction_entries(row: Row, where: str) -> list[tuple[str, Row]]:
    """List IFEval's ``instruction_id_list`` and ``kwargs``, or ``instruction_id`` and ``kwargs`` within ``ground_truth``.

    Each instruction becomes a criterion of one point; null keyword arguments are dropped. The group of the instruction
    (``punctuation``) becomes the tag ``axis:...``.
    """
    name = found(row, ("instruction_id_list", "ground_truth.instruction_id"))
    beside = "kwargs" if name == "instruction_id_list" else "ground_truth.kwargs"
    ids, kwargs = decoded(at(row, name)), decoded(at(row, beside))
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) and one for one in ids):
        raise RubricError(where, name, "a non-empty list of strings", ids)
    kwargs = kwargs or [{}] * len(ids)
    if not isinstance(kwargs, list) or len(kwargs) != len(ids):
        raise RubricError(where, beside, f"a list of one mapping per instruction ({len(ids)})", kwargs)
    sentences = str(row.get("constraint", "")).split("\t")
    made: list[tuple[str, Row]] = []
    for i, (instruction, arguments) in enumerate(zip(ids, map(decoded, kwargs), strict=True)):
        path = f"{name}[{i}]"
        if arguments is not None and not isinstance(arguments, Mapping):
            raise RubricError(where, f"{beside}[{i}]", "a mapping", arguments)
        given = without_none(arguments or {})
        if instruction in _REFUSED:
            expected = "one that can be checked (its checker takes a tokenizer of sentences or words that no kept package has)"
            raise RubricError(where, path, expected, instruction)
        added = _ADDED.get(instruction)
        check = _made(added, instruction, given, where, path) if added else _ifeval(instruction, given)
        shown, count = ", ".join(f"{key} = {value}" for key, value in given.items()), ids[:i].count(instruction)
        text = f"Follows the instruction {instruction}{f' ({shown})' if shown else ''}."
        made.append((path, Own(
            name=f"{instruction}-{count + 1}" if count else instruction,
            description=sentences[i].strip() if len(sentences) == len(ids) and sentences[i].strip() else text,
            tags=[f"axis:{instruction.partition(':')[0]}"],
            check=check,
        )))  # fmt: skip
    return made


def function_entries(row: Row, where: str) -> list[tuple[str, Row]]:
    """List the one criterion of an RLVR-IFeval row: ``ground_truth`` names a function and its arguments."""
    given = without_none(decoded(at(row, "ground_truth")))
    given = decoded(given[0]) if isinstance(given, list) else given
    name = given["func_name"]
    arguments = {key: value for key, value in without_none(given).items() if key != "func_name"}
    if name not in _FUNCTIONS:
        raise RubricError(where, "ground_truth.func_name", f"one of {', '.join(_FUNCTIONS)}", name)
    check = _made(_FUNCTIONS[name], name, arguments, where, "ground_truth")
    text = str(row.get("constraint") or "").strip() or f"Follows the constraint {name} ({arguments})."
    return [("ground_truth", Own(title=name, description=text, check=check))]
