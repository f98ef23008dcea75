"""The early warning: hand-written courses of a run, and what is said about them."""

import json
import logging
import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.callbacks import CollapseWatch, HeldOut
from lightning_focal.callbacks.collapse import Course
from tests.helpers import FakeTrainer

NAN = math.nan
BATCHES = 60


def ramp(start, end, first=20, last=40, count=BATCHES):
    """A course that stays at ``start``, moves evenly between two batches, and stays at ``end``."""
    return [start + (end - start) * min(1.0, max(0.0, (k - first) / (last - first))) for k in range(count)]


def flat(value, count=BATCHES):
    return [value] * count


STEADY = {"vote/share": 0.5, "vote/distinct": 4.0, "vote/unanswered": 0.05, "rollout/length": 200.0}
STEADY = {
    f"train/{name}": flat(value, 200) for name, value in (STEADY | {"rollout/truncated": 0.1, "policy/entropy": 0.4}).items()
}
AGREEING = {"train/vote/share": ramp(0.45, 0.99), "train/vote/distinct": ramp(4.0, 1.05)}
FALLING = AGREEING | {"train/vote/accuracy": ramp(0.5, 0.1)}


class Run:
    """Plays courses to a callback, batch by batch."""

    def __init__(self, courses, watch=None, caplog=None, **kwargs):
        self.courses, self.watch, self.caplog = STEADY | courses, watch or CollapseWatch(), caplog
        self.trainer, self.logged = FakeTrainer(should_stop=False, **kwargs), []

    def log(self, name, value, rank_zero_only=False):
        assert name == "train/collapse/signs"
        self.logged.append(int(value))

    def play(self, first=0, last=BATCHES):
        with self.caplog.at_level(logging.WARNING):
            for k in range(first, last):
                self.trainer.batches = k + 1
                self.trainer.callback_metrics = {name: torch.tensor(course[k]) for name, course in self.courses.items()}
                self.watch.on_train_batch_end(self.trainer, self, None, None, k)
                if self.trainer.should_stop:
                    break
        return self

    @property
    def said(self):
        return [record.message for record in self.caplog.records]


def play(courses, caplog, watch=None, last=BATCHES, **kwargs):
    return Run(courses, watch, caplog, **kwargs).play(0, last)


# -- collapses --------------------------------------------------------------------------------------------------------------


def test_majority_voting_that_agrees_on_wrong_answers(caplog):
    run = play(FALLING, caplog)
    (said,) = run.said
    batch = run.logged.index(next(filter(None, run.logged))) + 1
    assert 20 < batch < 50
    assert said.startswith(f"collapse after batch {batch} (batches 1-10 against {batch - 9}-{batch}): ")
    assert "accuracy of the labels fell from its best (0.50 -> 0.3" in said
    assert said.endswith("it falls, so this is not a policy that has become right")
    assert run.logged[-1] == 2  # the votes agree, too, by then
    assert not run.trainer.should_stop


@pytest.mark.parametrize(("courses", "words"), [
    ({"train/rollout/length": ramp(200.0, 12.0)}, "responses shrink (tokens 200 -> "),
    ({"train/rollout/truncated": ramp(0.1, 1.0)}, "responses hit the length limit (share 0.10 -> "),
    ({"train/vote/unanswered": ramp(0.05, 0.9)}, "no answer can be found in responses (share 0.05 -> "),
    ({"train/policy/entropy": ramp(0.4, 0.001)}, "the policy hardly varies (entropy 0.40 -> "),
    ({"train/policy/entropy": ramp(0.4, 6.0)}, "the policy falls apart (entropy 0.40 -> "),
    ({"train/vote/teacher_agreement": ramp(0.9, 0.2)}, "student and teacher vote differently (agreement 0.90 -> "),
    (AGREEING, "the votes agree (share 0.45 -> 0.9"),
], ids=["shrinks", "blows up", "unanswered", "no entropy", "all entropy", "disagree", "agree"])  # fmt: skip
def test_each_sign_has_its_words_and_without_gold_it_cannot_tell(courses, words, caplog):
    unknown = "cannot tell a policy that has become right from one that agrees on something wrong"
    stands = "accuracy of the labels 0.50 -> 0.50: it does not rise, so this is not a policy that has become right"
    for accuracy, opening, meaning in ((flat(NAN), "possible collapse", unknown), (flat(0.5), "collapse", stands)):
        caplog.clear()
        (said,) = play(courses | {"train/vote/accuracy": accuracy}, caplog).said
        assert said.startswith(f"{opening} after batch ")
        assert words in said
        assert meaning in said


