"""What is printed, word by word."""

import io
import logging
import re
import shlex
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from lightning_focal.callbacks import ConsoleReport, HeldOut
from lightning_focal.callbacks.console import level_table
from lightning_focal.precision import describe_device
from lightning_focal.rewards import StaticReward
from tests.helpers import FakeTrainer, make_answers, make_scores

SEEN = {
    "train/reward/mean": 0.5,
    "train/reward/static": 0.75,  # under a strategy's own base weights
    "train/reward/prior": 0.625,
    "train/balance/worst": 0.25,
    "train/criterion/brevity/score": 0.25,
    "train/saturation/brevity": 0.125,
    "train/weight/brevity": 0.75,
    "train/criterion/tone/score": 0.9,
    "train/saturation/tone": 0.875,
    "train/weight/tone": float("nan"),
    "train/time/tokens_per_s": 1234.4,
    "train/time/step_s": 2.04,
}


class Module(torch.nn.Module):
    source, group_size, planned_batches = "random:tiny", 4, 10
    reward_strategy, device = SimpleNamespace(), torch.device("cpu")
    described = 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1_500_000))
        self.frozen = torch.nn.Parameter(torch.zeros(10), requires_grad=False)

    def describe(self):
        self.described += 1
        return "rollouts: scripted · update: padded rows, float32"


def recorded(terminal=False, **kwargs):
    report = ConsoleReport(**kwargs)
    settings = {"width": 200, "highlight": False, "soft_wrap": True, "markup": False, "emoji": False}
    report.console = Console(file=io.StringIO(), force_terminal=terminal, **settings)
    return report


def printed(report):
    return report.console.file.getvalue()


def fit_trainer(folder="runs/a", **kwargs):
    return FakeTrainer(
        folder, callback_metrics=dict(SEEN), datamodule=SimpleNamespace(rows={"train": [0] * 6, "val": [0] * 2}), **kwargs
    )


def one_batch(report, trainer, number=1):
    trainer.batches = number
    report.on_train_batch_end(trainer, Module(), None, None, number - 1)


def test_the_opening_lines():
    """The device and what computes on it first."""
    report = recorded()
    report.on_fit_start(fit_trainer(), Module())
    assert printed(report) == (
        f"{describe_device('cpu')} · rollouts: scripted · update: padded rows, float32\n"
        "SimpleNamespace on random:tiny · 1.5 M trained parameters · 6 train prompts, 2 val prompts · groups of 4 · run folder runs/a\n"
        "static: score under the rubric's own (prior) weights, in [0, 1]; compare runs by it\n"
        "reward: what the policy learns from, under the weights in force, which move\n"
    )
    report, module = recorded(), Module()
    module.reward_strategy = StaticReward(weights="uniform")
    report.on_fit_start(fit_trainer(), module)
    assert printed(report).endswith("under the weights in force, which stay as they are\n")


def test_without_an_end_in_sight():
    report, module = recorded(terminal=True), Module()
    module.planned_batches = None
    trainer = fit_trainer(lightning_module=module)
    trainer.batches = 7
    report.on_train_batch_end(trainer, module, None, None, 6)
    (task,) = report._bar.tasks
    report.on_train_end(trainer, module)
    assert (task.completed, task.total, task.fields["planned"]) == (7, None, "?")
    assert "batch 7/? " in printed(report)
    assert "left" not in printed(report)


def test_a_line_a_batch_and_a_table_every_few():
    report, trainer = recorded(table_every_n_batches=2), fit_trainer()
    report.on_train_batch_start(trainer, Module(), None, 0)
    one_batch(report, trainer, 1)
    (line,) = printed(report).splitlines()
    assert line.startswith("batch 1/10 · static 0.625 · reward 0.500 · worst 0.250 (brevity) · 1234 tok/s · 2.0 s · 0:0")
    assert line.endswith(" left")
    one_batch(report, trainer, 2)
    text = printed(report)
    assert text.splitlines()[1].startswith("batch 2/10 ")
    assert "levels in batch 2" in text
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in text.splitlines() if "│" in line]
    assert rows == [["brevity", "0.250", "0.125", "0.750"], ["tone", "0.900", "0.875", "-"]]
    assert all(word in text for word in ("criterion", "score", "saturation", "weight"))


def test_values_that_are_missing_are_dashes():
    report, trainer = recorded(table_every_n_batches=0), fit_trainer()
    trainer.callback_metrics = {"train/criterion/a/score": float("nan")}
    one_batch(report, trainer)
    assert "static - · reward - · worst - (-) · 0 tok/s" in printed(report)
    assert level_table({}, "nothing").row_count == 0


