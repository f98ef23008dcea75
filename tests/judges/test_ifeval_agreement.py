"""The check `ifeval` and the package's own evaluation, case by case."""

import importlib
import re

import pytest

from benchmarks import ifeval_agreement
from lightning_focal.judges import Outcome, RuleJudge
from lightning_focal.rubrics import Criterion

pytest.importorskip("if_verifiable")


@pytest.fixture(scope="module")
def splitter():
    """With nltk's own sentence splitter, or the same stand-in on both sides."""
    import nltk

    kept = nltk.tokenize._get_punkt_tokenizer
    util = importlib.import_module("if_verifiable.ifeval.instructions_util")
    own = util._get_sentence_tokenizer
    _, found = ifeval_agreement.check_splitter()
    ifeval_agreement.stand_in(util, found)
    yield
    nltk.tokenize._get_punkt_tokenizer = kept
    util._get_sentence_tokenizer = own


def test_every_instruction_of_ifeval_has_cases():
    registry = importlib.import_module("if_verifiable.ifeval.instructions_registry")
    assert set(ifeval_agreement.CASES) == set(registry.INSTRUCTION_DICT)


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("instruction", ifeval_agreement.CASES)
def test_cases_agree(instruction, count, splitter):
    found = ifeval_agreement.compare(instruction, count, seed=1)
    assert found["if_verifiable"] == count
    assert found["errors"] == 0
    assert count < 200 or 10 <= found["met"] <= 190  # both outcomes are tried


OWN = ["punctuation:no_comma", "keywords:forbidden_words", "startend:quotation", *ifeval_agreement.NAMED]


@pytest.mark.parametrize("instruction", OWN)
def test_own_checks_differ_only_where_the_docs_say_so(instruction, splitter):
    found = ifeval_agreement.compare(instruction, 100, seed=2)
    assert found["own_check"] + found["own_check_differs_as_named"] == 100
    assert found["own_check"] >= (90 if instruction in ifeval_agreement.NAMED else 100)


@pytest.mark.parametrize(("instruction", "arguments", "response", "own", "theirs"), [
    ("length_constraints:number_words", {"num_words": 2, "relation": "at least"}, "I'm", "not_met", "met"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "*Note* this.", "not_met", "met"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "+ one", "met", "not_met"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "---", "not_met", "met"),
])  # fmt: skip
def test_the_differences_that_the_docs_name(instruction, arguments, response, own, theirs, splitter):
    assert ifeval_agreement.ours(ifeval_agreement.OWN[instruction](arguments), response).value == own
    check = {"kind": "ifeval", "instruction": instruction, "arguments": arguments}
    assert ifeval_agreement.ours(check, response).value == theirs
    assert ifeval_agreement.NAMED[instruction](response)


@pytest.mark.parametrize(("instruction", "arguments", "absent", "message"), [
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"},
     LookupError("  Resource 'punkt_tab' not found.\n  >>> nltk.download('punkt_tab')"),
     "`instruction` length_constraints:number_sentences needs the data punkt_tab of nltk: python -m nltk.downloader punkt_tab"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ImportError("No x"), "needs a package"),
    ("keywords:existence", {"keywords": ["a(b"]}, None, r"must be regular expressions, got {'keywords': ['a(b']}"),
])  # fmt: skip
def test_what_would_fail_on_every_response_is_refused_beforehand(monkeypatch, instruction, arguments, absent, message):
    def load():
        raise absent

    util = importlib.import_module("if_verifiable.ifeval.instructions_util")
    monkeypatch.setattr(util, "_get_sentence_tokenizer", load)
    check = {"kind": "ifeval", "instruction": instruction, "arguments": arguments}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        RuleJudge().validate(Criterion("c", "d", check=check, where="a.jsonl:3"))
    assert str(caught.value).startswith("a.jsonl:3: criterion 'c': check 'ifeval': ")


def test_what_passes_validation_fails_on_no_response():
    """The instructions of IFEval, validated with the data that is there: none gives an error later on."""
    validated = 0
    for instruction in ifeval_agreement.CASES:
        for arguments, response in ifeval_agreement.cases(instruction, 5, seed=3):
            check = {"kind": "ifeval", "instruction": instruction, "arguments": arguments}
            refused = False
            try:
                RuleJudge().validate(Criterion("c", "d", check=check))
            except ValueError as error:
                refused = "of nltk: python -m nltk.downloader" in str(error)
                if not refused:
                    raise
            if not refused:
                validated += 1
                assert ifeval_agreement.ours(check, response) is not Outcome.ERROR
    assert validated >= 5 * 20
