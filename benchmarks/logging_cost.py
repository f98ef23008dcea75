"""Logging 600 names a batch: directly, as a run does, and by Lightning's `log_dict`.

python benchmarks/logging_cost.py --json benchmarks/results/logging_cost.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from provenance import provenance
from steps import busy, quiet, spread


class Logs(LightningModule):
    """Logs 600 values a batch, directly or by `log_dict`, and remembers how long that took from there to the next batch."""

    def __init__(self, directly):
        from lightning_focal.modules.step_log import StepLog

        super().__init__()
        self.automatic_optimization = False
        self.layer, self.step_log, self.directly, self.seconds, self.began = torch.nn.Linear(1, 1), StepLog(), directly, [], None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch, batch_idx):
        values = {f"train/criterion/{k}/score": float(k + batch_idx) for k in range(600)}
        self.began = time.perf_counter()
        self.step_log.show(self, values) if self.directly else self.log_dict(values, batch_size=8, rank_zero_only=False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.step_log.write(self.trainer)

    def on_train_batch_start(self, batch, batch_idx):
        if self.began is not None:
            self.seconds.append(time.perf_counter() - self.began)


def logging_of(directly, batches=12):
    """Seconds a batch without a logger; the first ones, in which Lightning learns the names, are dropped."""
    module = Logs(directly)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, **dict.fromkeys(off, False))
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(batches, 1)))
    return spread(module.seconds[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quiet()
    before, began = busy(), time.perf_counter()
    result = {"logging": {"direct": logging_of(True), "log_dict": logging_of(False)}}
    after, seconds = busy(), time.perf_counter() - began
    result["other_processes_cpu_share"] = ((after[0] - before[0]) - (after[1] - before[1])) / seconds / 2
    result["provenance"] = provenance()
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