def test_names_are_text_not_markup(tmp_path, monkeypatch):
    """A criterion may be called what it likes."""
    monkeypatch.delenv("CI", raising=False)
    report, trainer = ConsoleReport(table_every_n_batches=1), fit_trainer(tmp_path / "runs[1]")
    report.console.file = io.StringIO()
    for field in ("criterion/[/b] :smile:/score", "saturation/[/b] :smile:", "weight/[/b] :smile:"):
        trainer.callback_metrics[f"train/{field}"] = 0.125
    report.on_fit_start(trainer, Module())
    one_batch(report, trainer)
    text = printed(report)
    assert "worst 0.250 ([/b] :smile:)" in text
    assert text.count("[/b] :smile:") == 2  # in the line, in the table
    assert "runs[1]" in text


def history(*means):
    held_out = HeldOut()
    for number, mean in enumerate(means):
        measures = {
            "val/held_out/mean": mean,
            "val/balance/worst": mean / 2,
            "val/criterion/brevity/score": mean,
            "val/criterion/brevity/failed": 0.0,  # no row of its own, and not the one of the score
            "val/rollout/length": 40.0 + number,
        }
        scores = {f"q{i}": mean + (i % 2) / 16 for i in range(10)}
        held_out.history.append({"batch": 5 * number, "scores": scores, "measures": measures})
    return held_out


def test_held_out_scores_are_shown_once_each_and_before_the_line_of_the_next_batch():
    held_out = history(0.5)
    report, trainer = recorded(table_every_n_batches=0), fit_trainer(callbacks=[held_out])
    report.on_train_batch_start(trainer, Module(), None, 0)
    assert printed(report).startswith("held-out score after 0 batches: 0.531 [0.5")
    assert "(10 prompts, prior weights) · worst 0.250 (brevity)" in printed(report)
    one_batch(report, trainer)
    held_out.history += history(0.5, 0.75).history[1:]
    report.on_validation_end(trainer, Module())
    one_batch(report, trainer, 2)
    held_out.history += history(0.5, 0.75, 0.5).history[2:]
    one_batch(report, trainer, 3)
    said = [line.split()[0] for line in printed(report).splitlines()]
    assert said[:4] == ["held-out", "batch", "held-out", "batch"]
    assert sorted(said[4:]) == ["batch", "held-out"]


