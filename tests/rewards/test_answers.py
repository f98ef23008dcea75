"""Scores of extracted answers: votes, swapped votes, a teacher's votes, gold answers, certainty."""

import logging
import math
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightning_focal import rewards as rw
from lightning_focal.rewards.answers import AnswerBatch, shorten
from tests.helpers import make_prompts, make_rollouts
from tests.rewards.answering import ScriptedAnswerer, answered

NAN = math.nan
SOURCES = [rw.OwnVotes, rw.PairVotes, rw.TeacherVotes, rw.GoldAnswers, rw.SelfCertainty, rw.NegativeEntropy]


def plain(tensor):
    """Nested lists with None for NaN, so that they compare."""
    return [plain(row) for row in tensor] if tensor.ndim else (None if tensor.isnan() else tensor.item())


def measured(scores, *names):
    return [plain(scores.measures[name]) for name in names]


# -- majority voting --------------------------------------------------------------------------------------------------------


def test_own_votes_by_hand():
    scores = rw.OwnVotes("string")(answered(["42", "41", "42", None], ["1", "2", "3", ""]))
    assert scores.scores.tolist() == [[[1], [0], [1], [0]], [[1], [0], [0], [0]]]  # a tie: the first seen
    assert scores.mask.all()
    assert (scores.names, scores.weights.tolist()) == ((("agreement",), ("agreement",)), [[1.0], [1.0]])
    assert measured(scores, "vote/share", "vote/distinct") == [pytest.approx([2 / 3, 1 / 3]), [2, 3]]
    assert measured(scores, "vote/no_label", "vote/unanswered") == [[0, 0], [[0, 0, 0, 1], [0, 0, 0, 1]]]
    assert measured(scores, "vote/accuracy", "answer/accuracy") == [[None, None], [[None] * 4] * 2]
    assert scores.outcomes[0] == (("met",), ("not_met",), ("met",), ("not_met",))
    said = ("answer 42", "answer 41", "answer 42", "no answer")
    assert scores.reasons[0] == tuple((f"{answer}, label 42 (2 of 3 votes)",) for answer in said)


def test_a_group_without_a_vote_is_masked_and_keeps_its_other_criteria():
    truncated = torch.tensor([[False, True], [True, False]])
    scores = rw.OwnVotes("string", format=0.5, length=0.5)(answered([None, "  "], ["7", None], truncated=truncated))
    assert scores.names[0] == ("agreement", "format", "length")
    assert scores.weights.tolist() == [[0.5, 0.25, 0.25]] * 2
    assert scores.mask.tolist() == [[[False, True, True]] * 2, [[True, True, True]] * 2]
    assert scores.scores.tolist() == [[[0, 0, 1], [0, 0, 0]], [[1, 1, 0], [0, 0, 1]]]
    assert not scores.failed.any()
    assert scores.outcomes[0][0] == ("not_applicable", "not_met", "met")
    assert scores.reasons[0][1] == ("no label: there was no answer to vote for", "no boxed answer", "cut off by the length limit")
    assert measured(scores, "vote/share", "vote/no_label", "vote/accuracy") == [[None, 1.0], [1.0, 0.0], [None, None]]


def test_equivalence_decides_what_one_answer_is_and_is_forgotten_after_a_batch():
    group, source = ["0.5", "1/2", r"\frac{1}{2}", "2"], rw.OwnVotes("math")
    assert source(answered(group)).scores.flatten().tolist() == [1, 1, 1, 0]
    assert rw.OwnVotes("string")(answered(group)).scores.flatten().tolist() == [1, 0, 0, 0]
    groups = (["4e-7", "1e-7", "0.0000004", "0"], ["act", "cat", r"\text{act}", "tac"], ["5 km", "5 cm", "5000 m", "5 kg"])
    assert source(answered(*groups)).scores[..., 0].tolist() == [[1, 0, 1, 0]] * 3
    source(answered([r"\ln x+1", r"1+\ln x"]))
    first = len(source.equivalence._seen)
    source(answered([r"\ln x+2", r"2+\ln x"]))
    assert len(source.equivalence._seen) == first


