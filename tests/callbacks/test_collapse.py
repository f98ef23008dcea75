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


STEADY = {
    "train/vote/share": flat(0.5),
    "train/vote/distinct": flat(4.0),
    "train/vote/unanswered": flat(0.05),
    "train/rollout/length": flat(200.0),
    "train/rollout/truncated": flat(0.1),
    "train/policy/entropy": flat(0.4),
}
AGREEING = {"train/vote/share": ramp(0.45, 0.99), "train/vote/distinct": ramp(4.0, 1.05)}


class Run:
    """Plays courses to a callback, batch by batch."""

    def __init__(self, courses, watch=None, caplog=None, **kwargs):
        self.courses, self.watch, self.caplog = STEADY | courses, watch or CollapseWatch(), caplog
        self.trainer, self.logged = FakeTrainer(should_stop=False, **kwargs), []

    def log(self, name, value, rank_zero_only=False):
        assert name == "train/collapse/signs"
        self.logged.append(int(value))

    def play(self, first=0, last=BATCHES):
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


def play(courses, caplog, watch=None, **kwargs):
    with caplog.at_level(logging.WARNING):
        return Run(courses, watch, caplog, **kwargs).play()


# -- collapses --------------------------------------------------------------------------------------------------------------


def test_majority_voting_that_agrees_on_wrong_answers(caplog):
    run = play(AGREEING | {"train/vote/accuracy": ramp(0.5, 0.1)}, caplog)
    assert len(run.said) == 1
    said = run.said[0]
    batch = run.logged.index(next(filter(None, run.logged))) + 1
    assert 20 < batch < 50
    assert said.startswith(f"collapse after batch {batch} (batches 1-10 against {batch - 9}-{batch}): ")
    assert "accuracy of the labels fell from its best (0.50 -> 0.3" in said
    assert said.endswith("it falls, so this is not a policy that has become right")
    assert run.logged[-1] == 2  # the votes agree, too, by then
    assert not run.trainer.should_stop


def test_the_votes_agree_while_accuracy_stands_still(caplog):
    run = play(AGREEING | {"train/vote/accuracy": flat(0.5)}, caplog)
    assert len(run.said) == 1
    assert "the votes agree (share 0.45 -> 0.9" in run.said[0]
    assert "distinct answers 4.00 -> 1." in run.said[0]
    assert run.said[0].endswith(
        "accuracy of the labels 0.50 -> 0.50: it does not rise, so this is not a policy that has become right"
    )


def test_without_gold_it_cannot_tell(caplog):
    run = play(AGREEING | {"train/vote/accuracy": flat(NAN)}, caplog)
    assert len(run.said) == 1
    assert run.said[0].startswith("possible collapse after batch ")
    assert "cannot tell a policy that has become right from one that agrees on something wrong" in run.said[0]


@pytest.mark.parametrize(
    ("courses", "words"),
    [
        ({"train/rollout/length": ramp(200.0, 12.0)}, "responses shrink (tokens 200 -> "),
        ({"train/rollout/truncated": ramp(0.1, 1.0)}, "responses hit the length limit (share 0.10 -> "),
        ({"train/vote/unanswered": ramp(0.05, 0.9)}, "no answer can be found in responses (share 0.05 -> "),
        ({"train/policy/entropy": ramp(0.4, 0.001)}, "the policy hardly varies (entropy 0.40 -> "),
        ({"train/policy/entropy": ramp(0.4, 6.0)}, "the policy falls apart (entropy 0.40 -> "),
        ({"train/vote/teacher_agreement": ramp(0.9, 0.2)}, "student and teacher vote differently (agreement 0.90 -> "),
    ],
    ids=["shrinks", "blows up", "unanswered", "no entropy", "all entropy", "disagree"],
)
def test_each_sign_has_its_words(courses, words, caplog):
    for accuracy, opening in ((flat(NAN), "possible collapse"), (flat(0.5), "collapse")):
        caplog.clear()
        run = play(courses | {"train/vote/accuracy": accuracy}, caplog)
        assert len(run.said) == 1
        assert run.said[0].startswith(opening)
        assert words in run.said[0]


def test_a_peak_that_is_lost_is_noticed_above_the_start(caplog):
    accuracy = [*ramp(0.4, 0.8, 5, 25)[:30], *ramp(0.8, 0.55, 5, 20)[:30]]
    run = play(AGREEING | {"train/vote/accuracy": accuracy}, caplog)
    assert len(run.said) == 1
    assert "fell from its best (0.80 -> 0.6" in run.said[0]