def test_a_peak_that_is_lost_is_noticed_above_the_start(caplog):
    accuracy = [*ramp(0.4, 0.8, 5, 25)[:30], *ramp(0.8, 0.55, 5, 20)[:30]]
    (said,) = play(AGREEING | {"train/vote/accuracy": accuracy}, caplog).said
    assert "fell from its best (0.80 -> 0.6" in said
    # A right policy that stops answering: labels are not known where nobody votes; the answers are wrong then.
    labels = {"train/vote/accuracy": [0.95] * 30 + [NAN] * 30}
    caplog.clear()
    run = play(labels | {"train/answer/accuracy": ramp(0.95, 0.0), "train/vote/unanswered": ramp(0.0, 1.0)}, caplog)
    (said,) = run.said
    assert "accuracy of the answers fell from its best (0.95 -> " in said
    assert run.logged[-1] == 2


# -- what is no collapse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("courses", [
    {},
    AGREEING | {"train/vote/accuracy": ramp(0.5, 0.97), "train/rollout/length": ramp(200.0, 30.0)},
    AGREEING | {"train/vote/accuracy": ramp(0.5, 0.7)},
    {"train/vote/share": flat(1.0), "train/vote/distinct": flat(1.0), "train/vote/accuracy": flat(1.0)},
    {"train/vote/share": flat(1.0), "train/vote/distinct": flat(1.0)},
    {"train/vote/share": flat(0.96), "train/vote/distinct": flat(1.1), "train/vote/accuracy": flat(0.93)},
    {"train/policy/entropy": ramp(0.4, 0.001), "train/vote/accuracy": ramp(0.5, 0.95)},
    {name: flat(NAN) for name in STEADY},
    AGREEING | {"train/vote/accuracy": flat(NAN), "train/answer/accuracy": ramp(0.4, 0.95)},
], ids=["steady", "right", "better", "solved", "always one", "nearly solved", "right and sure", "nothing known", "by answers"])  # fmt: skip
def test_what_is_no_collapse(courses, caplog):
    run = play(courses, caplog)
    assert run.said == []
    assert run.logged == [0] * BATCHES
    generator = torch.Generator().manual_seed(len(courses))
    accuracy = (torch.rand(200, 4, generator=generator) < 0.5).double().mean(-1).tolist()  # small batches go up and down
    assert play({"train/vote/accuracy": accuracy}, caplog, last=200).said == []


def test_held_out_prompts_tell_where_training_has_no_gold(caplog):
    held_out = HeldOut()
    held_out.history = [{"batch": 0, "scores": {}, "measures": {"val/held_out/mean": 0.4}}]
    run = Run(AGREEING, caplog=caplog, callbacks=[held_out]).play(0, 20)
    held_out.history.append({"batch": 20, "scores": {}, "measures": {"val/held_out/mean": 0.7}})
    assert run.play(20).said == []
    held_out.history.append({"batch": 60, "scores": {}, "measures": {"val/held_out/mean": 0.3}})
    for _ in range(10):
        run.play(59)
    (said,) = run.said
    assert "held-out score 0.40 -> " in said


# -- when it speaks ---------------------------------------------------------------------------------------------------------


