"""Run by torchrun, twice: in the first start the second process dies, in the second start it comes late."""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from lightning_focal.runs import rejoin


def main(folder):
    rank, again = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if again and rank == 1:
        time.sleep(12)  # under load three were not enough for the first one to be first
    strategy = DDPStrategy(process_group_backend="gloo")
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    rejoin()
    trainer.strategy.setup_environment()
    total = torch.tensor(rank + 1)
    dist.all_reduce(total)
    if not again and rank == 1:
        os._exit(1)
    (Path(folder) / f"{again}-{rank}").write_text(str(int(total)))
    if not again:
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
