"""Scores of extracted answers: votes, swapped votes, a teacher's votes, gold answers, certainty."""

import logging
import math
import time

import pytest
import torch

from lightning_focal.rewards import (
    GoldAnswers,
    NegativeEntropy,
    OwnVotes,
    PairVotes,
    SelfCertainty,
    TeacherVotes,
)
from lightning_focal.rewards.answers import AnswerBatch, shorten
from tests.helpers import make_prompts
from tests.rewards.answering import ScriptedAnswerer, answered

NAN = math.nan


def values(tensor):
    """Nested lists with None for NaN, so that they compare."""
    return [values(row) for row in tensor] if tensor.ndim else (None if tensor.isnan() else tensor.item())


def measured(scores, *names):
    return [values(scores.measures[name]) for name in names]


# -- majority voting --------------------------------------------------------------------------------------------------------


def test_own_votes_by_hand():
    scores = OwnVotes("string")(answered(["42", "41", "42", None], ["1", "2", "3", ""]))
    assert scores.scores.tolist() == [[[1], [0], [1], [0]], [[1], [0], [0], [0]]]  # a tie: the first seen
    assert scores.mask.all()
    assert scores.names == (("agreement",), ("agreement",))
    assert scores.weights.tolist() == [[1.0], [1.0]]
    share, distinct, none, unanswered = measured(scores, "vote/share", "vote/distinct", "vote/no_label", "vote/unanswered")
    assert share == pytest.approx([2 / 3, 1 / 3])
    assert distinct == [2, 3]
    assert none == [0, 0]
    assert unanswered == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert measured(scores, "vote/accuracy", "answer/accuracy") == [[None, None], [[None] * 4] * 2]
    assert scores.outcomes[0] == (("met",), ("not_met",), ("met",), ("not_met",))
    assert scores.reasons[0] == (
        ("answer 42, label 42 (2 of 3 votes)",),
        ("answer 41, label 42 (2 of 3 votes)",),
        ("answer 42, label 42 (2 of 3 votes)",),
        ("no boxed answer, label 42 (2 of 3 votes)",),
    )


def test_a_group_without_a_vote_is_masked_and_keeps_its_other_criteria():
    truncated = torch.tensor([[False, True], [True, False]])
    scores = OwnVotes("string", format=0.5, length=0.5)(answered([None, "  "], ["7", None], truncated=truncated))
    assert scores.names[0] == ("agreement", "format", "length")
    assert scores.weights.tolist() == [[0.5, 0.25, 0.25]] * 2
    assert scores.mask.tolist() == [[[False, True, True]] * 2, [[True, True, True]] * 2]
    assert scores.scores.tolist() == [[[0, 0, 1], [0, 0, 0]], [[1, 1, 0], [0, 0, 1]]]
    assert not scores.failed.any()
    assert scores.outcomes[0][0] == ("not_applicable", "not_met", "met")
    assert scores.reasons[0][1] == ("no label: there was no answer to vote for", "no boxed answer", "cut off by the length limit")
    assert measured(scores, "vote/share", "vote/no_label", "vote/accuracy") == [[None, 1.0], [1.0, 0.0], [None, None]]


def test_equivalence_decides_what_one_answer_is():
    group = ["0.5", "1/2", r"\frac{1}{2}", "2"]
    assert OwnVotes("math")(answered(group)).scores.flatten().tolist() == [1, 1, 1, 0]
    assert OwnVotes("string")(answered(group)).scores.flatten().tolist() == [1, 0, 0, 0]


def test_monsters_in_the_vote_are_cut_off_and_count_as_different():
    bomb = "9^{9^{9^{9^9}}}"
    huge = "1" * 100_000
    began = time.monotonic()
    scores = OwnVotes("math", format=1.0)(answered(["2", "2", bomb, huge], ["1/2", bomb, "0.5", "{" * 50_000]))
    assert time.monotonic() - began < 60
    assert scores.scores[..., 0].tolist() == [[1, 1, 0, 0], [1, 0, 1, 0]]
    assert scores.scores[..., 1].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert max(len(reason) for group in scores.reasons for row in group for reason in row) < 200


def test_equivalences_are_forgotten_after_a_batch():
    source = OwnVotes("math")
    source(answered(["x+1", "1+x"]))
    first = len(source.equivalence._seen)
    source(answered(["2x+1", "1+2x"]))
    assert len(source.equivalence._seen) == first