# -- what is no collapse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "courses",
    [
        {},
        AGREEING | {"train/vote/accuracy": ramp(0.5, 0.97), "train/rollout/length": ramp(200.0, 30.0)},
        AGREEING | {"train/vote/accuracy": ramp(0.5, 0.7)},
        {"train/vote/share": flat(1.0), "train/vote/distinct": flat(1.0), "train/vote/accuracy": flat(1.0)},
        {"train/vote/share": flat(1.0), "train/vote/distinct": flat(1.0)},
        {"train/vote/share": flat(0.96), "train/vote/distinct": flat(1.1), "train/vote/accuracy": flat(0.93)},
        {"train/policy/entropy": ramp(0.4, 0.001), "train/vote/accuracy": ramp(0.5, 0.95)},
        {name: flat(NAN) for name in STEADY},
    ],
    ids=["steady", "becomes right", "gets better", "solved", "always one", "nearly solved", "right and sure", "nothing known"],
)
def test_what_is_no_collapse(courses, caplog):
    run = play(courses, caplog)
    assert run.said == []
    assert run.logged == [0] * BATCHES


def test_small_batches_go_up_and_down(caplog):
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        accuracy = (torch.rand(200, 4, generator=generator) < 0.5).double().mean(-1).tolist()
        run = Run(
            {name: flat(course[0], 200) for name, course in STEADY.items()} | {"train/vote/accuracy": accuracy}, caplog=caplog
        )
        run.play(0, 200)
    assert run.said == []


def test_the_answers_accuracy_stands_in_for_the_labels(caplog):
    agreeing = AGREEING | {"train/vote/accuracy": flat(NAN)}
    assert play(agreeing | {"train/answer/accuracy": ramp(0.4, 0.95)}, caplog).said == []
    assert "accuracy of the answers 0.40 -> 0.40" in play(agreeing | {"train/answer/accuracy": flat(0.4)}, caplog).said[0]


def test_a_right_policy_that_stops_answering(caplog):
    """Labels are not known where nobody votes; the answers are wrong then."""
    labels = [0.95] * 30 + [NAN] * 30
    lost = {"train/vote/accuracy": labels, "train/answer/accuracy": ramp(0.95, 0.0), "train/vote/unanswered": ramp(0.0, 1.0)}
    run = play(lost, caplog)
    assert len(run.said) == 1
    assert "accuracy of the answers fell from its best (0.95 -> " in run.said[0]
    assert run.logged[-1] == 2


def test_held_out_prompts_tell_where_training_has_no_gold(caplog):
    held_out = HeldOut()
    held_out.history = [{"batch": 0, "scores": {}, "measures": {"val/held_out/mean": 0.4}}]
    run = Run(AGREEING, caplog=caplog, callbacks=[held_out])
    with caplog.at_level(logging.WARNING):
        run.play(0, 20)
        held_out.history.append({"batch": 20, "scores": {}, "measures": {"val/held_out/mean": 0.7}})
        run.play(20)
        assert run.said == []
        held_out.history.append({"batch": 60, "scores": {}, "measures": {"val/held_out/mean": 0.3}})
        for _ in range(10):
            run.play(59)
    assert len(run.said) == 1
    assert "held-out score 0.40 -> " in run.said[0]


# -- when it speaks ---------------------------------------------------------------------------------------------------------


def test_it_speaks_once_an_episode(caplog):
    truncated = [0.0] * 20 + [1.0] * 15 + [0.0] * 40 + [1.0] * 20
    courses = {name: flat(course[0], len(truncated)) for name, course in STEADY.items()}
    with caplog.at_level(logging.WARNING):
        run = Run(courses | {"train/rollout/truncated": truncated}, caplog=caplog).play(0, len(truncated))
    assert len(run.said) == 2
    assert run.said[0].startswith("possible collapse after batch 25 (batches 1-10 against 16-25): ")
    assert run.said[1].startswith("possible collapse after batch 80 ")
    assert set(run.logged) == {0, 1}
    assert len(run.logged) == len(truncated)  # in every batch


def test_a_sign_that_flickers_is_one_episode(caplog):
    truncated = [0.0] * 20 + [1.0, 1.0, 1.0, 0.0, 0.0] * 8
    with caplog.at_level(logging.WARNING):
        run = Run({"train/rollout/truncated": truncated}, CollapseWatch(truncated=0.6), caplog).play()
    assert len(run.said) == 1


