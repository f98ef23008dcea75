"""A run folder, whole or in parts."""

import json
import shutil

import pytest

from lightning_focal.report.run import read_run
from tests.report.made_run import make_run


def test_a_whole_run(tmp_path):
    run = read_run(make_run(tmp_path / "focal", batches=5), rollouts=100)
    assert (run.name, run.batches, len(run.evaluations), run.notes) == ("focal", 5, 2, ())
    assert run.config["seed_everything"] == 0
    assert len(run.train.rows) == 5 * 2 * 4
    assert run.held_out.batches == [0, 5]
    assert run.finished is None  # not recorded


def test_rollouts_are_read_when_asked_for(tmp_path):
    run = read_run(make_run(tmp_path, batches=2))
    assert (run.train.rows, run.held_out.rows) == ([], [])


@pytest.mark.parametrize("part", ["metrics.csv", "held_out.json", "rollouts", "config.yaml"])
def test_a_part_may_be_missing(tmp_path, part):
    folder = make_run(tmp_path, batches=3)
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    run = read_run(folder, rollouts=100)
    assert run.batches == 3


def test_how_it_ended(tmp_path):
    folder = make_run(tmp_path, batches=2)
    (folder / "run.json").write_text(json.dumps({"starts": [{"ended": True}, {"ended": False}]}))
    assert read_run(folder).finished is False


@pytest.mark.parametrize("text", ["{", "[1]", '{"evaluations": []}'])
def test_a_broken_held_out_file(tmp_path, text):
    folder = make_run(tmp_path, batches=2)
    (folder / "held_out.json").write_text(text)
    run = read_run(folder)
    assert run.evaluations == ()
    assert any("held_out.json" in note for note in run.notes) == (text == "{")


@pytest.mark.parametrize("text", ["a: [1", "\x00", "- 1\n- 2\n", ""])
def test_a_broken_configuration(tmp_path, text):
    folder = make_run(tmp_path, batches=2)
    (folder / "config.yaml").write_text(text)
    assert read_run(folder).config == {}


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"`runs`: '.*nothing' must be a run folder such as runs/focal, got no folder"):
        read_run(tmp_path / "nothing")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="got no folder"):
        read_run(tmp_path / "file")


@pytest.mark.parametrize("parts", [[], ["config.yaml"], ["other.txt"]])
def test_a_folder_of_something_else(tmp_path, parts):
    for part in parts:
        (tmp_path / part).write_text("a: 1\n")
    with pytest.raises(ValueError, match=r"must be a run folder with metrics\.csv, held_out\.json or rollouts/, got"):
        read_run(tmp_path)


def test_a_folder_of_a_validation(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val/reward/mean\n0,0.5\n")
    with pytest.raises(ValueError, match="the folder of a run that trained"):
        read_run(tmp_path)
