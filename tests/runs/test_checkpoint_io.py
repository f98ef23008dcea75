"""Checkpoints that are never half written."""

import errno
import os

import pytest
import torch

from lightning_focal.runs import AtomicCheckpointIO


def load(path):
    return torch.load(path, weights_only=True)


def test_round_trip_leaves_one_file(tmp_path):
    path = tmp_path / "deep" / "last.ckpt"
    io = AtomicCheckpointIO()
    for value in (1.0, 2.0):
        io.save_checkpoint({"x": torch.full((3,), value)}, path)
        assert load(path)["x"].tolist() == [value] * 3
    assert os.listdir(path.parent) == ["last.ckpt"]
    assert io.load_checkpoint(path, weights_only=True)["x"].tolist() == [2.0] * 3
    io.remove_checkpoint(path)
    assert os.listdir(path.parent) == []


def test_a_disk_that_is_really_full(tmp_path):
    """The file beside the target leads to /dev/full, where every write is refused."""
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"x": torch.ones(3)}, path)
    beside = tmp_path / f".last.ckpt.{os.getpid()}.tmp"
    beside.symlink_to("/dev/full")
    with pytest.raises(
        OSError, match=r"last.ckpt was not written \(No space left on device\); the previous one is untouched"
    ) as caught:
        io.save_checkpoint({"x": torch.zeros(1_000_000)}, path)
    assert caught.value.errno == errno.ENOSPC
    assert load(path)["x"].tolist() == [1.0] * 3
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_error_in_the_middle_of_writing(tmp_path, monkeypatch, wrapped):
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"x": torch.ones(3)}, path)

    def refuse(checkpoint, file):
        file.write(b"half")
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        except OSError:
            if not wrapped:
                raise
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from None

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(OSError, match=r"last.ckpt was not written \(Disk quota exceeded\)"):
        io.save_checkpoint({}, path)
    assert load(path)["x"].tolist() == [1.0] * 3
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_an_error_of_another_kind_stays_what_it_is(tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises((AttributeError, TypeError), match=r"local object|pickle"):
        AtomicCheckpointIO().save_checkpoint({"f": lambda: None}, path)
    assert os.listdir(tmp_path) == []


def test_storage_options_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`storage_options` is not supported"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})


def test_a_folder_of_shards_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder of shards.*lightning_focal export --ckpt_path"):
        AtomicCheckpointIO().load_checkpoint(tmp_path)
