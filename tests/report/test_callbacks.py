"""The report at the end of `fit`, and its figures in TensorBoard."""

import logging

import pytest

from lightning_focal.callbacks import HeldOut, RolloutTable
from lightning_focal.cli import main
from lightning_focal.report import LiveFigures, WriteReport, callbacks
from lightning_focal.runs import EventLog
from tests.conftest import rubric_rows, write_rows
from tests.report.made_run import make_run


def test_fit_ends_in_a_report(tmp_path, run_tiny, caplog):
    held_out = str(write_rows(tmp_path / "val.jsonl", rubric_rows(3)))
    with caplog.at_level(logging.INFO, logger="lightning_focal"):
        run_tiny(None, HeldOut(), RolloutTable(), WriteReport(), data_val=held_out)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "over 4 batches" in text
    assert "packed-rollouts" in text
    assert f"report: {tmp_path / 'run' / 'report.html'}" in caplog.text


def test_a_report_that_fails_does_not_take_the_run_along(tmp_path, run_tiny, caplog, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(callbacks, "write_report", broken)
    run_tiny(None, WriteReport())
    assert f"`lightning_focal report {tmp_path / 'run'}` tries again" in caplog.text
    assert "no space left" in caplog.text
    assert not (tmp_path / "run" / "report.html").exists()


def test_by_its_short_name_in_a_configuration(tmp_path, rubric_file):
    data = rubric_file(4)
    policy = "random:tiny-llama?hidden=32&layers=1"
    arguments = [
        "--data=RubricDataModule",
        f"--data.train={data}",
        "--model.sampling.max_new_tokens=4",
        "--trainer.accelerator=cpu",
    ]
    arguments += ["--reward=StaticReward", f"--model.policy={policy}", "--trainer.max_epochs=1", f"--run_dir={tmp_path / 'r'}"]
    main(
        [
            "fit",
            *arguments,
            "--trainer.callbacks+=WriteReport",
            "--trainer.callbacks+=LiveFigures",
            "--trainer.enable_checkpointing=false",
        ]
    )
    text = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "version and commit" not in text  # they are recorded
    drawn = {"report/levels", "report/shares", "report/balance", "report/health"}
    drawn |= {f"report/{figure}/{kind}" for figure in ("levels", "shares") for kind in ("criterion name",)}
    assert set(tags(tmp_path / "r")) == drawn


def tags(folder):
    """Tags of images in TensorBoard's events, with their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


def test_live_figures_every_few_batches(tmp_path, run_tiny):
    built = run_tiny(None, LiveFigures(every_n_batches=2), folder="live", fit=False)
    built.trainer.loggers = [*built.trainer.loggers, EventLog(tmp_path / "live")]
    built.trainer.fit(built.module, datamodule=built.data)
    found = tags(tmp_path / "live")
    assert set(found) == {"report/levels", "report/shares", "report/balance", "report/health"}
    assert all(steps == [2, 4] for steps in found.values())


def test_live_figures_show_the_held_out_prompts(tmp_path):
    folder = make_run(tmp_path / "run", batches=4, evaluations=(0, 2, None))
    board = EventLog(tmp_path / "board")
    assert set(callbacks.log_figures(board, folder, 4)) >= {"report/score", "report/criteria"}
    board.save()
    assert tags(tmp_path / "board")["report/criteria"] == [4]


def test_live_figures_show_tags(tmp_path):
    """Levels by criterion stay those of every batch; tags are those of the recorded rollouts."""
    folder = make_run(tmp_path / "run", batches=4)
    board = EventLog(tmp_path / "board")
    without = callbacks.log_figures(board, folder, 4)
    shown = callbacks.log_figures(board, folder, 4, rollouts=100)
    by = ("criterion name", "tag level")
    assert set(shown) - set(without) == {f"report/{figure}/{kind}" for figure in ("levels", "shares") for kind in by}
    assert set(without) <= set(shown)
    board.save()
    assert tags(tmp_path / "board")["report/levels/tag level"] == [4]


def test_arguments():
    with pytest.raises(ValueError, match="`rollouts` must be >= 0, got -1"):
        WriteReport(rollouts=-1)
    with pytest.raises(ValueError, match="`every_n_batches` must be >= 1, got 0"):
        LiveFigures(every_n_batches=0)
    with pytest.raises(ValueError, match="`rollouts` must be >= 0, got -1"):
        LiveFigures(rollouts=-1)
