"""The rule judge: what it refuses beforehand, and what it never lets a response do."""

import math
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_focal.judges import CHECKS, JudgeRequest, Outcome, RuleJudge, Verdict
from lightning_focal.judges.math_process import Comparison, Reply
from lightning_focal.judges.rules import check
from lightning_focal.rubrics import Criterion
from tests.growth import is_linear

CHAT = ({"role": "user", "content": "How do bicycles stay upright while riding slowly?"},)


PYTHON = {"kind": "python", "target": "tests.judges.functions:has_lines", "arguments": {"lines": 2}}
ANSWER = {"kind": "answer", "expected": "42"}


def criterion(check, name="c", **kwargs):
    return Criterion(name, "d", check=check, **kwargs)


def judge(response, *criteria, **kwargs):
    return RuleJudge(**kwargs).judge([JudgeRequest(CHAT, response, criteria)])[0]


@pytest.mark.parametrize(("spec", "message"), [
    (None, "a.jsonl:3: criterion 'c' has no `check`: a rule judge needs one, a model judge does not"),
    ("max_word", "a.jsonl:3: criterion 'c': `kind` must be a known check, got 'max_word' (did you mean 'max_words', "),
    ("zzz", "`kind` must be a known check, got 'zzz' (known: addresses_reader, answer, "),
    ("max_words", "check 'max_words' needs `words` (a whole number), got {'kind': 'max_words'}"),
    ({"kind": "max_words", "words": None}, "check 'max_words' needs `words` (a whole number)"),
    ({"kind": "max_words", "word": 3}, "check 'max_words' takes `words`, got `word`"),
    ({"kind": "no_commas", "words": 3}, "check 'no_commas' takes no arguments, got `words`"),
    ({"kind": "max_words", "words": True}, "`words` of check 'max_words' must be a whole number, got True"),
    ({"kind": "max_words", "words": -1}, "check 'max_words': `words` must be at least 0, got -1"),
    ({"kind": "words_between", "min": 3, "max": 2}, "check 'words_between': `min` must be at most `max` (2), got 3"),
    ({"kind": "keywords", "words": "tea"}, "`words` of check 'keywords' must be a list of non-empty strings, got 'tea'"),
    ({"kind": "keywords", "words": ["tea", " "]}, "must be a list of non-empty strings, got ['tea', ' ']"),
    ({"kind": "keywords", "words": ["a"], "at_least": 2}, "`at_least` must be from 1 to the number of words (1), got 2"),
    ({"kind": "keyword_count", "word": " "}, "check 'keyword_count': `word` must not be blank, got ' '"),
    ({"kind": "exact", "text": ""}, "`text` of check 'exact' must be a non-empty string or a list of non-empty strings, got"),
    ({"kind": "contains", "text": "a", "ignore_case": 1}, "`ignore_case` of check 'contains' must be true or false, got 1"),
    ({"kind": "regex", "pattern": "a(b"}, "`pattern` must be a regular expression, got 'a(b' (missing ) at position 3)"),
    ({"kind": "json", "schema": {"type": "thing"}}, "check 'json': `schema` must be a JSON schema, got {'type': 'thing'} ("),
    ({"kind": "json", "schema": 3}, "`schema` of check 'json' must be a mapping, got 3"),
    ({"kind": "headings", "level": 7}, "`level` must be from 1 to 6, got 7"),
    ({"kind": "target_words", "words": 5, "spread": 0}, "`spread` must be at least 1, got 0"),
    ({"kind": "min_unique_words", "ratio": 2}, "`ratio` must be from 0 to 1, got 2"),
    ({"kind": "min_unique_words", "ratio": float("nan")}, "`ratio` of check 'min_unique_words' must be a finite number, got"),
    ("readability", "check 'readability': `min` or `max` must be given, got neither"),
    ({"kind": "readability", "min": 9, "max": 1}, "`min` must be at most `max` (1), got 9"),
    ({"kind": "no_repeated_ngram", "n": 0}, "`n` must be at least 1, got 0"),
    ({"kind": "mentions_prompt", "at_least": 0}, "`at_least` must be at least 1, got 0"),
    ({"kind": "no_prompt_echo", "words": 0}, "`words` must be at least 1, got 0"),
    ({"kind": "python", "target": "math.sqrt"}, "`target` must read 'package.module:function', got 'math.sqrt'"),
    ({"kind": "python", "target": "no_such_module:f"}, "`target` must name a module that can be imported, got 'no_such_"),
    ({"kind": "python", "target": "math:no_such"}, "`target` must name a function of math, got 'math:no_such'"),
    (PYTHON | {"arguments": {"line": 1}}, "`arguments` must fit tests.judges.functions:has_lines(messages, response, ...), got {'line'"),
    ({"kind": "ifeval", "instruction": "no_comma"}, "`instruction` must be one of IFEval or IFBench (change_case:"),
    ({"kind": "ifeval", "instruction": "keywords:existence"}, "`arguments` of keywords:existence must hold keywords, got {}"),
    ({"kind": "ifeval", "instruction": "punctuation:no_comma", "arguments": {"x": 1}}, "must fit punctuation:no_comma, got {'x': 1}"),
    ({"kind": "answer", "expected": " "}, "`expected` must be a number or formula math-verify can read, got ' '"),
])  # fmt: skip
def test_bad_checks_are_refused_beforehand(spec, message):
    bad = criterion(spec, where="a.jsonl:3")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared whole
        RuleJudge().validate(bad)
    assert str(caught.value).startswith("a.jsonl:3: criterion 'c'")
    assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"a\.jsonl:3: criterion 'c'"):
        judge("", bad)