# -- swapped votes ----------------------------------------------------------------------------------------------------------


def test_each_wording_is_rewarded_by_the_vote_on_the_other():
    # vote(x) = 4, vote(x') = 5: the fours of x' and the fives of x are rewarded
    scores = PairVotes("string")(answered(["4", "4", "5"], ["5", "4", "5"], pairs=True))
    assert scores.scores[..., 0].tolist() == [[0, 0, 1], [0, 1, 0]]
    assert measured(scores, "vote/swap_agreement", "vote/share") == [[0, 0], pytest.approx([2 / 3, 2 / 3])]
    assert scores.reasons[0][0] == ("answer 4, label 5 (2 of 3 votes of the other wording)",)
    agreed = PairVotes("string")(answered(["4", "4", "5"], ["4", "4", None], pairs=True))
    assert agreed.scores[..., 0].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert measured(agreed, "vote/swap_agreement") == [[1, 1]]


def test_pairs_are_found_wherever_they_stand():
    rollouts = answered(["1", "1"], ["8", "9"], ["2", "1"], ["9", "9"])
    object.__setattr__(rollouts.prompts, "questions", ("a", "b", "a", "b"))
    scores = PairVotes("string")(rollouts)
    assert scores.scores[..., 0].tolist() == [[0, 0], [0, 1], [0, 1], [0, 0]]


def test_a_side_without_a_vote_masks_the_other():
    scores = PairVotes("string", format=1.0)(answered(["4", "5"], [None, None], pairs=True))
    assert scores.mask[..., 0].tolist() == [[False, False], [True, True]]
    assert scores.scores.tolist() == [[[0, 1], [0, 1]], [[0, 0], [0, 0]]]
    assert measured(scores, "vote/no_label", "vote/swap_agreement") == [[0, 1], [None, None]]
    assert scores.reasons[0][0][0] == "no label of the other wording: there was no answer to vote for"


def test_swapped_labels_are_measured_against_gold():
    scores = PairVotes("string")(answered(["4", "4", "5"], ["5", "4", "5"], pairs=True, answers=("4", "4")))
    assert measured(scores, "vote/accuracy", "answer/accuracy") == [[1, 0], [[1, 1, 0], [0, 1, 0]]]


def test_prompts_that_do_not_come_in_pairs():
    for call in (PairVotes().validate, lambda prompts: PairVotes()(answered(["1"], ["1"]))):
        with pytest.raises(
            ValueError, match=r"two wordings, 2 of 2 prompts have no other \(first: 'p0'\): write `data.pairs: true`"
        ):
            call(make_prompts(2))
    PairVotes().validate(make_prompts(2, questions=("a", "a"), views=(0, 1)))


# -- a teacher's votes ------------------------------------------------------------------------------------------------------


def test_the_students_answers_are_rewarded_by_the_teachers_vote():
    answerer = ScriptedAnswerer(["3", "3", "4", None], ["7", None, None, None], [None] * 4)
    source = TeacherVotes(4, "string", format=1.0)
    source.bind(answerer)
    rollouts = answered(["4", "4"], ["7", "8"], ["1", "1"], answers=("3", "8", None))
    scores = source(rollouts)
    assert answerer.asked == [(rollouts.prompts, "teacher", 4, True)]
    assert scores.scores[..., 0].tolist() == [[0, 0], [1, 0], [0, 0]]
    assert scores.mask[..., 0].tolist() == [[True, True], [True, True], [False, False]]
    assert scores.scores.shape == (3, 2, 2)  # the teacher's answers are no part of the batch
    assert scores.reasons[0][0][0] == "answer 4, label 3 (2 of 3 votes of the teacher)"
    share, distinct, no_label = measured(scores, "vote/share", "vote/distinct", "vote/no_label")
    assert share == [pytest.approx(2 / 3), 1.0, None]
    assert distinct == [2.0, 1.0, None]
    assert no_label == [0.0, 0.0, 1.0]
    assert measured(scores, "vote/accuracy", "vote/teacher_agreement") == [[1.0, 0.0, None], [0.0, 1.0, None]]
    assert measured(scores, "vote/unanswered", "answer/accuracy") == [[[0, 0]] * 3, [[0, 0], [0, 1], [None, None]]]