def test_monsters_in_the_vote_are_cut_off_and_count_as_different():
    bomb, huge = "9^{9^{9^{9^9}}}", "1" * 100_000
    began = time.monotonic()
    scores = rw.OwnVotes("math", format=1.0)(answered(["1/2", bomb, "0.5", huge, "{" * 50_000]))
    assert time.monotonic() - began < 60
    assert scores.scores[0].tolist() == [[1, 1], [0, 1], [1, 1], [0, 1], [0, 0]]
    assert max(len(reason) for row in scores.reasons[0] for reason in row) < 200


# -- swapped votes ----------------------------------------------------------------------------------------------------------


def test_each_wording_is_rewarded_by_the_vote_on_the_other():
    # vote(x) = 4, vote(x') = 5: the fours of x' and the fives of x are rewarded
    scores = rw.PairVotes("string")(answered(["4", "4", "5"], ["5", "4", "5"], pairs=True, answers=("4", "4")))
    assert scores.scores[..., 0].tolist() == [[0, 0, 1], [0, 1, 0]]
    assert measured(scores, "vote/swap_agreement", "vote/share") == [[0, 0], pytest.approx([2 / 3, 2 / 3])]
    assert measured(scores, "vote/accuracy", "answer/accuracy") == [[1, 0], [[1, 1, 0], [0, 1, 0]]]
    assert scores.reasons[0][0] == ("answer 4, label 5 (2 of 3 votes of the other wording)",)
    agreed = rw.PairVotes("string")(answered(["4", "4", "5"], ["4", "4", None], pairs=True))
    assert agreed.scores[..., 0].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert measured(agreed, "vote/swap_agreement") == [[1, 1]]
    apart = answered(["1", "1"], ["8", "9"], ["2", "1"], ["9", "9"])  # pairs are found wherever they stand
    object.__setattr__(apart.prompts, "questions", ("a", "b", "a", "b"))
    assert rw.PairVotes("string")(apart).scores[..., 0].tolist() == [[0, 0], [0, 1], [0, 1], [0, 0]]


def test_a_side_without_a_vote_masks_the_other():
    scores = rw.PairVotes("string", format=1.0)(answered(["4", "5"], [None, None], pairs=True))
    assert scores.mask[..., 0].tolist() == [[False, False], [True, True]]
    assert scores.scores.tolist() == [[[0, 1], [0, 1]], [[0, 0], [0, 0]]]
    assert measured(scores, "vote/no_label", "vote/swap_agreement") == [[0, 1], [None, None]]
    assert scores.reasons[0][0][0] == "no label of the other wording: there was no answer to vote for"


def test_prompts_that_do_not_come_in_pairs():
    for call in (rw.PairVotes().validate, lambda prompts: rw.PairVotes()(answered(["1"], ["1"]))):
        with pytest.raises(
            ValueError, match=r"two wordings, 2 of 2 prompts have no other \(first: 'p0'\): write `data.pairs: true`"
        ):
            call(make_prompts(2))
    rw.PairVotes().validate(make_prompts(2, questions=("a", "a"), views=(0, 1)))


# -- a teacher's votes ------------------------------------------------------------------------------------------------------


def test_the_students_answers_are_rewarded_by_the_teachers_vote():
    answerer = ScriptedAnswerer(["3", "3", "4", None], ["7", None, None, None], [None] * 4)
    source = rw.TeacherVotes(4, equivalence="string", format=1.0)
    source.bind(answerer)
    rollouts = answered(["4", "4"], ["7", "8"], ["1", "1"], answers=("3", "8", None))
    scores = source(rollouts)
    assert answerer.asked == [(rollouts.prompts, "teacher", 4, True)]
    assert scores.scores[..., 0].tolist() == [[0, 0], [1, 0], [0, 0]]
    assert scores.mask[..., 0].tolist() == [[True, True], [True, True], [False, False]]
    assert scores.scores.shape == (3, 2, 2)  # the teacher's answers are no part of the batch
    assert scores.reasons[0][0][0] == "answer 4, label 3 (2 of 3 votes of the teacher)"
    assert measured(scores, "vote/share", "vote/distinct") == [[pytest.approx(2 / 3), 1.0, None], [2.0, 1.0, None]]
    assert measured(scores, "vote/no_label", "vote/accuracy") == [[0.0, 0.0, 1.0], [1.0, 0.0, None]]
    assert measured(scores, "vote/teacher_agreement", "vote/unanswered") == [[0.0, 1.0, None], [[0, 0]] * 3]
    assert measured(scores, "answer/accuracy") == [[[0, 0], [0, 1], [None, None]]]
    source = rw.TeacherVotes(equivalence="string")
    source.bind(answerer)
    source(answered(["1", "2"], ["1", "2"], ["1", "2"]))
    assert answerer.asked[1][2] is None  # as often as the student


