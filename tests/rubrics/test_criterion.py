"""Criterion and Rubric: what they refuse, and their weights."""

from __future__ import annotations

import math
import pickle

import pytest

from lightning_focal.rubrics import Criterion, Rubric, RubricError


def test_defaults_and_what_equality_looks_at():
    assert Criterion("short", "At most 60 words.") == Criterion("short", "At most 60 words.", 1.0, (), None, 0.0, 1.0, False)
    assert (Criterion("rude", "", -2).is_fault, Criterion("kind", "").is_fault) == (True, False)
    assert Criterion("plain", "", check="no_commas").check == {"kind": "no_commas"}
    check = {"kind": "max_words", "words": 60}
    one, same = (Criterion("short", "x", check=check, where=where) for where in ("a:1", "b:2"))
    assert one == same == pickle.loads(pickle.dumps(one))
    assert len({one, same}) == 1
    check["words"] = 61
    assert one != Criterion("short", "x", check=check, where="a:1")


@pytest.mark.parametrize(("fields", "message"), [
    ({"name": " "}, "a.jsonl:3: `name` must be a non-empty string, got ' '"),
    ({"description": 3}, "a.jsonl:3: criterion 'n': `description` must be a string, got 3"),
    ({"points": math.nan}, "`points` must be a finite number, got nan"),
    ({"points": "3"}, "`points` must be a finite number, got '3'"),
    ({"points": True}, "`points` must be a finite number, got True"),
    ({"low": 1, "high": 1}, "`low` must be below `high` \\(1.0\\), got 1.0"),
    ({"high": math.inf}, "`high` must be a finite number, got inf"),
    ({"tags": "axis:x"}, "`tags` must be a list of strings, got 'axis:x'"),
    ({"required": 1}, "`required` must be true or false, got 1"),
    ({"scope": "reply"}, "a.jsonl:3: criterion 'n': `scope` must be answer, thought, both or conversation, got 'reply'"),
    ({"check": {"words": 3}}, "`check` must be the name of a kind or a mapping with a string `kind`, got {'words': 3}"),
])  # fmt: skip
def test_refused(fields, message):
    with pytest.raises(RubricError, match=message):
        Criterion(**{"name": "n", "description": "d", "where": "a.jsonl:3", **fields})


def test_rubric_error_is_a_value_error_and_pickles():
    error = RubricError("a:1", "points", "a finite number", "x" * 500)
    assert isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert len(str(error)) < 300
    assert str(RubricError("", "", "a mapping", 3)) == "the row must be a mapping, got 3"


def test_prior_weights_and_raw_score_in_healthbench_terms():
    for points, weights, most in (((3, -1, 0), (0.75, 0.25, 0.0), 3.0), ((-1, -3), (0.25, 0.75), 0.0)):
        rubric = Rubric(tuple(Criterion(f"c{i}", "", p) for i, p in enumerate(points)))
        assert (rubric.prior_weights, rubric.max_points, len(rubric)) == (weights, most, len(points))
        assert most or rubric.raw_score([False] * len(points)) is None
    rubric = Rubric((Criterion("a", "", 5), Criterion("b", "", 3), Criterion("c", "", -10)))
    met = [
        ([True, True, False], 1.0),
        ([True, False, False], 5 / 8),
        ([True, False, True], -5 / 8),
        ([0.5, 0.0, 0.0], 2.5 / 8),
    ]  # unclipped
    met += [([True, None, False], 1.0), ([None, None, True], None)]  # not judged: leaves both sums
    for values, score in met:
        assert rubric.raw_score(values) == score, values
    with pytest.raises(ValueError, match=r"`met_values` must hold one value per criterion \(3\), got 1"):
        rubric.raw_score([True])


A = Criterion("a", "")


@pytest.mark.parametrize(("criteria", "message"), [
    ((), "f:1: `criteria` must be at least one criterion, got \\[\\]"),
    ((Criterion("a", "", 0),), "`points` must be other than zero for some criterion, got \\[0.0\\]"),
    ((A, Criterion("b", ""), A), "`criteria\\[2\\].name` must be unique within the rubric \\(first at criteria\\[0\\]\\), got 'a'"),
    (("a",), "`criteria\\[0\\]` must be a Criterion, got 'a'"),
])  # fmt: skip
def test_rubric_refused(criteria, message):
    with pytest.raises(RubricError, match=message):
        Rubric(criteria, where="f:1")
