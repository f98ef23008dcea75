"""Verdicts become scores."""

import math

import pytest
import torch

from lightning_focal.judges import Outcome, Verdict, verdicts_to_scores
from lightning_focal.rubrics import Criterion, Rubric

MET = Verdict(Outcome.MET, reason="yes")
MISSED = Verdict(Outcome.NOT_MET, reason="no")
ERROR = Verdict(Outcome.ERROR, reason="time-out")
NOT_APPLICABLE = Verdict(Outcome.NOT_APPLICABLE)


def graded(value):
    return Verdict(Outcome.GRADED, value)


RIGHT, RUDE = Criterion("right", "", 3, tags=("axis:accuracy",)), Criterion("rude", "", -1)
LONG, SHORT = Rubric((RIGHT, RUDE, Criterion("tone", "", 4, low=1, high=5))), Rubric((Criterion("short", "", 2),))


def test_scores_masks_and_weights_by_hand():
    verdicts = [[(MET, MET, graded(4.0)), (MISSED, MISSED, graded(1.0))], [(ERROR,), (NOT_APPLICABLE,)]]
    scores = verdicts_to_scores(verdicts, [LONG, SHORT])
    assert scores.scores.tolist() == [[[1, 0, 0.75], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert scores.mask.tolist() == [[[True] * 3, [True] * 3], [[False] * 3, [False] * 3]]
    assert scores.failed.tolist() == [[[False] * 3, [False] * 3], [[True, False, False], [False] * 3]]
    assert scores.weights.tolist() == [[0.375, 0.125, 0.5], [1, 0, 0]]
    assert scores.names == (("right", "rude", "tone"), ("short",))
    assert scores.tags == ((("axis:accuracy",), (), ()), ((),))
    assert scores.keys == (("accuracy", "rude", "tone"), ("short",))
    assert scores.outcomes == ((("met", "met", "graded"), ("not_met", "not_met", "graded")), (("error",), ("not_applicable",)))
    assert scores.reasons[1][0] == ("time-out",)
    assert scores.valid.tolist() == [[True, True], [False, False]]
    assert (scores.scores.dtype, scores.weights.dtype) == (torch.float32, torch.float32)
    # a failed judgement of a fault is masked, and no praise
    scores = verdicts_to_scores([[(ERROR,), (NOT_APPLICABLE,), (MET,)]], [Rubric((RUDE,))])
    assert scores.mask.tolist() == [[[False], [False], [True]]]
    assert scores.scores.tolist() == [[[0], [0], [0]]]


@pytest.mark.parametrize(("points", "grade", "score"), [(-1, 4.0, 0.25), (1, 4.0, 0.75), (1, 7.0, 1), (1, -1.0, 0)])
def test_a_grade_is_turned_round_for_a_fault_and_clipped(points, grade, score):
    scores = verdicts_to_scores([[(graded(grade),)]], [Rubric((Criterion("a", "", points, low=1, high=5),))])
    assert scores.scores.tolist() == [[[score]]]
    assert tuple(verdicts_to_scores([], []).scores.shape) == (0, 0, 0)


@pytest.mark.parametrize(("verdicts", "rubrics", "message"), [
    ([[(MET,)]], [], r"`verdicts` must hold one group per rubric \(0\), got 1"),
    ([[(MET,)], []], [SHORT, SHORT], r"`verdicts\[1\]` must hold 1 rollouts like the first group, got 0"),
    ([[(MET, MET)]], [SHORT], r"`verdicts\[0\]\[0\]` must hold one verdict per criterion \(1\), got 2"),
])  # fmt: skip
def test_lengths_are_checked(verdicts, rubrics, message):
    with pytest.raises(ValueError, match=message):
        verdicts_to_scores(verdicts, rubrics)


def test_only_a_graded_verdict_has_a_value_and_it_is_finite():
    for value in (None, math.nan, math.inf):
        with pytest.raises(ValueError, match="`value` of a graded verdict must be a finite number, got"):
            Verdict(Outcome.GRADED, value)
    with pytest.raises(ValueError, match=r"`value` belongs to graded verdicts alone, got 1\.0 with outcome 'met'"):
        Verdict(Outcome.MET, 1.0)
    criterion = Criterion("a", "", low=1, high=5)
    values = [verdict.met(criterion) for verdict in (MET, MISSED, graded(2.0), ERROR, NOT_APPLICABLE)]
    assert values == [1.0, 0.0, 0.25, None, None]