def test_the_teachers_vote_on_each_wording_labels_the_other():
    # teacher: vote(x) = 3, vote(x') = 4; the fours of x and the threes of x' are rewarded
    source = rw.PairedTeacherVotes(3, equivalence="string")
    source.bind(answerer := ScriptedAnswerer(["3", "3", "4"], ["4", None, "4"]))
    rollouts = answered(["4", "3"], ["4", "3"], pairs=True, answers=("4", "4"))
    scores = source(rollouts)
    assert answerer.asked == [(rollouts.prompts, "teacher", 3, True)]
    assert scores.scores[..., 0].tolist() == [[1, 0], [0, 1]]
    assert scores.reasons[0][0] == ("answer 4, label 4 (2 of 2 votes of the teacher on the other wording)",)
    assert measured(scores, "vote/accuracy", "vote/swap_agreement", "vote/teacher_agreement") == [[1, 0], [0, 0], [1, 0]]
    source.bind(ScriptedAnswerer(["3", "3"], [None, None]))
    scores = source(rollouts)  # without a label on one side the other is masked
    assert scores.mask[..., 0].tolist() == [[False, False], [True, True]]
    for call in (source.validate, lambda prompts: source(answered(["1"], ["1"]))):
        with pytest.raises(ValueError, match=r"two wordings, 2 of 2 prompts have no other"):
            call(make_prompts(2))


def test_more_may_vote_than_are_trained():
    source = rw.OwnVotes(voters=5, equivalence="string")
    source.bind(answerer := ScriptedAnswerer(["2", "2", None], ["8", "8", "8"]))
    rollouts = answered(["1", "2"], ["7", "7"], answers=("2", None))
    scores = source(rollouts)
    assert answerer.asked == [(rollouts.prompts, "voters", 3, False)]
    assert scores.scores[..., 0].tolist() == [[0, 1], [0, 0]]
    assert scores.reasons[1][0] == ("answer 7, label 8 (3 of 5 votes)",)
    assert measured(scores, "vote/accuracy", "vote/share") == [[1, None], pytest.approx([3 / 4, 3 / 5])]
    assert rw.OwnVotes(voters=2, equivalence="string")(rollouts).scores[..., 0].tolist() == [
        [1, 0],
        [1, 1],
    ]  # nobody further is asked
    with pytest.raises(ValueError, match=r"`voters` must be at least `model.group_size` = 2, got 1"):
        rw.OwnVotes(voters=1)(rollouts)