@pytest.mark.parametrize(("after", "verdict", "difference"), [
    (0.75, "The held-out score rose: 0.531 -> 0.781", "paired difference +0.250 [+0.250, +0.250]"),
    (0.25, "The held-out score fell: 0.531 -> 0.281", "paired difference -0.250 [-0.250, -0.250]"),
    (0.5, "No clear change: the 95 % interval includes 0. Held-out score 0.531 -> 0.531", "paired difference +0.000 [+0.000, +0.000]"),
])  # fmt: skip
def test_the_summary(tmp_path, monkeypatch, after, verdict, difference):
    """What is there is named, and what is not is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a" / "rollouts").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "checkpoints").mkdir()
    for name in ("config.yaml", "events.out.tfevents.1", "checkpoints/last.ckpt"):
        (tmp_path / "runs" / "a" / name).touch()
    report, held_out = recorded(quiet=True), history(0.5, after)
    for entry in held_out.history:
        entry["measures"]["val/criterion/honesty/score"] = float("nan")  # never judged
    savers = [SimpleNamespace(best_model_path="best"), SimpleNamespace(last_model_path="runs/a/checkpoints/last.ckpt")]
    report.on_fit_end(fit_trainer(callbacks=[held_out], checkpoint_callbacks=savers), Module())
    text = printed(report)
    assert f"{verdict}, {difference} (95 % bootstrap over 10 prompts)" in text
    table = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    change = after - 0.5
    assert table == [
        ["prior-weighted score", "0.500", f"{after:.3f}", f"{change:+.3f}"],
        ["worst criterion", "0.250", f"{after / 2:.3f}", f"{change / 2:+.3f}"],
        ["brevity", "0.500", f"{after:.3f}", f"{change:+.3f}"],
        ["honesty", "-", "-", "-"],
        ["response tokens", "40.0", "41.0", "+1.0"],
    ]
    assert "in all. Written to runs/a:\n  config.yaml, TensorBoard events, checkpoints/\n" in text
    assert "lightning_focal report" not in text
    assert "  lightning_focal validate --config runs/a/config.yaml --ckpt_path runs/a/checkpoints/last.ckpt\n" in text
    assert "  lightning_focal predict --config runs/a/config.yaml --ckpt_path runs/a/checkpoints/last.ckpt\n" in text
    assert "  tensorboard --logdir runs/a\n" in text


def test_a_summary_without_held_out_prompts_or_checkpoints(tmp_path):
    report = recorded()
    report.on_fit_end(fit_trainer(), Module())
    assert "Written to runs/a:" in printed(report)
    assert "held-out score" not in printed(report)
    assert "Next:" not in printed(report)
    for name in ("config.yaml", "metrics.csv"):
        (tmp_path / name).touch()
    report = recorded()
    report.on_fit_end(fit_trainer(tmp_path, callbacks=[history(0.5)]), Module())
    assert printed(report).partition("Next:\n")[2] == f"  lightning_focal report {tmp_path}\n"


def test_quiet_says_what_came_out_alone():
    report, trainer = recorded(quiet=True), fit_trainer(callbacks=[history(0.5)])
    report.on_fit_start(trainer, Module())
    report.on_train_batch_start(trainer, Module(), None, 0)
    one_batch(report, trainer, 5)
    assert printed(report) == ""
    trainer.state.fn = "validate"
    trainer.callback_metrics = {"val/reward/prior": 0.5, "val/criterion/brevity/score": 0.25}
    report.on_validation_end(trainer, Module())
    assert printed(report) == "prior-weighted static score 0.500; runs/a\n"


def test_one_process_speaks_and_all_ask_for_the_folder():
    asked, texts = [], []
    for rank in range(2):
        report, trainer, module = recorded(), fit_trainer(rank=rank, world_size=2), Module()
        report.on_fit_start(trainer, module)
        assert module.described == 1  # it may run the policy, which may be split over processes
        one_batch(report, trainer)
        report.on_fit_end(trainer, Module())
        trainer.state.fn = "validate"
        report.on_validation_end(trainer, Module())
        report.on_test_end(trainer, Module())
        report.on_predict_end(trainer, Module())
        asked.append(trainer.log_dirs_asked)
        texts.append(printed(report))
    assert asked[0] == asked[1]
    assert texts[0]
    assert texts[1] == ""


@pytest.mark.parametrize(("stage", "hook"), [("val", "on_validation_end"), ("test", "on_test_end")])
def test_an_evaluation_and_a_prediction_by_itself(stage, hook):
    report, trainer = recorded(), fit_trainer()
    trainer.callback_metrics = {name.replace("train", stage): value for name, value in SEEN.items()}
    trainer.callback_metrics[f"{stage}/reward/prior"] = 0.5
    getattr(report, hook)(trainer, Module())
    assert printed(report) == ""  # within a fit the batch lines speak
    trainer.state.fn = "validate"
    getattr(report, hook)(trainer, Module())
    assert f"{stage} prompts" in printed(report)
    assert "│ brevity   │ 0.250 │      0.125 │  0.750 │" in printed(report)
    assert "prior-weighted static score 0.500; runs/a\n" in printed(report)
    trainer.callback_metrics |= {f"{stage}/held_out/{k}": v for k, v in {"mean": 0.5, "low": 0.25, "high": 0.75}.items()}
    getattr(report, hook)(trainer, Module())
    assert "prior-weighted static score 0.500 [0.250, 0.750]; runs/a\n" in printed(report)
    report.on_predict_end(fit_trainer(), Module())
    assert printed(report).endswith("\nresponses with their criterion scores: runs/a/rollouts/predict-*.parquet\n")


def test_a_live_bar_on_a_terminal_only():
    """An evaluation counts its own batches."""
    report, trainer = recorded(), fit_trainer()
    answers = make_answers(make_scores([[[1.0]]]), "val", batch_idx=2)
    report.on_rollouts(trainer, Module(), answers)
    one_batch(report, trainer)
    assert report._bar is None
    report = recorded(terminal=True)
    trainer = fit_trainer(lightning_module=Module(), callbacks=[HeldOut()])
    trainer.datamodule.val_dataloader = lambda: [0] * 7
    report.on_fit_start(trainer, Module())
    (task,) = report._bar.tasks
    assert (task.description, task.completed, task.total) == ("answering held-out prompts", 0, 7)
    report.on_rollouts(trainer, Module(), answers)
    assert (task.description, task.completed, task.total) == ("answering held-out prompts", 3, 7)
    report.on_train_batch_start(trainer, Module(), None, 0)
    assert (task.description, task.completed, task.total) == ("training", 0, 10)
    one_batch(report, trainer, 4)
    assert (task.description, task.completed) == ("training", 4)
    assert task.fields["pace"].startswith("1234 tok/s · 0:0")
    assert task.fields["pace"].endswith(" left")
    report.on_rollouts(trainer, Module(), answers)
    assert task.fields["pace"] == ""  # that of training
    report.on_exception(trainer, Module(), KeyboardInterrupt())
    assert report._bar is None
    trainer.num_test_batches = [3, 2]
    report.on_rollouts(trainer, Module(), make_answers(make_scores([[[1.0]]]), "test", batch_idx=1))
    assert [(task.completed, task.total) for task in report._bar.tasks] == [(2, 5)]
    report.on_train_end(trainer, Module())
    assert report._bar is None


def test_logs_are_printed_above_the_bar(monkeypatch):
    """Also by handlers that were made before there was a bar, as Lightning's are."""
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", said)
    logger = logging.getLogger("lightning.pytorch")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    report, trainer = recorded(terminal=True), fit_trainer(lightning_module=Module())
    try:
        report.on_fit_start(trainer, Module())
        logger.warning("news of Lightning")
        report.on_train_end(trainer, Module())
        logger.warning("after the bar")
    finally:
        logger.removeHandler(handler)
    assert "\nnews of Lightning\n" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", printed(report))
    assert set(said.getvalue().splitlines()) == {"after the bar"}