def test_a_teacher_answers_as_often_as_the_student_by_default():
    source, answerer = TeacherVotes(equivalence="string"), ScriptedAnswerer(["1"])
    source.bind(answerer)
    source(answered(["1", "2"]))
    assert answerer.asked[0][2] is None
    with pytest.raises(ValueError, match=r"`teacher_rollouts` must be >= 1 or null .* got 0"):
        TeacherVotes(0)


@pytest.mark.parametrize("source", [TeacherVotes(), SelfCertainty(), NegativeEntropy()])
def test_who_asks_the_policy_must_know_it(source):
    with pytest.raises(RuntimeError, match="asks the policy, and knows none yet"):
        source(answered(["1"]))


# -- gold answers -----------------------------------------------------------------------------------------------------------


def test_gold_answers_by_hand():
    scores = GoldAnswers()(answered(["1/2", "0.5", "3", None], ["1", "1", "1", "1"], answers=("0.5", None)))
    assert scores.names[0] == ("correct",)
    assert scores.scores[0].flatten().tolist() == [1, 1, 0, 0]
    assert scores.mask[..., 0].tolist() == [[True] * 4, [False] * 4]  # no gold answer: masked, not wrong
    assert measured(scores, "vote/accuracy", "answer/accuracy") == [[1, None], [[1, 1, 0, 0], [None] * 4]]
    assert scores.reasons[0][2] == ("answer 3, gold 0.5",)
    assert scores.reasons[1][0] == ("no gold answer is known",)


def test_a_worked_solution_may_stand_for_its_boxed_answer():
    scores = GoldAnswers()(answered(["4", "5"], answers=(r"Two and two make $\boxed{4}$.",)))
    assert scores.scores.flatten().tolist() == [1, 0]


def test_the_datas_own_grader_comes_first():
    seen = []

    def grader(answer):
        seen.append(answer)
        return {"right": 1.0, "near": 0.25, None: 0.0}.get(answer, 0.0)

    scores = GoldAnswers("string")(answered(["right", "near", "near", None], answers=("other",), graders=(grader,)))
    assert scores.scores.flatten().tolist() == [1, 0.25, 0.25, 0]
    assert scores.outcomes[0] == (("met",), ("graded",), ("graded",), ("not_met",))
    assert scores.reasons[0][1] == ("answer near, gold other, graded 0.25",)
    assert measured(scores, "answer/accuracy", "vote/accuracy") == [[[1, 0, 0, 0]], [0]]  # near is not right
    assert sorted(map(str, seen)) == ["None", "near", "right"]  # each answer once


@pytest.mark.parametrize("grade", [1.5, NAN, -1.0])
def test_a_grader_that_gives_no_share_is_an_error_and_no_score(grade):
    scores = GoldAnswers()(answered(["1", "2"], graders=(lambda answer: grade,)))
    assert not scores.mask.any()
    assert scores.failed.all()
    assert "the grader must return a number in [0, 1]" in scores.reasons[0][0][0]
    assert measured(scores, "answer/accuracy") == [[[None, None]]]


def test_a_grader_that_raises_does_not_end_the_run():
    def grader(answer):
        raise OverflowError("too large")

    scores = OwnVotes("string")(answered(["1", "2"], graders=(grader,)))
    assert scores.mask.all()  # no part of the reward
    assert measured(scores, "vote/accuracy", "answer/accuracy") == [[None], [[None, None]]]
    gold = GoldAnswers()(answered(["1", "2"], graders=(grader,)))
    assert gold.failed.all()
    assert gold.reasons[0][0] == ("answer 1: the grader failed (OverflowError: too large)",)


def test_a_grader_is_not_asked_about_a_hundred_kilobytes():
    scores = GoldAnswers()(answered(["1" * 100_000, "1"], graders=(lambda answer: float(len(answer) == 1),)))
    assert scores.scores.flatten().tolist() == [0, 1]
    assert scores.reasons[0][0] == ("answer 111111111111111111111111111111111... (100000 characters): too long to be graded",)


def test_training_without_any_gold_answer_is_an_error():
    with pytest.raises(
        ValueError, match=r"2 of 2 prompts have no gold answer \(first: 'p0'\), and GoldAnswers needs one: give the"
    ):
        GoldAnswers().validate(make_prompts(2, answers=(None, "  ")))