def test_recorded_votes_are_labels(tmp_path):
    recorded = [("p0", r"\boxed{5}", None), ("p0", r"<think>\boxed{6}</think> \boxed{5}", r"\boxed{6}"), ("p0", "none", None)]
    recorded += [("p1", r"\boxed{1}", None), ("p1", r"\boxed{2}", None)]
    rows = [dict(zip(("prompt_id", "response", "thought"), row, strict=True)) for row in recorded]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-000000.parquet")
    source = rw.FrozenVotes(str(tmp_path), equivalence="string")
    source.validate(make_prompts(2))
    scores = source(answered(["5", "6"], ["2", "2"], answers=("5", "1")))
    assert scores.scores[..., 0].tolist() == [[1, 0], [0, 0]]  # a tie: the first recorded
    assert scores.reasons[0][0] == ("answer 5, label 5 (2 of 2 votes recorded before)",)
    assert measured(scores, "vote/accuracy", "vote/frozen_agreement") == [[1, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"`votes`: 1 of 3 prompts have no recorded answer in .* \(first: 'p2'\)"):
        source.validate(make_prompts(3))
    with pytest.raises(ValueError, match=r"`votes`: no rollouts in .*; expected the folder `rollouts` of a run"):
        rw.FrozenVotes(str(tmp_path / "none")).validate(make_prompts(1))


# -- gold answers -----------------------------------------------------------------------------------------------------------


def test_gold_answers_by_hand():
    scores = rw.GoldAnswers()(answered(["1/2", "0.5", "3", None], ["1", "1", "1", "1"], answers=("0.5", None)))
    assert scores.names[0] == ("correct",)
    assert scores.scores[0].flatten().tolist() == [1, 1, 0, 0]
    assert scores.mask[..., 0].tolist() == [[True] * 4, [False] * 4]  # no gold answer: masked, not wrong
    assert measured(scores, "vote/accuracy", "answer/accuracy") == [[1, None], [[1, 1, 0, 0], [None] * 4]]
    assert (scores.reasons[0][2], scores.reasons[1][0]) == (("answer 3, gold 0.5",), ("no gold answer is known",))
    worked = rw.GoldAnswers()(answered(["4", "5"], answers=(r"Two and two make $\boxed{4}$.",)))
    assert worked.scores.flatten().tolist() == [1, 0]


def test_the_datas_own_grader_comes_first():
    seen = []

    def grader(answer):
        seen.append(answer)
        return {"right": 1.0, "near": 0.25}.get(answer, 0.0)

    rollouts = answered(["right", "near", "near", None], answers=("other",), graders=(grader,))
    scores = rw.GoldAnswers(equivalence="string")(rollouts)
    assert scores.scores.flatten().tolist() == [1, 0.25, 0.25, 0]
    assert scores.outcomes[0] == (("met",), ("graded",), ("graded",), ("not_met",))
    assert scores.reasons[0][1] == ("answer near, gold other, graded 0.25",)
    assert measured(scores, "answer/accuracy", "vote/accuracy") == [[[1, 0, 0, 0]], [0]]  # near is not right
    assert sorted(map(str, seen)) == ["None", "near", "right"]  # each answer once
    scores = rw.GoldAnswers()(answered(["1" * 100_000, "1"], graders=(lambda answer: float(len(answer) == 1),)))
    assert scores.scores.flatten().tolist() == [0, 1]
    assert scores.reasons[0][0] == ("answer 111111111111111111111111111111111... (100000 characters): too long to be graded",)


def raising(answer):
    raise OverflowError("too large")


@pytest.mark.parametrize(
    ("grader", "reason"),
    [(lambda answer, grade=grade: grade, "the grader must return a number in [0, 1], got") for grade in (1.5, NAN, -1.0)]
    + [(raising, "answer 1: the grader failed (OverflowError: too large)")],
)
def test_a_grader_that_fails_is_an_error_and_no_score(grader, reason):
    rollouts = answered(["1", "2"], graders=(grader,))
    scores = rw.GoldAnswers()(rollouts)
    assert not scores.mask.any()
    assert scores.failed.all()
    assert reason in scores.reasons[0][0][0]
    voted = rw.OwnVotes("string")(rollouts)
    assert voted.mask.all()  # no part of the reward
    assert measured(voted, "vote/accuracy", "answer/accuracy") == [[None], [[None, None]]]


def test_missing_gold_answers_are_an_error_or_said_once(caplog):
    with pytest.raises(
        ValueError, match=r"2 of 2 prompts have no gold answer \(first: 'p0'\), and GoldAnswers needs one: give the"
    ):
        rw.GoldAnswers().validate(make_prompts(2, answers=(None, "  ")))
    with pytest.raises(ValueError, match=r"prompt 'p1': the gold answer must be an answer, got 'NaN', which is no number"):
        rw.GoldAnswers().validate(make_prompts(2, answers=("1", "NaN")))
    with caplog.at_level(logging.WARNING):
        for source in (rw.GoldAnswers(), rw.GoldAnswers(unknown="warn")):
            source.validate(make_prompts(2, answers=("1", None)))
            source.validate(make_prompts(2, answers=("1", None)))
        rw.GoldAnswers(unknown="warn").validate(make_prompts(2))
        rw.GoldAnswers().validate(make_prompts(2, answers=("1", None), graders=(None, float)))
    assert [record.message.split(" have")[0] for record in caplog.records] == ["1 of 2 prompts"] * 2 + ["2 of 2 prompts"]
    assert "never counted as wrong" in caplog.text


# -- certainty --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "line", "clamped", "reason"), [
    (rw.SelfCertainty, [0.2, 0.5, 1.0, 0.0], [0.0, 0.0, 1.0, None], "self-certainty 25.000 nats a token"),
    (rw.NegativeEntropy, [1.0, 0.9, 0.0, 0.0], [0.0, 0.0, 0.0, None], "entropy 1.250 nats a token"),
])  # fmt: skip
def test_certainties_are_straight_lines(kind, line, clamped, reason):
    source = kind(equivalence="string", format=1.0)
    source.bind(ScriptedAnswerer(self_certainty=[[10.0, 25.0, 60.0, NAN]], entropy=[[0.0, 1.25, 12.5, NAN]]))
    scores = source(answered(["1", "1", "2", None], answers=("1",)))
    assert scores.names[0] == ("certainty", "format")
    assert scores.scores[0, :, 0].tolist() == pytest.approx(line)
    assert scores.mask[0].tolist() == [[True, True], [True, True], [True, True], [False, True]]  # an empty response
    nats = [[[10.0, 25.0, 60.0, None]], [[0.0, 1.25, 12.5, None]]]
    assert measured(scores, "certainty/self_certainty", "certainty/entropy") == nats
    assert measured(scores, "vote/share", "vote/accuracy") == [pytest.approx([2 / 3]), [1.0]]
    assert measured(scores, "certainty/clamped") == [[clamped]]
    assert (scores.reasons[0][1][0], scores.outcomes[0][3][0]) == (reason, "not_applicable")
    for ceiling in (0.0, -1.0, NAN, math.inf):
        with pytest.raises(ValueError, match="`ceiling` must be a finite number of nats > 0"):
            kind(ceiling=ceiling)


