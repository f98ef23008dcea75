"""Checkpoints that are never half written."""

import errno
import os

import pytest
import torch

from lightning_focal.runs import AtomicCheckpointIO


@pytest.fixture
def saved(tmp_path):
    """A checkpoint that was written twice."""
    path, io = tmp_path / "deep" / "last.ckpt", AtomicCheckpointIO()
    for value in (2.0, 1.0):
        io.save_checkpoint({"x": torch.full((3,), value)}, path)
    yield path
    assert torch.load(path, weights_only=True)["x"].tolist() == [1.0] * 3
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_round_trip(saved):
    io = AtomicCheckpointIO()
    assert io.load_checkpoint(saved)["x"].tolist() == [1.0] * 3
    content = saved.read_bytes()
    io.save_checkpoint({"x": torch.ones(3)}, saved)
    assert saved.read_bytes() == content
    other = saved.with_name("other.ckpt")
    io.save_checkpoint({}, other)
    io.remove_checkpoint(other)


def test_a_disk_that_is_really_full(saved):
    """The file beside the target leads to /dev/full, where every write is refused."""
    saved.with_name(f".last.{os.getpid()}.ckpt").symlink_to("/dev/full")
    said = r"last.ckpt was not written \(No space left on device\); the previous one is untouched"
    with pytest.raises(OSError, match=said) as caught:
        AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(1_000_000)}, saved)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_error_in_the_middle_of_writing(saved, monkeypatch, wrapped):
    def refuse(checkpoint, file):
        file.write(b"half")
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        except OSError:
            if not wrapped:
                raise
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from None

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", refuse)
        with pytest.raises(OSError, match=r"last.ckpt was not written \(Disk quota exceeded\)"):
            AtomicCheckpointIO().save_checkpoint({}, saved)


def test_errors_of_other_kinds(saved):
    io = AtomicCheckpointIO()
    with pytest.raises((AttributeError, TypeError), match=r"local object|pickle"):
        io.save_checkpoint({"f": lambda: None}, saved)
    with pytest.raises(TypeError, match="`storage_options` is not supported"):
        io.save_checkpoint({}, saved, storage_options={})
    with pytest.raises(ValueError, match=r"is a folder of shards.*lightning_focal export --ckpt_path"):
        io.load_checkpoint(saved.parent)
