"""``lightning_focal sft``: a supervised warm start that ends in a policy folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser

from lightning_focal.callbacks.console import first_line
from lightning_focal.callbacks.observer import batches_done
from lightning_focal.cli import RunCLI, launch
from lightning_focal.files import set_aside_of, write_json
from lightning_focal.models import export_policy
from lightning_focal.modules import SFTModule
from lightning_focal.terminal import make_console

__all__ = ["PolicyFolder", "WarmStartCLI", "sft_command"]


class PolicyFolder(Callback):
    """A line a validation while the run goes on; at its end ``policy/``, and ``warm_start.json`` with what was reached.

    ``quiet`` prints the last line alone.
    """

    def __init__(self, folder: str | Path, quiet: bool = False) -> None:
        self.folder, self.quiet = Path(folder), quiet
        self.console = make_console(soft_wrap=True)
        self._began = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and say what runs."""
        self._began, paths = time.monotonic(), first_line(pl_module)
        self._set_aside = set_aside_of(trainer, self.folder, batches_done(trainer))
        if trainer.is_global_zero and not self.quiet:
            self.console.print(paths)
            count = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            source = getattr(pl_module, "source", "?")
            words = f"warm start of {source} · {count / 1e6:.2f} M trained parameters · run folder {self.folder}"
            self.console.print(words, style="bold")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if trainer.is_global_zero and not trainer.sanity_checking and not self.quiet:
            seen = {name.removeprefix("val/"): value for name, value in self._seen(trainer).items() if name.startswith("val/")}
            words = ", ".join(f"{name} {value:.3f}" for name, value in seen.items())
            self.console.print(f"step {trainer.global_step}, {time.monotonic() - self._began:.0f} s: {words}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder, while processes still talk to each other, as shards are gathered; another policy there is set aside."""
        assert isinstance(pl_module, SFTModule)
        if getattr(trainer, "fast_dev_run", False):
            self.console.print("nothing kept: `trainer.fast_dev_run` tries a run out")
            return
        written, began = [self.folder / "policy", self.folder / "warm_start.json"], self._set_aside.batch
        if trainer.is_global_zero and (batches_done(trainer) > began or not began):
            for path in filter(Path.exists, written):
                self._set_aside.keep(path)
        target = export_policy(pl_module.model, pl_module.tokenizer, self.folder / "policy", write=trainer.is_global_zero)
        if trainer.is_global_zero:
            seconds = round(time.monotonic() - self._began, 1)
            write_json(self.folder / "warm_start.json", {"steps": trainer.global_step, "seconds": seconds, **self._seen(trainer)})
            self.console.print(f"policy written: --model.policy={target}")

    @staticmethod
    def _seen(trainer: Trainer) -> dict[str, float]:
        return {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}


class WarmStartCLI(RunCLI):
    """The warm start: one run folder, one fit, one policy."""

    run_dir = "runs/sft"

    def __init__(self, command: str = "sft", args: Sequence[str] = ()) -> None:
        about = "Supervised warm start on demonstrations; ends in a policy folder that `fit` starts from."
        super().__init__(command, args, about, SFTModule)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--stop_at`` to the others."""
        super().add_default_arguments_to_parser(parser)
        limit = "Stop once the sampled accuracy on held-out questions, the lower one of their wordings, reaches this: in (0, 1]."
        parser.add_argument("--stop_at", type=float | None, default=None, help=limit)

    def before_instantiate_classes(self) -> None:
        """Check the threshold, then decide on the run folder."""
        if self.config.stop_at is not None and not 0 < self.config.stop_at <= 1:
            raise ValueError(f"`stop_at` must be in (0, 1], got {self.config.stop_at}")
        super().before_instantiate_classes()

    def more_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Return what writes the policy, and what stops the run."""
        added: list[Callback] = [PolicyFolder(self.folder, self.config.quiet)]
        if self.config.stop_at is not None:
            watched, limit = "val/accuracy/worst", self.config.stop_at
            added.append(EarlyStopping(watched, mode="max", patience=10**9, stopping_threshold=limit, check_finite=False))
        return added


def sft_command(args: list[str]) -> None:
    """Run the command."""
    launch(WarmStartCLI, "sft", args)
