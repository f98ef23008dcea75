"""What is off by default beside what is on: liger-kernel's output layer; and logging beside `log_dict`.

    python benchmarks/choices.py --json benchmarks/results/choices.json

Output layer: forward and backward over 512 tokens. Logging: 600 names a batch. Ways take turns;
the first turn is dropped and told as such.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from provenance import provenance
from steps import JOBS, busy, quiet, spread


def in_turns(ways, rounds):
    """Seconds of each way: its first turn, and the spread of the others."""
    seconds = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: {"first": found[0], **spread(found[1:])} for name, found in seconds.items()}


def output_layer(vocabulary, width, rounds):
    """Seconds forward and backward through our output layer, alone and with the entropy a run logs, and liger-kernel's."""
    from lightning_focal.functional import chunked_logp_from_hidden
    from lightning_focal.models.liger import liger_logp

    hidden, weight = torch.randn(512, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (512,))

    def way(logp):
        def run():
            logp().sum().backward()
            hidden.grad = weight.grad = None

        return run

    ways = {
        "ours": way(lambda: chunked_logp_from_hidden(hidden, weight, targets)[0]),
        "ours, entropy": way(lambda: chunked_logp_from_hidden(hidden, weight, targets, measures=["entropy"])[0]),
    }
    if importlib.util.find_spec("liger_kernel"):
        ways["liger"] = way(lambda: liger_logp(hidden, weight, targets))
    return in_turns(ways, rounds)


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
    parser.add_argument("--size", choices=list(JOBS), default="tiny")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quiet()
    before, began = busy(), time.perf_counter()
    result = {"size": options.size}
    result["output_layer"] = {f"{v} x {h}": output_layer(v, h, options.rounds) for v, h in ((2048, 256), (49152, 576))}
    result["logging"] = {"direct": logging_of(True), "log_dict": logging_of(False)}
    after, seconds = busy(), time.perf_counter() - began
    result["other_processes_cpu_share"] = ((after[0] - before[0]) - (after[1] - before[1])) / seconds / 2
    result["provenance"] = provenance()
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