def test_an_empty_response_scores_zero_whatever_the_criterion():
    wish, fault = criterion({"kind": "max_words", "words": 60}), criterion("no_commas", "fault", points=-1)
    for response in ("", " \n\t", "\u200b\u00a0", "\ufeff"):
        row = judge(response, wish, fault, criterion("unique_words", "graded"))
        assert row == tuple(Verdict(Outcome(outcome), reason="empty response") for outcome in ("not_met", "met", "not_met"))
    assert judge(".", wish)[0].outcome is Outcome.MET


@pytest.mark.parametrize("kind", ["regex", "not_regex"])
def test_a_catastrophic_pattern_is_cut_off_as_an_error(kind):
    start = time.perf_counter()
    (verdict,) = judge("a" * 60 + "b", criterion({"kind": kind, "pattern": "(a|aa)+$"}), regex_timeout=0.1)
    assert time.perf_counter() - start < 2
    assert verdict == Verdict(Outcome.ERROR, reason="pattern '(a|aa)+$' cut off after 0.1 s")


def test_a_catastrophic_answer_is_an_error_and_spoils_no_other():
    texts = ("9^{9^{9^{9}}}", "42", "43")
    asked = [JudgeRequest(CHAT, rf"\boxed{{{text}}}", (criterion(ANSWER),)) for text in texts]
    with ThreadPoolExecutor(1) as pool:  # in any thread
        rows = pool.submit(RuleJudge().judge, asked).result()
    assert rows[0] == (Verdict(Outcome.ERROR, reason="math-verify cut off after 2 s"),)
    assert [verdict.outcome for (verdict,) in rows[1:]] == [Outcome.MET, Outcome.NOT_MET]


@pytest.mark.parametrize(("reply", "verdict"), [
    (Reply(Comparison.UNDECIDED, error="TypeError"), ("error", "math-verify could not compare the answer (TypeError)")),
    (Reply(Comparison.UNDECIDED, "given", "RecursionError"), ("not_met", "the answer cannot be read (RecursionError)")),
    (Reply(Comparison.UNDECIDED, "given", "nothing to read"), ("not_met", "no answer found")),
    (Reply(Comparison.CUT_OFF, unread="gold"), None),
])  # fmt: skip
def test_answers_that_cannot_be_compared(monkeypatch, reply, verdict):
    monkeypatch.setattr("lightning_focal.judges.equivalence.compare_texts", lambda *args: reply)
    if verdict is not None:
        assert judge(r"\boxed{x!}", criterion(ANSWER)) == (Verdict(Outcome(verdict[0]), reason=verdict[1]),)
    else:  # the expected answer takes too long to read
        with pytest.raises(ValueError, match="`expected` must be a number or formula math-verify can read, got '4x'"):
            RuleJudge().validate(criterion({"kind": "answer", "expected": "4x"}))


VALUES = [(True, "met", None), (False, "not_met", None), (None, "not_applicable", None), (2, "graded", 2.0), (5.5, "error", None)]
VALUES += [(math.nan, "error", None), ("yes", "error", None), (np.bool_(True), "met", None), (np.float32(0.5), "graded", 0.5)]


