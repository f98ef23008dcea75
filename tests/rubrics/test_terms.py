"""Each format's own score against its definition, written out as a loop."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_focal.rubrics import FORMATS, Criterion, Rubric, read_rows
from tests.rubrics.test_formats import ROWS


def sum_over_positive(points, met):
    """HealthBench, RubricHub, RuscaRL, ResearchRubrics, plain: negative points count above the line alone."""
    earned = possible = 0.0
    for p, m in zip(points, met, strict=True):
        earned += p * m
        if p > 0:
            possible += p
    return earned / possible if possible > 0 else None


def rar(points, met):
    top = bottom = 0.0
    for w, c in zip(points, met, strict=True):
        top, bottom = top + w * c, bottom + w
    return top / bottom if bottom else None


def rlcf(points, met):
    grades = [100 * m for m in met]
    top = sum(s * w for s, w in zip(grades, points, strict=True))
    return min(1.0, max(0.0, top / sum(points) / 100)) if sum(points) else None


def ifeval(points, met):
    return sum(1 for m in met if m) / len(met)


DEFINITIONS = {
    "healthbench": sum_over_positive,
    "ifeval": ifeval,
    "plain": sum_over_positive,
    "rar": rar,
    "researchrubrics": sum_over_positive,
    "rlcf": rlcf,
    "rubrichub": sum_over_positive,
    "ruscarl": sum_over_positive,
}


def test_every_format_has_its_definition():
    assert DEFINITIONS.keys() == FORMATS.keys()


@settings(max_examples=100, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_score_is_that_of_the_definition(name, data):
    lowest = {"rlcf": 0, "ifeval": 1}.get(name, -10)
    points = data.draw(st.lists(st.integers(lowest, 100 if name == "rlcf" else 10), min_size=1, max_size=8).filter(any))
    steps = {"researchrubrics": [0, 0.5, 1], "rlcf": [0, 0.37, 1]}.get(name, [0, 1])
    met = data.draw(st.lists(st.sampled_from(steps), min_size=len(points), max_size=len(points)))
    rubric = Rubric(tuple(Criterion(f"c{i}", "", p) for i, p in enumerate(points)))
    if name == "ifeval":
        rubric = Rubric(tuple(Criterion(f"c{i}", "") for i in range(len(points))))
    expected = DEFINITIONS[name](points, met)
    assert FORMATS[name].score(rubric, met) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def tagged(points):
    return Rubric(tuple(Criterion(f"c{i}", "", p, tags) for i, (p, tags) in enumerate(points)))


def test_healthbench_by_tag():
    rubric = tagged(
        [(5, ("axis:accuracy", "level:example")), (3, ("axis:accuracy",)), (-8, ("axis:tone",)), (-2, ("axis:accuracy",))]
    )
    scores = FORMATS["healthbench"].by_tag(rubric, [1, 0, 1, 1])
    # accuracy: (5 - 2) / (5 + 3); tone has no positive item and so no score
    assert scores == {"axis:accuracy": 3 / 8, "level:example": 1.0}


def test_by_tag_leaves_out_what_was_not_judged():
    rubric = tagged([(5, ("a",)), (3, ("a", "b"))])
    assert FORMATS["healthbench"].by_tag(rubric, [1, None]) == {"a": 1.0}


@pytest.mark.parametrize("name", ["healthbench", "ruscarl"])
def test_only_the_mean_over_the_data_set_is_clipped(name):
    form, rubric = FORMATS[name], tagged([(5, ()), (-10, ())])
    assert form.score(rubric, [1, 1]) == -1.0
    assert form.mean([-1.0, 0.5]) == 0.0
    assert form.mean([-0.25, 0.75]) == 0.25
    assert form.mean([]) is None


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"healthbench", "ruscarl"}))
def test_other_means_are_plain(name):
    assert FORMATS[name].mean([-1.0, 0.5]) == -0.25
    assert FORMATS[name].mean([]) is None


def test_verifier_math_is_the_check_of_the_answer(tmp_path):
    path = tmp_path / "x.jsonl"
    right = {"description": "Is right.", "tags": ["verifier:math"]}
    path.write_text(json.dumps({"prompt": "1 + 1?", "answer": "2", "rubric": [right]}), encoding="utf-8")
    assert read_rows(path)[0].rubric.criteria[0].check == {"kind": "answer", "expected": "2"}
    path.write_text(json.dumps({"prompt": "1 + 1?", "rubric": [right]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"x.jsonl:1: `rubric\[0\].tags` must be used in a row with an `answer`, got"):
        read_rows(path)


def test_verifier_math_in_verl_rows(tmp_path):
    path = tmp_path / "x.jsonl"

    def check_of(tags):
        items = [{"criterion": "Is right.", "points": 1, "tags": tags}]
        model = {"style": "rubric", "ground_truth": "7", "rubrics": items}
        path.write_text(json.dumps({**ROWS["ruscarl"], "reward_model": model}), encoding="utf-8")
        return read_rows(path)[0].rubric.criteria[0].check

    assert check_of(["verifier:math"]) == {"kind": "answer", "expected": "7"}
    assert check_of(["verifier:math", "parameters:42"]) == {"kind": "answer", "expected": "42"}
    assert check_of({"verifier": "math", "parameters": 3}) == {"kind": "answer", "expected": "3"}
    assert check_of(["verifier:llm"]) is None