def test_it_speaks_once_an_episode(caplog):
    truncated = [0.0] * 20 + [1.0] * 15 + [0.0] * 40 + [1.0] * 20
    run = play({"train/rollout/truncated": truncated}, caplog, last=95)
    assert [said.split(": ")[0] for said in run.said] == [
        "possible collapse after batch 25 (batches 1-10 against 16-25)",
        "possible collapse after batch 80 (batches 1-10 against 71-80)",
    ]
    assert set(run.logged) == {0, 1}
    assert len(run.logged) == len(truncated)  # in every batch
    caplog.clear()
    flickering = [0.0] * 20 + [1.0, 1.0, 1.0, 0.0, 0.0] * 8
    assert len(play({"train/rollout/truncated": flickering}, caplog, CollapseWatch(truncated=0.6)).said) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_it_can_stop_the_run_and_one_process_speaks(caplog, rank):
    run = play(FALLING, caplog, CollapseWatch(stop=True), rank=rank, world_size=2)
    assert run.trainer.should_stop
    assert len(run.logged) < BATCHES
    assert [said.endswith("; the run stops here (`stop: true`)") for said in run.said] == [True] * (1 - rank)


def test_a_window_of_ones_own(caplog):
    (said,) = play({"train/rollout/truncated": ramp(0.0, 1.0, 5, 6)}, caplog, CollapseWatch(window=3)).said
    assert said.startswith("possible collapse after batch 8 (batches 1-3 against 6-8): ")
    with pytest.raises(ValueError, match=r"`CollapseWatch.window` must be as in the checkpoint, 10, got 5"):
        CollapseWatch(window=5).load_state_dict(CollapseWatch().state_dict())


@pytest.mark.parametrize("at", [1, 15, 22, 33])
def test_a_resumed_run_says_what_an_uninterrupted_one_says(at, caplog):
    courses = FALLING | {"train/answer/accuracy": flat(NAN)}
    whole = play(courses, caplog)
    expected = whole.said
    caplog.clear()
    first = Run(courses, caplog=caplog).play(0, at)
    resumed = Run(courses, caplog=caplog)
    resumed.watch.load_state_dict(json.loads(json.dumps(first.watch.state_dict())))  # plain data
    assert resumed.play(at).said == expected
    assert first.logged + resumed.logged == whole.logged
    assert json.dumps(resumed.watch.state_dict()) == json.dumps(whole.watch.state_dict())


def test_a_course_by_hand():
    course = Course(3)
    for value in (1.0, NAN, 2.0):
        course.add(value)
    assert not course.known
    assert math.isnan(course.start)
    for value in (3.0, 6.0):
        course.add(value)
    assert (course.start, course.now, course.peak) == (2.0, 11 / 3, 11 / 3)
    # steps of 1, 1, 3: variance (1 + 1 + 9) / 3 / 2 of one batch, a third of it for the mean of three
    assert course.error == pytest.approx(math.sqrt(11 / 6 / 3))
    for _ in range(3):
        course.add(1.0)
    assert course.now == 1.0
    assert not course.fell(2.0)  # 2.67 below the peak, but eight standard errors are more
    assert course.words("tokens") == "tokens 2.00 -> 1.00"
    smooth = Course(1)  # falls by the drop alone
    for k in range(101):
        smooth.add(1 - k / 400)
    assert smooth.now == 0.75
    assert smooth.fell(0.25)
    assert not smooth.fell(0.26)


def test_a_real_run_that_was_interrupted(run_tiny, tmp_path):
    """The checkpoint of a batch holds what was seen of it; what is logged has a place in every row."""
    uninterrupted, first, resumed = (CollapseWatch(window=2) for _ in range(3))
    made = run_tiny(None, uninterrupted, data_val=None, trainer_max_epochs=2, folder="whole")
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=3, save_top_k=-1, filename="{step}")
    run_tiny(None, first, keep, data_val=None, trainer_max_epochs=1, trainer_enable_checkpointing=True, folder="first")
    path = str(tmp_path / "kept" / "step=3.ckpt")
    run_tiny(None, resumed, data_val=None, trainer_max_epochs=2, ckpt_path=path, folder="second")
    assert resumed.batches == uninterrupted.batches == made.trainer.global_step == 8
    assert repr(resumed.state_dict()) == repr(uninterrupted.state_dict())
    assert all(uninterrupted.courses[name].known for name in ("train/rollout/length", "train/policy/entropy"))
    rows = (made.folder / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/collapse/signs")
    assert all(row.split(",")[column] != "" for row in rows[1:])