def test_python_functions():
    for value, outcome, grade in VALUES:
        spec = {"kind": "python", "target": "tests.judges.functions:constant", "arguments": {"value": value}}
        (verdict,) = judge("text", criterion(spec, low=0, high=5))
        assert (verdict.outcome.value, verdict.value, bool(verdict.reason)) == (outcome, grade, True)
    (verdict,) = judge("text", criterion({"kind": "python", "target": "tests.judges.functions:raises"}))
    assert verdict == Verdict(Outcome.ERROR, reason="check 'python' failed: KeyError: 'no such thing'")


def test_every_example_of_the_table_is_accepted_and_a_kind_registered_once():
    for kind in CHECKS:
        RuleJudge().validate(criterion(PYTHON if kind == "python" else dict(CHECKS[kind].example)))
    with pytest.raises(ValueError, match=r"`kind` must be a new name, got 'max_words'"):
        check("max_words")(lambda: None)
    for value in (0, -1, float("inf"), float("nan"), "1"):
        with pytest.raises(ValueError, match="`regex_timeout` must be a positive number of seconds, got"):
            RuleJudge(regex_timeout=value)


def test_verdicts_stand_in_order_and_a_used_judge_pickles():
    three, none, answer = criterion({"kind": "max_words", "words": 3}), criterion("no_commas", "d"), criterion(ANSWER)
    asked = [JudgeRequest(CHAT, "a, a 41 a", (three, none, answer)), JudgeRequest(CHAT, r"\boxed{42}", (answer,))]
    used = RuleJudge(regex_timeout=0.5)
    verdicts = used.judge(asked)
    assert [[verdict.outcome.value for verdict in row] for row in verdicts] == [["not_met"] * 3, ["met"]]
    copy = pickle.loads(pickle.dumps(used))
    assert (copy.regex_timeout, copy.judge(asked), copy.judge([])) == (0.5, verdicts, [])


def test_grades_are_stretched_and_ifeval_without_its_package_names_the_extra(monkeypatch):
    (verdict,) = judge("one two three", criterion({"kind": "target_words", "words": 4}, low=1, high=5))
    assert (verdict.outcome, verdict.value) == (Outcome.GRADED, 4.0)
    monkeypatch.setitem(sys.modules, "if_verifiable.ifeval.instructions_registry", None)
    with pytest.raises(ValueError, match=r"if-verifiable: pip install 'lightning-focal\[ifeval\]'"):
        RuleJudge().validate(criterion({"kind": "ifeval", "instruction": "punctuation:no_comma"}))


KINDS = [kind for kind in CHECKS if kind not in ("python", "answer", "environment")]
TEXT_CRITERIA = tuple(Criterion(k, "d", check=CHECKS[k].example, points=-1 if i % 2 else 1) for i, k in enumerate(KINDS))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(*(st.text(*alphabet, max_size=200) for alphabet in ((), ('aA1 .,!?\n-*#|[]()"`_~{}:\\é🙂\u2028',), ("|-: \n",)))),
    st.text(max_size=50),
)
def test_no_text_makes_a_rule_raise_or_fail(response, prompt):
    messages = ({"role": "user", "content": prompt},)
    (row,) = RuleJudge().judge([JudgeRequest(messages, response, TEXT_CRITERIA)])
    for verdict, judged in zip(row, TEXT_CRITERIA, strict=True):
        assert verdict.outcome is not Outcome.ERROR, (judged.name, verdict)
        assert verdict.value is None or 0 <= verdict.value <= 1
    assert row == RuleJudge().judge([JudgeRequest(messages, response, TEXT_CRITERIA)])[0]


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="\\boxed{}()^$0123456789+-/x= ", max_size=25))
def test_no_text_makes_the_answer_check_raise(response):
    (verdict,) = judge(response, criterion(ANSWER))
    assert isinstance(verdict, Verdict)


LONG = ["\n", "- ", "# ", "| ", "**", "__", '"', "[", "a ", "?! ", "```\n", "e.g. ", "1. ", "\\boxed{", "![", "` `` ", "<!--"]
LONG += ["a|b\n", "a://", "αα;", "क्", "🇩"]


@pytest.mark.parametrize("unit", LONG)
def test_long_responses_take_no_more_than_linear_time(unit):
    assert is_linear(lambda size: judge(unit * (size // len(unit)) + ".", *TEXT_CRITERIA), 40_000)
