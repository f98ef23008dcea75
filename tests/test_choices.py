"""Arguments that are one of a few words are checked where they are given, not at their first use."""

import importlib
import inspect
import pkgutil
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from lightning_focal.callbacks import RolloutTable
from lightning_focal.data import ReasoningGymData
from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges import LocalJudge
from lightning_focal.modules import GRPOModule, SFTModule

HOUSES = ("rewards", "functional", "metrics", "judges", "callbacks", "data", "modules")
WRONG = "no such word"

# What a class must be given besides.
BASES = {"AnswerReward", "CertaintyScores"}
"""Only their subclasses can be made."""

NEEDED = {
    "Criterion": {"name": "short", "description": "Is short."},
    "FrozenVoteReward": {"votes": "runs/base/rollouts"},
    "FrozenVotes": {"votes": "runs/base/rollouts"},
    "GRPOModule": {"policy": "random:tiny-llama"},
    "PolicyModule": {"policy": "random:tiny-llama"},
    "SFTModule": {"policy": "random:tiny-llama"},
    "HTTPJudge": {"url": "http://localhost:1/v1", "model": "judge"},
    "GroupJudge": {"url": "http://localhost:1/v1", "model": "judge"},
    "PairDataModule": {"train": "x.jsonl"},
    "ReasoningGymData": {"task": "chain_sum"},
    "RubricDataModule": {"train": "x.jsonl"},
}


def rooms():
    for house in HOUSES:
        package = importlib.import_module(f"lightning_focal.{house}")
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def words_of(annotation):
    """The words that an annotation allows, in a union or by itself."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in words_of(part))


def choices():
    """Every argument that is one of a few words, of every class that can be made."""
    found = set()
    for room in rooms():
        for kind in vars(room).values():
            if not (inspect.isclass(kind) and kind.__module__.startswith("lightning_focal.")) or inspect.isabstract(kind):
                continue
            if kind.__name__ in BASES:
                continue
            for parent in kind.__mro__:  # arguments that are handed on as keywords, too
                own = vars(parent).get("__init__")
                if not inspect.isfunction(own) or not parent.__module__.startswith("lightning_focal."):
                    continue
                found |= {(kind, name) for name, annotation in get_type_hints(own).items() if words_of(annotation)}
                if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(own).parameters.values()):
                    break
    return sorted(found, key=lambda case: (case[0].__name__, case[1]))


@pytest.mark.parametrize(("kind", "name"), choices(), ids=lambda value: getattr(value, "__name__", value))
def test_a_word_that_there_is_not(kind, name):
    with pytest.raises(ValueError, match=rf"`([\w.]+\.)?{name}` must be .* got '{WRONG}'"):
        kind(**NEEDED.get(kind.__name__, {}), **{name: WRONG})


def test_they_are_found():
    names = {(kind.__name__, name) for kind, name in choices()}
    assert {("GroupAdvantage", "scale"), ("CoRewardingII", "scope"), ("PairDataModule", "on_bad_row")} <= names
    assert {("HTTPJudge", "per"), ("GRPOModule", "generator"), ("FocalReward", "weights")} <= names


WORDINGS = "'task', 'spelt', 'plain', 'told' or 'bare', got 'sung'"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: GRPOModule("random:tiny-llama", dtype="int8"), "`model.dtype` must be 'float32', .* or 'auto', got 'int8'"),
    (lambda: SFTModule("random:tiny-llama", dtype="int8"), "`model.dtype` must be 'float32', .* or 'auto', got 'int8'"),
    (lambda: LocalJudge("random:tiny-llama", dtype="int8"), "`dtype` must be 'float32', .* or 'auto', got 'int8'"),
    (lambda: RolloutTable(stages=["train", "valid"]), r"`stages\[1\]` must be 'train', 'val', 'test' or 'predict', got 'valid'"),
    (lambda: ReasoningGymData("chain_sum", wording="sung"), f"`data.wording` must be {WORDINGS}"),
    (lambda: ReasoningGymData("chain_sum", second_wording="sung"), f"`data.second_wording` must be null, {WORDINGS}"),
    (lambda: ReasoningGymData("maze", wording="told"), "`data.wording` must be 'task', got 'told'"),
])  # fmt: skip
def test_words_that_an_annotation_does_not_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_word_passes_that_is_allowed():
    for value in ("a", 0, None):
        expect_choice("x", value, ("a", 0, None))
    with pytest.raises(ValueError, match=r"^`x` must be 'a', 0 or null, got \['a'\]$"):
        expect_choice("x", ["a"], ("a", 0, None))
