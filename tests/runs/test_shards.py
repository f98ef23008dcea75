"""Folders of shards: plain data alone, and whole."""

import os
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lightning_focal.runs import why_broken


@pytest.fixture
def folder(tmp_path):
    """Written by torch itself, with tensors of several kinds and plain values."""
    return write(tmp_path / "step=4.ckpt")


@pytest.fixture
def touch(tmp_path):
    """What touches a file when it is unpickled, and that file."""

    class Touch:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'touched'}",))

    return Touch(), tmp_path / "touched"


def write(folder, **more):
    weights = {"a": torch.randn(4, 4).bfloat16(), "b": torch.arange(3), "c": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    optimizer = {"lr": 0.1, "step": torch.tensor(1.0), "betas": (0.9, 0.99), "fused": None, "state": {}, **more}
    dcp.save({"state_dict": weights, "optimizer_0": optimizer}, checkpoint_id=folder, no_dist=True)
    torch.save({"loops": {}, "callbacks": {}}, folder / "meta.pt")
    return folder


def test_what_torch_writes_is_whole_and_plain(folder):
    assert why_broken(folder) is None


def test_a_shard_that_is_missing_or_cut_short(folder):
    (shard,) = folder.glob("*.distcp")
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    assert "it is damaged (__0_0.distcp is cut short)" in why_broken(folder)
    shard.unlink()
    assert "it is damaged" in why_broken(folder)


def test_a_list_of_contents_cut_short(folder):
    metadata = folder / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:-50])
    assert "list of contents cannot be read" in why_broken(folder) or "it is damaged" in why_broken(folder)
    metadata.unlink()
    assert why_broken(folder) == "its .metadata is missing"


@pytest.mark.parametrize("where", ["list", "value", "meta"])
def test_nothing_in_a_folder_is_run(folder, tmp_path, touch, where):
    """torch itself would unpickle the first two as they come."""
    bait, touched = touch
    if where == "list":
        (folder / ".metadata").write_bytes(pickle.dumps(bait))
    elif where == "meta":
        torch.save({"loops": bait}, folder / "meta.pt")
    else:
        folder = write(tmp_path / "step=5.ckpt", extra=bait)
    with pytest.raises(ValueError, match="holds more than plain data and was not read, as reading it would run code"):
        why_broken(folder)
    assert not touched.exists()


def test_classes_of_torch_that_run_something_are_not_known(folder, touch):
    """A function of an allowed module is none of its classes."""
    for module, name in (("torch", "load"), ("torch.distributed.checkpoint.metadata", "os.system"), ("builtins", "eval")):
        (folder / ".metadata").write_bytes(f"c{module}\n{name}\n(S'0'\ntR.".encode())
        with pytest.raises(ValueError, match=f"Unsupported GLOBAL {module}.{name}"):
            why_broken(folder)
