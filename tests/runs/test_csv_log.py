"""metrics.csv: whole at any time, without gaps or doubles."""

import csv

import pytest

from lightning_focal.runs import CSVLog


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_step_with_sorted_columns(tmp_path):
    log = CSVLog(tmp_path / "run")
    log.log_metrics({"b": 1, "a": 0.1}, step=0)
    log.log_metrics({"a": 0.2, "b": 2.0}, step=1)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == b"step,a,b\r\n0,0.1,1.0\r\n1,0.2,2.0\r\n"
    assert log.log_dir == log.save_dir == str(tmp_path / "run")
    assert log.name == log.version == ""


def test_values_come_back_to_the_last_bit(tmp_path):
    CSVLog(tmp_path).log_metrics({"x": 1 / 3, "y": float("nan"), "z": 1e-300}, step=0)
    assert float(rows(tmp_path)[0]["x"]) == 1 / 3
    assert rows(tmp_path)[0] == {"step": "0", "x": repr(1 / 3), "y": "nan", "z": "1e-300"}


def test_values_of_one_step_share_a_row(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0}, step=0)
    log.log_metrics({"b": 2.0}, step=0)
    log.log_metrics({"a": 3.0}, step=0)
    assert rows(tmp_path) == [{"step": "0", "a": "3.0", "b": "2.0"}]


def test_new_columns_fill_old_rows_with_nothing(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0}, step=0)
    log.log_metrics({"a": 2.0, "new": 0.5}, step=1)
    log.log_metrics({"new": 0.25}, step=2)
    assert rows(tmp_path) == [
        {"step": "0", "a": "1.0", "new": ""},
        {"step": "1", "a": "2.0", "new": "0.5"},
        {"step": "2", "a": "", "new": "0.25"},
    ]


def test_rows_are_sorted_by_step_and_counted_without_one(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 5.0}, step=5)
    log.log_metrics({"a": 2.0}, step=2)
    log.log_metrics({"a": 6.0})
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [("2", "2.0"), ("5", "5.0"), ("6", "6.0")]


def test_a_known_row_is_appended_and_not_written_anew(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 0.0}, step=0)
    inode = log.path.stat().st_ino
    log.log_metrics({"a": 1.0}, step=1)
    assert log.path.stat().st_ino == inode
    log.log_metrics({"b": 1.0}, step=2)
    assert log.path.stat().st_ino != inode
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_resumed_run_goes_on_behind(tmp_path):
    CSVLog(tmp_path).log_metrics({"a": 0.0, "b": 0.5}, step=0)
    log = CSVLog(tmp_path)
    assert len(rows(tmp_path)) == 1  # making one touches nothing
    log.log_metrics({"a": 1.0, "b": 1.5}, step=1)
    assert (tmp_path / "metrics.csv").read_bytes() == b"step,a,b\r\n0,0.0,0.5\r\n1,1.0,1.5\r\n"


def test_a_row_that_is_known_is_left_alone(tmp_path):
    """It is logged before a checkpoint and once more behind it."""
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 0.0, "b": 0.5}, step=0)
    inode = log.path.stat().st_ino
    log.flush()
    log.log_metrics({"a": 0.0}, step=0)
    assert log.path.stat().st_ino == inode
    log.log_metrics({"a": 2.0}, step=0)
    assert rows(tmp_path) == [{"step": "0", "a": "2.0", "b": "0.5"}]


def test_forget_after(tmp_path):
    log = CSVLog(tmp_path)
    for step in range(4):
        log.log_metrics({"a": float(step)}, step=step)
    again = CSVLog(tmp_path)
    again.forget_after(1)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1"]
    again.log_metrics({"a": 9.0}, step=2)
    assert [row["a"] for row in rows(tmp_path)] == ["0.0", "1.0", "9.0"]
    again.forget_after(7)
    assert len(rows(tmp_path)) == 3


def test_forget_after_without_a_file(tmp_path):
    CSVLog(tmp_path / "new").forget_after(3)
    assert not (tmp_path / "new").exists()


WHOLE = b"step,a,b\r\n0,0.1,1.0\r\n1,0.2,2.0\r\n"


@pytest.mark.parametrize("cut", range(1, len(b"1,0.25,2.5\r\n")))
def test_a_last_row_cut_short_is_dropped(tmp_path, cut):
    """Also where what is left looks like a number."""
    (tmp_path / "metrics.csv").write_bytes(WHOLE + b"2,0.25,2.5\r\n"[:cut])
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 0.5, "b": 3.0}, step=3)
    assert [(row["step"], row["a"], row["b"]) for row in rows(tmp_path)] == [
        ("0", "0.1", "1.0"),
        ("1", "0.2", "2.0"),
        ("3", "0.5", "3.0"),
    ]


@pytest.mark.parametrize("content", [b"", b"step,a", b"step,a\r\n"])
def test_a_file_without_rows(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    CSVLog(tmp_path).log_metrics({"b": 1.0}, step=0)
    assert rows(tmp_path) == [{"step": "0", "b": "1.0"}]


def test_names_with_commas_and_quotes(tmp_path):
    name = 'train/criterion/no "a, b"/score'
    CSVLog(tmp_path).log_metrics({name: 1.0}, step=0)
    log = CSVLog(tmp_path)
    log.log_metrics({name: 2.0}, step=1)
    assert [row[name] for row in rows(tmp_path)] == ["1.0", "2.0"]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0}, step=0)
    log.log_hyperparams({"a": 1})
    log.forget_after(0)
    assert list(tmp_path.iterdir()) == []


def test_hyper_parameters_are_not_metrics(tmp_path):
    CSVLog(tmp_path).log_hyperparams({"a": 1})
    assert list(tmp_path.iterdir()) == []