def test_no_verdict_on_few_prompts_and_no_minus_where_a_change_rounds_to_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = []
    for held_out, few in ((history(0.5, 0.75), True), (history(0.5, 0.4999), False)):
        for entry in held_out.history if few else ():
            entry["scores"].pop("q9")
        report = recorded(quiet=True)
        report.on_fit_end(fit_trainer(callbacks=[held_out]), Module())
        texts.append(printed(report))
    assert "No verdict: 9 held-out prompts are too few, 10 are needed. Held-out score 0.528 -> 0.778, paired" in texts[0]
    assert "rose" not in texts[0]
    assert "-0.000" not in texts[1]
    assert "+0.000" in texts[1]


@pytest.mark.parametrize("width", [60, 200])
def test_what_to_type_next_repeats_how_the_program_was_started(tmp_path, monkeypatch, width):
    folder = tmp_path / "a run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt"):
        (folder / name).touch()
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "lightning_focal", "fit"])
    report, saver = (
        recorded(terminal=True, quiet=True),
        SimpleNamespace(last_model_path=str(folder / "checkpoints" / "last.ckpt")),
    )
    report.console.width = width
    report.on_fit_end(fit_trainer(folder, callbacks=[history(0.5)], checkpoint_callbacks=[saver]), Module())
    shown = printed(report).split("Next:\n")[1].replace("\\\n", "")
    first, second, third = map(shlex.split, shown.splitlines())
    start = ["python3", "-m", "lightning_focal"]
    assert first == [*start, "validate", "--config", f"{folder}/config.yaml", "--ckpt_path", saver.last_model_path]
    assert second[3] == "predict"
    assert third == [*start, "report", str(folder)]


def test_nothing_but_plain_lines_under_continuous_integration(monkeypatch):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("FORCE_COLOR", "1")
    report, trainer = ConsoleReport(table_every_n_batches=1), fit_trainer()
    report.console.file = io.StringIO()
    report.on_fit_start(trainer, Module())
    one_batch(report, trainer)
    text = printed(report)
    assert "batch 1/10 · static 0.625" in text
    assert "brevity    0.250       0.125   0.750" in " ".join(text.splitlines())
    assert not set(text) & set("\x1b┃│━─┏└")


def test_a_real_run_leaves_its_lines(run_tiny):
    report = recorded(table_every_n_batches=2)
    run_tiny(None, report)
    first, second, *lines = printed(report).splitlines()
    assert first.endswith(
        "rollouts: cache loop, float32 · update: rows without padding, float32 · judging: RuleJudge beside generation"
    )
    assert second.startswith("FocalReward on random:tiny-llama")
    assert [line.split(" ")[1] for line in lines if line.startswith("batch ")] == ["1/4", "2/4", "3/4", "4/4"]
    assert sum("levels in batch" in line for line in lines) == 2
