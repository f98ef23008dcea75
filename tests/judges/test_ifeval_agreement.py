"""The check `ifeval` and the package's own evaluation, case by case."""

from __future__ import annotations

import importlib

import pytest

from benchmarks import ifeval_agreement
from lightning_focal.judges import Outcome

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


@pytest.mark.parametrize("instruction", ifeval_agreement.CASES)
def test_few_cases_agree(instruction, splitter):
    found = ifeval_agreement.compare(instruction, 20, seed=1)
    assert found["if_verifiable"] == 20
    assert found["errors"] == 0


@pytest.mark.slow  # 500 cases an instruction: two minutes
@pytest.mark.parametrize("instruction", ifeval_agreement.CASES)
def test_five_hundred_cases_agree(instruction, splitter):
    found = ifeval_agreement.compare(instruction, 500, seed=0)
    assert found["if_verifiable"] == 500
    assert 25 <= found["met"] <= 475  # both outcomes are tried


@pytest.mark.parametrize(
    "instruction", ["punctuation:no_comma", "keywords:forbidden_words", "startend:quotation", *ifeval_agreement.NAMED]
)
def test_own_checks_differ_only_where_the_docs_say_so(instruction, splitter):
    found = ifeval_agreement.compare(instruction, 100, seed=2)
    assert found["own_check"] + found["own_check_differs_as_named"] == 100
    assert found["own_check"] >= (90 if instruction in ifeval_agreement.NAMED else 100)


@pytest.mark.parametrize(
    ("instruction", "arguments", "response", "own", "theirs"),
    [
        ("length_constraints:number_words", {"num_words": 2, "relation": "at least"}, "I'm", "not_met", "met"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "*Note* this.", "not_met", "met"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "+ one", "met", "not_met"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "---", "not_met", "met"),
    ],
)
def test_the_differences_that_the_docs_name(instruction, arguments, response, own, theirs, splitter):
    assert ifeval_agreement.ours(ifeval_agreement.OWN[instruction](arguments), response).value == own
    check = {"kind": "ifeval", "instruction": instruction, "arguments": arguments}
    assert ifeval_agreement.ours(check, response).value == theirs
    assert ifeval_agreement.NAMED[instruction](response)


def test_without_the_data_of_nltk_the_verdict_is_an_error(monkeypatch):
    util = importlib.import_module("if_verifiable.ifeval.instructions_util")

    def absent():
        raise LookupError("Resource punkt not found")

    monkeypatch.setattr(util, "_get_sentence_tokenizer", absent)
    arguments = {"num_sentences": 2, "relation": "at least"}
    check = {"kind": "ifeval", "instruction": "length_constraints:number_sentences", "arguments": arguments}
    assert ifeval_agreement.ours(check, "One. Two.") is Outcome.ERROR
