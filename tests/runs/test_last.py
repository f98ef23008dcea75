"""Which checkpoint a run goes on from."""

import os
import pickle
import shutil
import time

import pytest
import torch

from lightning_focal.runs import last_checkpoint, why_broken
from lightning_focal.runs.last import remove_leftovers

STATE = {"state_dict": {"w": torch.arange(1000.0)}, "optimizer_states": [{}], "loops": {}}


def save(path, age=0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**STATE, **more}, path)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def flip(path):
    """Change one bit in the middle of the tensor: neither the size nor the archive's list of contents tells."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BROKEN = {
    "cut_short": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "it is cut short"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "it is cut short"),
    "one_bit": (flip, "the checksum of step=4/data/0 in it does not match"),
    "gone": (lambda path: path.unlink(), "it is gone"),
    "weights_alone": (lambda path: torch.save({"state_dict": {}}, path), "it holds weights alone"),
    "no_checkpoint": (lambda path: torch.save([1], path), "it holds weights alone"),
    "half_a_folder": (lambda path: (path.unlink(), path.mkdir(), (path / ".metadata").touch()), "its meta.pt is missing"),
}


@pytest.fixture
def run(tmp_path):
    """Three checkpoints, the link at the newest."""
    for step in (2, 3, 4):
        save(tmp_path / "checkpoints" / f"step={step}.ckpt", age=100 - step)
    (tmp_path / "checkpoints" / "last.ckpt").symlink_to("step=4.ckpt")
    return tmp_path


def test_whole_checkpoints_are_said_to_be(run):
    assert why_broken(run / "checkpoints" / "step=4.ckpt") is None
    assert why_broken(run / "checkpoints" / "last.ckpt") is None


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_newest_one_is_passed_over_in_words(run, caplog, how):
    damage, words = BROKEN[how]
    newest = run / "checkpoints" / "step=4.ckpt"
    damage(newest)
    assert words in why_broken(newest)
    assert last_checkpoint(run).name == "step=3.ckpt"
    if how != "gone":  # then it is the link that leads nowhere
        assert f"checkpoint last.ckpt (step=4.ckpt) in {run / 'checkpoints'} is passed over: {words}" in caplog.text
        assert caplog.text.count("passed over") == 1


def test_the_one_that_last_points_at_comes_first(run):
    """A kill between the file and the link: the newer file is written again."""
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").symlink_to("step=3.ckpt")
    assert last_checkpoint(run).name == "step=3.ckpt"


@pytest.mark.parametrize("last", ["missing", "dangling", "copy", "broken copy"])
def test_last_need_not_be_a_link_that_works(run, caplog, last):
    path = run / "checkpoints" / "last.ckpt"
    path.unlink()
    if last == "dangling":
        path.symlink_to("step=9.ckpt")
    elif last != "missing":
        shutil.copy(run / "checkpoints" / "step=2.ckpt", path)
    if last == "broken copy":
        flip(path)
    assert last_checkpoint(run).name == ("last.ckpt" if last == "copy" else "step=4.ckpt")
    assert ("it leads nowhere" in caplog.text) == (last == "dangling")


def test_the_newest_of_the_others_by_age(run):
    (run / "checkpoints" / "last.ckpt").unlink()
    save(run / "checkpoints" / "best-step=1.ckpt", age=0)
    assert last_checkpoint(run).name == "best-step=1.ckpt"


def test_what_slurm_saved_last_comes_first(run):
    save(run / "hpc_ckpt_1.ckpt", age=-10)
    assert last_checkpoint(run).name == "hpc_ckpt_1.ckpt"
    save(run / "hpc_ckpt_1.ckpt", age=500)
    assert last_checkpoint(run).name == "step=4.ckpt"


def test_nothing_to_go_on_from(tmp_path, caplog):
    assert last_checkpoint(tmp_path) is None
    save(tmp_path / "checkpoints" / "step=1.ckpt").write_bytes(b"")
    assert last_checkpoint(tmp_path, quiet=True) is None
    assert caplog.text == ""


def test_a_file_that_would_run_code_is_not_passed_over(run, tmp_path):
    """It is refused: somebody put it there."""

    class Touch:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'touched'}",))

    save(run / "checkpoints" / "step=4.ckpt", extra=Touch())
    with pytest.raises(ValueError, match=r"last.ckpt holds more than plain data and was not read, as reading it would run code"):
        last_checkpoint(run)
    assert not (tmp_path / "touched").exists()
    (run / "checkpoints" / "step=4.ckpt").write_bytes(pickle.dumps(Touch()))  # the oldest format: a bare pickle
    assert last_checkpoint(run).name == "step=3.ckpt"
    assert not (tmp_path / "touched").exists()


def test_leftovers_of_a_kill_are_removed(run):
    """And nothing else is."""
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    (run / "rollouts").mkdir()
    for name in (
        ".metrics.csv.123",
        ".held_out.123.json",
        "rollouts/.train-000001-r0.123.parquet",
        "checkpoints/.saving-step=5.ckpt",
        "checkpoints/.step=5.ckpt.123.tmp",
        "checkpoints/.last.ckpt.123.tmp",
    ):
        (run / name).touch()
    shards = run / "checkpoints" / ".saving-step=6.ckpt"
    (shards / "inner").mkdir(parents=True)
    (shards / "inner" / "__0_0.distcp").touch()
    for name in (".run", ".notes", "rollouts/train-000001-r0.parquet"):
        (run / name).touch()
    remove_leftovers(run)
    kept = {path.relative_to(run) for path in run.rglob("*")} - {*before}
    assert sorted(map(str, kept)) == [".notes", ".run", "rollouts", "rollouts/train-000001-r0.parquet"]