# -- all of them ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_every_source(source):
    made, names = source(equivalence="string", format=0.1), []
    assert made.level_keys() == [source.criterion, "format"]
    if source in (rw.TeacherVotes, rw.SelfCertainty, rw.NegativeEntropy):
        with pytest.raises(RuntimeError, match="asks the policy, and knows none yet"):
            made(answered(["1"]))
    for groups, gold in (((["1", "2"], ["1", "1"]), ("1", "1")), (([None, None], [None, None]), ())):
        made.bind(ScriptedAnswerer(*groups, self_certainty=[[1.0, NAN]] * 2, entropy=[[1.0, NAN]] * 2))
        names.append(list(made(answered(*groups, pairs=True, answers=gold)).measures))
    assert names[0] == names[1]  # the same names in every batch
    assert {f"vote/{name}" for name in ("share", "distinct", "no_label", "unanswered", "accuracy")} < set(names[0])
    for name in ("format", "length"):
        for weight in (-1.0, NAN, math.inf):
            with pytest.raises(ValueError, match=rf"`{name}` must be a weight >= 0"):
                source(**{name: weight})
    with pytest.raises(ValueError, match=r"`equivalence` must be 'math' or 'string', got 'maths'"):
        source(equivalence="maths")


def test_the_last_box_counts_in_the_answer_and_long_answers_are_shortened():
    texts = (
        r"<think>\boxed{1}</think>\boxed{2}",
        r"<think>\boxed{1}",
        r"\boxed{1}</think> 2",
        r"\boxed{1} no: $\boxed{ \frac{4}{2} }$",
    )
    batch = AnswerBatch(make_rollouts(make_prompts(1, answers=("2",)), 4, texts=(texts,)))
    assert batch.answers == [["2", None, None, r"\frac{4}{2}"]]
    assert (batch.votes[0].label, batch.voters) == ("2", [2])
    assert AnswerBatch(replace(batch.rollouts, thinks=False)).answers == [["2", "1", "1", r"\frac{4}{2}"]]
    assert shorten("a\n  b") == "a b"
    assert shorten("x" * 40) == "x" * 40
    assert shorten("x" * 41) == "x" * 33 + "... (41 characters)"
    assert shorten(" " * 500 + "x") == "... (501 characters)"
