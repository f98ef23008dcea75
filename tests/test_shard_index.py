"""The index of a folder of shards is read as data: what torch writes comes back, what would act is refused."""

import os
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lightning_focal.models import check_shards
from lightning_focal.shard_index import INDEX, read_index


def test_an_index_of_torch_comes_back(tmp_path):
    dcp.save({"a": torch.zeros(2, 3).bfloat16(), "b": torch.zeros(4, dtype=torch.int8)}, checkpoint_id=tmp_path, no_dist=True)
    held = read_index(tmp_path).state_dict_metadata
    assert {name: (tuple(entry.size), entry.properties.dtype) for name, entry in held.items()} == {
        "a": ((2, 3), torch.bfloat16),
        "b": ((4,), torch.int8),
    }


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "os system",
        "torch load",
        "torch.distributed.checkpoint.metadata os.system",
        "torch.distributed.checkpoint.metadata Any",  # imported there, and no class of its own
        "torch.distributed.checkpoint.metadata dataclass",
        "torch.distributed.checkpoint.filesystem FileSystemReader",
        "pathlib os",
    ],
)
def test_nothing_else_is_named_by_it(tmp_path, name):
    module, attribute = name.split()
    (tmp_path / INDEX).write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(pickle.UnpicklingError, match=f"Unsupported GLOBAL {module}.{attribute}, which no index of weights needs"):
        read_index(tmp_path)
    with pytest.raises(ValueError, match=f"is refused: Unsupported GLOBAL {module}.{attribute}"):
        check_shards(tmp_path)


def test_nothing_of_it_is_run_and_one_that_is_gone_is_told_as_such(tmp_path):
    class Touch:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'touched'}",))

    for read in (read_index, check_shards):
        with pytest.raises(FileNotFoundError):
            read(tmp_path)
    (tmp_path / INDEX).write_bytes(pickle.dumps(Touch()))
    with pytest.raises(pickle.UnpicklingError, match=r"system"):
        read_index(tmp_path)
    assert not (tmp_path / "touched").exists()
