"""Which checkpoint a run goes on from: the newest that is whole and plain."""

import os
import pickle
import shutil
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lightning_focal.runs import last_checkpoint, why_broken
from lightning_focal.runs.resume import remove_leftovers

STATE = {"state_dict": {"w": torch.arange(1000.0)}, "optimizer_states": [{}], "loops": {}}
REFUSED = "holds more than plain data and was not read, as reading it would run code"


def save(path, age=0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**STATE, **more}, path)
    os.utime(path, (time.time() - age,) * 2)
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


@pytest.fixture
def touch(tmp_path):
    """What touches a file when it is unpickled; that file must not be there in the end."""

    class Touch:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'touched'}",))

    yield Touch()
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_newest_one_is_passed_over_in_words(run, caplog, how):
    damage, words = BROKEN[how]
    newest = run / "checkpoints" / "step=4.ckpt"
    assert why_broken(newest) is why_broken(run / "checkpoints" / "last.ckpt") is None
    damage(newest)
    assert words in why_broken(newest)
    assert last_checkpoint(run).name == "step=3.ckpt"
    if how != "gone":  # then it is the link that leads nowhere
        assert f"checkpoint last.ckpt (step=4.ckpt) in {run / 'checkpoints'} is passed over: {words}" in caplog.text
        assert caplog.text.count("passed over") == 1


def test_what_last_points_at_comes_first_then_the_others_by_age(run, caplog):
    """A kill between the file and the link: the newer file is written again."""
    path = run / "checkpoints" / "last.ckpt"
    for target, expected in (
        (3, "step=3.ckpt"),
        (None, "step=4.ckpt"),
        ("copy", "last.ckpt"),
        ("broken", "step=4.ckpt"),
        (9, "step=4.ckpt"),
    ):
        path.unlink(missing_ok=True)
        if isinstance(target, int):
            path.symlink_to(f"step={target}.ckpt")
        elif target:
            shutil.copy(run / "checkpoints" / "step=2.ckpt", path)
        if target == "broken":
            flip(path)
        assert "it leads nowhere" not in caplog.text
        assert last_checkpoint(run).name == expected
    assert "it leads nowhere" in caplog.text  # of the last one


def test_others_that_are_newer(run):
    save(run / "hpc_ckpt_1.ckpt", age=-10)  # SLURM's
    assert last_checkpoint(run).name == "hpc_ckpt_1.ckpt"
    save(run / "hpc_ckpt_1.ckpt", age=500)
    assert last_checkpoint(run).name == "step=4.ckpt"
    (run / "checkpoints" / "last.ckpt").unlink()
    save(run / "checkpoints" / "best-step=1.ckpt", age=0)
    save(run / "checkpoints" / ".saving-step=9.ckpt", age=-20)  # has no name yet
    assert last_checkpoint(run).name == "best-step=1.ckpt"


def test_nothing_to_go_on_from(tmp_path, caplog):
    assert last_checkpoint(tmp_path) is None
    save(tmp_path / "checkpoints" / "step=1.ckpt").write_bytes(b"")
    assert last_checkpoint(tmp_path, quiet=True) is None
    assert caplog.text == ""


def test_a_file_that_would_run_code_is_refused_and_not_passed_over(run, touch):
    save(run / "checkpoints" / "step=4.ckpt", extra=touch)
    with pytest.raises(ValueError, match=f"last.ckpt {REFUSED}"):
        last_checkpoint(run)
    (run / "checkpoints" / "step=4.ckpt").write_bytes(pickle.dumps(touch))  # the oldest format: a bare pickle
    assert last_checkpoint(run).name == "step=3.ckpt"


def test_leftovers_of_a_kill_are_removed_and_nothing_else(run):
    kept = {".run", ".notes", "rollouts", "rollouts/train-000001-r0.parquet"}
    kept |= {str(path.relative_to(run)) for path in run.rglob("*")}
    left = [".metrics.123.csv", ".held_out.123.json", "rollouts/.train-000001-r0.123.parquet"]
    left += [f"checkpoints/{name}" for name in (".saving-step=5.ckpt", "..saving-step=5.123.ckpt", ".last.ckpt.123.tmp")]
    left += ["checkpoints/.saving-step=6.ckpt/inner/__0_0.distcp"]
    for name in (".run", ".notes", "rollouts/train-000001-r0.parquet", *left):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    remove_leftovers(run)
    assert {str(path.relative_to(run)) for path in run.rglob("*")} == kept


# -- folders of shards -------------------------------------------------------------------------------------------------------


def shards(folder, **more):
    """Written by torch itself, with tensors of several kinds and plain values."""
    weights = {"a": torch.randn(4, 4).bfloat16(), "b": torch.arange(3), "c": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    optimizer = {"lr": 0.1, "step": torch.tensor(1.0), "betas": (0.9, 0.99), "fused": None, "state": {}, **more}
    dcp.save({"state_dict": weights, "optimizer_0": optimizer}, checkpoint_id=folder, no_dist=True)
    torch.save({"loops": {}, "callbacks": {}}, folder / "meta.pt")
    return folder


def test_shards_that_are_whole_cut_short_or_missing(tmp_path):
    folder = shards(tmp_path / "step=4.ckpt")
    assert why_broken(folder) is None
    (shard,), metadata = folder.glob("*.distcp"), folder / ".metadata"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert why_broken(folder) == "it is damaged (__0_0.distcp is cut short)"
    shard.unlink()
    assert "it is damaged" in why_broken(folder)
    metadata.write_bytes(metadata.read_bytes()[:-50])
    assert "it is damaged" in why_broken(folder)
    metadata.unlink()
    assert why_broken(folder) == "its .metadata is missing"


@pytest.mark.parametrize("where", ["list", "value", "meta"])
def test_nothing_in_a_folder_of_shards_is_run(tmp_path, touch, where):
    """torch itself would unpickle the first two as they come; of functions that an index names see tests/test_shard_index.py."""
    folder = shards(tmp_path / "step=4.ckpt", **({"extra": touch} if where == "value" else {}))
    if where == "list":
        (folder / ".metadata").write_bytes(pickle.dumps(touch))
    elif where == "meta":
        torch.save({"loops": touch}, folder / "meta.pt")
    with pytest.raises(ValueError, match=REFUSED):
        why_broken(folder)
