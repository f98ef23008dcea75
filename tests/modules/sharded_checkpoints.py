"""Runs on two processes that save, and runs that go on from what was saved."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from tests.conftest import TINY
from tests.modules import parallel

KINDS = ("shards", "file", "flat_shards", "flat_file")
SAVED = [(case, kind) for case in ("co_rewarding_2", "adapters") for kind in KINDS]
"""Which run is saved in which way."""


def strategy(kind):
    if kind.startswith("flat"):
        state = "sharded" if kind == "flat_shards" else "full"
        return parallel.FlatOnCPU(process_group_backend="gloo", state_dict_type=state)
    return ModelParallelStrategy(2, 1, save_distributed_checkpoint=kind == "shards")


def worker(rank, folder):
    """Train four steps, saving after each two (of several) optimiser steps; go on from the first half; keep both results.

    First of all, layers are not computed together by several processes, and no weight is read for it.
    """
    refused = Path(folder) / "refused"
    refused.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"tensor_parallel_size` must be 1, got 2"):
        parallel.fit("focal", refused, ModelParallelStrategy(1, 2), 2, policy=TINY)
    for case, kind in SAVED:
        run, again = (Path(folder) / f"{name}-{case}-{kind}" for name in ("whole", "resumed"))
        for path in (run, again):
            path.mkdir(exist_ok=True)
        saving = ModelCheckpoint(run / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1)
        torch.distributed.barrier()
        whole = parallel.fit(case, run, strategy(kind), 2, steps=4, callbacks=[saving])
        torch.save(parallel.result(whole), run / f"result-{rank}.pt")
        ckpt_path = str(run / "checkpoints" / "step=2.ckpt")
        resumed = parallel.fit(case, again, strategy(kind), 2, steps=4, ckpt_path=ckpt_path)
        torch.save(parallel.result(resumed), again / f"result-{rank}.pt")