def test_missing_gold_answers_are_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        for source in (GoldAnswers(), GoldAnswers(unknown="warn")):
            source.validate(make_prompts(2, answers=("1", None)))
            source.validate(make_prompts(2, answers=("1", None)))
        held_out = GoldAnswers(unknown="warn")
        held_out.validate(make_prompts(2))
    assert [record.message.split(" have")[0] for record in caplog.records] == ["1 of 2 prompts"] * 2 + ["2 of 2 prompts"]
    assert "never counted as wrong" in caplog.text
    caplog.clear()
    GoldAnswers().validate(make_prompts(2, answers=("1", None), graders=(None, float)))
    assert not caplog.records


# -- certainty --------------------------------------------------------------------------------------------------------------


def test_certainties_are_straight_lines():
    answerer = ScriptedAnswerer(self_certainty=[[10.0, 25.0, 60.0, NAN]], entropy=[[0.0, 1.25, 12.5, NAN]])
    rollouts = answered(["1", "1", "2", None], answers=("1",))
    expected = {SelfCertainty: [0.2, 0.5, 1.0, 0.0], NegativeEntropy: [1.0, 0.9, 0.0, 0.0]}
    for kind, line in expected.items():
        source = kind(equivalence="string", format=1.0)
        source.bind(answerer)
        scores = source(rollouts)
        assert scores.names[0] == ("certainty", "format")
        assert scores.scores[0, :, 0].tolist() == pytest.approx(line)
        assert scores.mask[0].tolist() == [[True, True], [True, True], [True, True], [False, True]]  # an empty response
        assert measured(scores, "certainty/self_certainty", "certainty/entropy") == [
            [[10.0, 25.0, 60.0, None]],
            [[0.0, 1.25, 12.5, None]],
        ]
        assert measured(scores, "vote/share", "vote/accuracy") == [pytest.approx([2 / 3]), [1.0]]
        assert measured(scores, "certainty/clamped") == [[[0.0, 0.0, float(kind is SelfCertainty), None]]]
    assert scores.reasons[0][1][0] == "entropy 1.250 nats a token"
    assert scores.outcomes[0][3][0] == "not_applicable"


@pytest.mark.parametrize("ceiling", [0.0, -1.0, NAN, math.inf])
def test_a_ceiling_is_a_number_of_nats(ceiling):
    with pytest.raises(ValueError, match="`ceiling` must be a finite number of nats > 0"):
        SelfCertainty(ceiling=ceiling)


# -- all of them ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [OwnVotes, PairVotes, TeacherVotes, GoldAnswers, SelfCertainty, NegativeEntropy])
def test_measures_have_the_same_names_in_every_batch(source):
    made = source(equivalence="string")
    names = []
    for groups, gold in (((["1", "2"], ["1", "1"]), ("1", "1")), (([None, None], [None, None]), ())):
        made.bind(ScriptedAnswerer(*groups, self_certainty=[[1.0, NAN]] * 2, entropy=[[1.0, NAN]] * 2))
        names.append(list(made(answered(*groups, pairs=True, answers=gold)).measures))
    assert names[0] == names[1]
    assert {"vote/share", "vote/distinct", "vote/no_label", "vote/unanswered", "vote/accuracy", "answer/accuracy"} <= set(
        names[0]
    )


@pytest.mark.parametrize("source", [OwnVotes, PairVotes, TeacherVotes, GoldAnswers, SelfCertainty, NegativeEntropy])
def test_arguments_are_checked(source):
    for name in ("format", "length"):
        for weight in (-1.0, NAN, math.inf):
            with pytest.raises(ValueError, match=rf"`{name}` must be a weight >= 0"):
                source(**{name: weight})
    with pytest.raises(ValueError, match=r"`equivalence` must be 'math' or 'string', got 'maths'"):
        source(equivalence="maths")


def test_keys_are_known_before_training():
    assert OwnVotes(format=0.1).level_keys() == ["agreement", "format"]
    assert GoldAnswers(length=0.1).level_keys() == ["correct", "length"]
    assert SelfCertainty().level_keys() == ["certainty"]


def test_the_last_box_counts():
    rollouts = answered(["1"])
    object.__setattr__(rollouts, "texts", ((r"\boxed{1} no: $\boxed{ \frac{1}{2} }$",),))
    assert AnswerBatch(rollouts, OwnVotes("string").equivalence).answers == [[r"\frac{1}{2}"]]


def test_shorten():
    assert shorten("a\n  b") == "a b"
    assert shorten("x" * 40) == "x" * 40
    assert shorten("x" * 41) == "x" * 33 + "... (41 characters)"
    assert shorten(" " * 500 + "x") == "... (501 characters)"