def test_it_can_stop_the_run(caplog):
    run = play(AGREEING | {"train/vote/accuracy": ramp(0.5, 0.1)}, caplog, CollapseWatch(stop=True))
    assert run.trainer.should_stop
    assert run.said[0].endswith("; the run stops here (`stop: true`)")
    assert len(run.logged) < BATCHES


def test_every_process_decides_and_the_first_one_speaks(caplog):
    run = play(AGREEING | {"train/vote/accuracy": ramp(0.5, 0.1)}, caplog, CollapseWatch(stop=True), rank=1, world_size=2)
    assert run.trainer.should_stop
    assert run.said == []


def test_a_window_of_ones_own(caplog):
    run = play({"train/rollout/truncated": ramp(0.0, 1.0, 5, 6)}, caplog, CollapseWatch(window=3))
    assert run.said[0].startswith("possible collapse after batch 8 (batches 1-3 against 6-8): ")


# -- state ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 5, 15, 22, 30, 33, 45])
def test_a_resumed_run_says_what_an_uninterrupted_one_says(at, caplog):
    courses = AGREEING | {"train/vote/accuracy": ramp(0.5, 0.1), "train/answer/accuracy": flat(NAN)}
    whole = play(courses, caplog)
    expected = whole.said
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        first = Run(courses, caplog=caplog).play(0, at)
        state = json.loads(json.dumps(first.watch.state_dict()))  # plain data
        resumed = Run(courses, CollapseWatch(), caplog)
        resumed.watch.load_state_dict(state)
        resumed.play(at)
    assert resumed.said == expected
    assert first.logged + resumed.logged == whole.logged
    assert json.dumps(resumed.watch.state_dict()) == json.dumps(whole.watch.state_dict())


def test_another_window_than_the_checkpoints():
    with pytest.raises(ValueError, match=r"`CollapseWatch.window` must be as in the checkpoint, 10, got 5"):
        CollapseWatch(window=5).load_state_dict(CollapseWatch().state_dict())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("window", 0, ">= 1 batches"),
        ("share", 0.0, r"in \(0, 1\]"),
        ("solved", 1.5, r"in \(0, 1\]"),
        ("accuracy_drop", NAN, r"in \(0, 1\]"),
        ("distinct", 0.5, ">= 1"),
        ("explode", 0.9, ">= 1"),
        ("entropy", -0.1, ">= 0"),
    ],
)
def test_arguments_are_checked(name, value, expected):
    with pytest.raises(ValueError, match=rf"`{name}` must be {expected}"):
        CollapseWatch(**{name: value})


# -- courses ----------------------------------------------------------------------------------------------------------------


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


def test_a_smooth_course_falls_by_the_drop_alone():
    course = Course(1)
    for k in range(101):
        course.add(1 - k / 400)
    assert course.now == 0.75
    assert course.fell(0.25)
    assert not course.fell(0.26)


def test_a_real_run_that_was_interrupted(run_tiny, tmp_path):
    """The checkpoint of a batch holds what was seen of it."""
    uninterrupted, first, resumed = (CollapseWatch(window=2) for _ in range(3))
    run_tiny(None, uninterrupted, data_val=None, trainer_max_epochs=2, folder="whole")
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=3, save_top_k=-1, filename="{step}")
    run_tiny(None, first, keep, data_val=None, trainer_max_epochs=1, trainer_enable_checkpointing=True, folder="first")
    path = str(tmp_path / "kept" / "step=3.ckpt")
    run_tiny(None, resumed, data_val=None, trainer_max_epochs=2, ckpt_path=path, folder="second")
    assert resumed.batches == uninterrupted.batches == 8
    assert repr(resumed.state_dict()) == repr(uninterrupted.state_dict())


def test_it_watches_a_run(run_tiny):
    """The values are there when they are read, and what is logged has a place in every row."""
    watch = CollapseWatch(window=1, shrink=1.0)
    made = run_tiny(None, watch, data_val=None, trainer_max_epochs=2)
    assert watch.batches == made.trainer.global_step == 8
    assert watch.courses["train/rollout/length"].known
    assert watch.courses["train/policy/entropy"].known
    rows = (made.folder / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/collapse/signs")
    assert all(row.split(",")[column] != "" for row in rows[1:])
