"""metrics.csv and events: whole at any time, without gaps or doubles over resumed runs."""

import csv
from types import SimpleNamespace

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only

from lightning_focal.files import SetAside
from lightning_focal.runs import CSVLog, EventLog, RunFolder
from tests.helpers import FakeTrainer
from tests.runs.killed import events


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_step_with_sorted_columns(tmp_path):
    log = CSVLog(tmp_path / "run")
    log.log_metrics({"b": 1, "a": 0.1}, step=0)
    log.log_metrics({"a": 1 / 3, "b": float("nan")}, step=1)
    content = f"step,a,b\r\n0,0.1,1.0\r\n1,{1 / 3!r},nan\r\n"  # to the last bit
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == content.encode()
    assert log.log_dir == log.save_dir == str(tmp_path / "run")
    assert log.name == log.version == ""


def test_values_of_one_step_share_a_row_and_new_columns_fill_old_ones_with_nothing(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0}, step=0)
    log.log_metrics({"b": 2.0}, step=0)
    log.log_metrics({"a": 3.25}, step=0)
    log.log_metrics({'new, "quoted"': 0.5}, step=1)
    log.log_metrics({"a": 5.0}, step=5)
    log.log_metrics({"a": 2.0}, step=2)
    log.log_metrics({"a": 6.0})  # the next one
    assert [(row["step"], row["a"], row["b"], row['new, "quoted"']) for row in rows(tmp_path)] == [
        ("0", "3.25", "2.0", ""),
        ("1", "", "", "0.5"),
        ("2", "2.0", "", ""),
        ("5", "5.0", "", ""),
        ("6", "6.0", "", ""),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_last_row_is_not_paid_for_by_the_whole_file(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 0.0, "b": 0.0}, step=0)
    inode = log.path.stat().st_ino
    for step, values in ((1, {"a": 1.0, "b": 1.0}), (2, {"a": 123456.0}), (2, {"a": 2.0, "b": 2.0})):  # shorter than it was
        log.log_metrics(values, step=step)
    log.flush()
    assert log.path.stat().st_ino == inode
    assert log.path.read_bytes() == b"step,a,b\r\n0,0.0,0.0\r\n1,1.0,1.0\r\n2,2.0,2.0\r\n"


def test_a_resumed_run_goes_on_behind_what_it_has_not_to_forget(tmp_path):
    aside = SetAside(tmp_path, 2)
    CSVLog(tmp_path / "new").forget_after(3, aside)
    assert not (tmp_path / "new").exists()
    for step in range(4):
        CSVLog(tmp_path).log_metrics({"a": float(step)}, step=step)
    again = CSVLog(tmp_path)
    again.forget_after(1, aside)
    again.log_metrics({"a": 9.0}, step=2)
    again.forget_after(7, aside)
    assert [row["a"] for row in rows(tmp_path)] == ["0.0", "1.0", "9.0"]
    assert [(row["step"], row["a"]) for row in rows(tmp_path / "set_aside" / "after_batch_2")] == [("2", "2.0"), ("3", "3.0")]


def test_a_last_row_cut_short_is_dropped_and_a_file_may_have_none(tmp_path):
    """Also where what is left looks like a number."""
    for cut in range(1, len(b"1,0.25,2.5\r\n")):
        (tmp_path / "metrics.csv").write_bytes(b"step,a,b\r\n0,0.1,1.0\r\n1,0.2,2.0\r\n" + b"2,0.25,2.5\r\n"[:cut])
        CSVLog(tmp_path).log_metrics({"a": 0.5, "b": 3.0}, step=3)
        found = [(row["step"], row["a"], row["b"]) for row in rows(tmp_path)]
        assert found == [("0", "0.1", "1.0"), ("1", "0.2", "2.0"), ("3", "0.5", "3.0")], cut
    for content in (b"", b"step,a", b"step,a\r\n"):
        (tmp_path / "metrics.csv").write_bytes(content)
        CSVLog(tmp_path).log_metrics({"b": 1.0}, step=0)
        assert rows(tmp_path) == [{"step": "0", "b": "1.0"}]


def test_other_processes_and_hyper_parameters_write_nothing(tmp_path, monkeypatch):
    log = CSVLog(tmp_path)
    for rank in (0, 1):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        log.log_hyperparams({"a": 1})
    log.log_metrics({"a": 1.0}, step=0)
    log.forget_after(0, SetAside(tmp_path, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("done", [0, 3])
def test_what_is_behind_the_checkpoint_is_dropped(tmp_path, done):
    """Everything, for a run that begins anew in the folder of one that was killed before its first checkpoint."""
    for step in range(5):
        CSVLog(tmp_path).log_metrics({"a": float(step)}, step=step)
    board = EventLog(tmp_path)
    for step in range(5):
        board.log_metrics({"a": float(step)}, step=step)
    board.finalize("success")
    trainer = FakeTrainer(tmp_path, batches=done)
    trainer.loggers = [SimpleNamespace(), CSVLog(tmp_path), EventLog(tmp_path)]
    RunFolder().on_train_start(trainer, None)
    trainer.loggers[2].log_metrics({"a": 9.0}, step=done)
    trainer.loggers[2].save()
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(done)]
    assert events(tmp_path) == {"a": [*((step, repr(float(step))) for step in range(done)), (done, "9.0")]}
