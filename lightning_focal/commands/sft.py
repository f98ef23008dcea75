"""``lightning_focal sft``: a supervised warm start that ends in a policy folder."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import lightning_focal.data  # noqa: F401 - data modules are found by their short names
from lightning_focal.callbacks.console import first_line
from lightning_focal.files import write_json
from lightning_focal.models import export_policy
from lightning_focal.modules import SFTModule
from lightning_focal.parsing import RunParser, run_parser_settings
from lightning_focal.runs import (
    AtomicCheckpointIO,
    CSVLog,
    EventLog,
    ProcessWatch,
    RunCheckpoint,
    RunFolder,
    release,
    resume_from,
    run_folder,
)
from lightning_focal.runs.folder import RUN_FOLDER_ENV, let_go, own_rank, take
from lightning_focal.runs.saving import share_folder
from lightning_focal.runs.watch import end_with_parent
from lightning_focal.terminal import QUIET_HELP, make_console, quiet, say_less

__all__ = ["PolicyFolder", "WarmStartCLI", "sft_command"]

_WATCHED = "val/accuracy/worst"


class PolicyFolder(Callback):
    """A line a validation while the run goes on; at its end ``policy/``, and ``warm_start.json`` with what was reached.

    Args:
        folder: the run folder.
        quiet: print the last line alone.
    """

    def __init__(self, folder: str | Path, quiet: bool = False) -> None:
        self.folder, self.quiet = Path(folder), quiet
        self.console = make_console(soft_wrap=True, markup=False, emoji=False)
        self._began = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and say what runs."""
        self._began, paths = time.monotonic(), first_line(pl_module)
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
        """Write the folder: while processes still talk to each other, as shards are gathered."""
        assert isinstance(pl_module, SFTModule)
        target = export_policy(pl_module.model, pl_module.tokenizer, self.folder / "policy", write=trainer.is_global_zero)
        if trainer.is_global_zero:
            seconds = round(time.monotonic() - self._began, 1)
            write_json(self.folder / "warm_start.json", {"steps": trainer.global_step, "seconds": seconds, **self._seen(trainer)})
            self.console.print(f"policy written: --model.policy={target}")

    @staticmethod
    def _seen(trainer: Trainer) -> dict[str, float]:
        return {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}


class WarmStartCLI(LightningCLI):
    """LightningCLI without sub-commands of its own: one run folder, one fit, one policy."""

    folder: Path

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--run_dir``, ``--stop_at``, ``--ckpt_path`` and ``--checkpoint``."""
        parser.add_argument(
            "--run_dir", type=str, default="runs/sft", help="Folder of the run; a number is put behind it where it is in use."
        )
        parser.add_argument(
            "--stop_at",
            type=float | None,
            default=None,
            help="Stop once the sampled accuracy on held-out questions, the lower one of their wordings, reaches this: in (0, 1].",
        )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to go on from; last = the newest.")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument("--quiet", type=bool, default=False, nargs="?", const=True, help=QUIET_HELP)

    def before_instantiate_classes(self) -> None:
        """Decide on the run folder, on the first process, before anything is written."""
        config = self.config
        if config.quiet:
            say_less()
        if config.stop_at is not None and not 0 < config.stop_at <= 1:
            raise ValueError(f"`stop_at` must be in (0, 1], got {config.stop_at}")
        known = os.environ.get(RUN_FOLDER_ENV)
        resume = resume_from(config.ckpt_path, config.run_dir, folder=Path(known) if known else None)
        config.ckpt_path = resume.path
        if known is None:
            if own_rank():  # the first process claims the folder, and tells the others once they talk
                folder = resume.folder or Path(config.run_dir)
            else:
                folder = resume.folder or run_folder(config.run_dir, resume.path)
                take(folder)
            os.environ[RUN_FOLDER_ENV] = str(folder)
        self.folder = Path(os.environ[RUN_FOLDER_ENV])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer around the run folder."""
        config = self._get(self.config_init, "trainer", default={})
        given = config.get("callbacks") or []
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        kwargs.setdefault("default_root_dir", str(self.folder))
        if config.get("logger") in (None, True):
            kwargs["logger"] = [CSVLog(self.folder), EventLog(self.folder)]
        if config.get("plugins") is None:
            kwargs["plugins"] = [AtomicCheckpointIO()]
        added: list[Callback] = [ProcessWatch(), PolicyFolder(self.folder, self._get(self.config_init, "quiet"))]
        stop_at = self._get(self.config_init, "stop_at")
        if stop_at is not None:
            added.append(EarlyStopping(_WATCHED, mode="max", patience=10**9, stopping_threshold=stop_at, check_finite=False))
        if config.get("enable_checkpointing") is not False:
            share_folder([c for c in given if isinstance(c, ModelCheckpoint)], self.folder / "checkpoints")
            added.append(self._get(self.config_init, "checkpoint"))
        config["callbacks"] = [RunFolder(), *given, *added]
        return self._instantiate_trainer({**config, **kwargs}, [])


def sft_command(args: list[str]) -> None:
    """Run the command.

    Args:
        args: as on the command line, behind ``lightning_focal sft``.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lightning_focal").setLevel(logging.INFO)
    quiet()
    argv, launched = sys.argv, RUN_FOLDER_ENV in os.environ  # by a first process, whose folder it is
    sys.argv = [argv[0], "sft", *args]  # what further processes are started with
    if launched and os.environ.get("LOCAL_RANK", "0") != "0":
        end_with_parent()
    try:
        cli = _cli(args)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True)
    except BaseException:
        if not launched and not own_rank() and RUN_FOLDER_ENV in os.environ:
            release(Path(os.environ[RUN_FOLDER_ENV]))
        raise
    finally:
        sys.argv = argv
        if not launched:
            os.environ.pop(RUN_FOLDER_ENV, None)
            let_go()


def _cli(args: list[str]) -> WarmStartCLI:
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter", category=UserWarning)  # they are the same ones
    return WarmStartCLI(
        SFTModule,
        LightningDataModule,
        **run_parser_settings(
            RunParser,
            prog="lightning_focal sft",
            description="Supervised warm start on demonstrations; ends in a policy folder that `fit` starts from.",
        ),
        args=args,
        run=False,
    )
