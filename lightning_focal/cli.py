"""The command line: ``lightning_focal fit | validate | test | predict``, a LightningCLI that knows reward strategies."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import lightning_focal.data
import lightning_focal.report
import lightning_focal.rewards  # strategies, stages and sources are found by their short names
from lightning_focal.callbacks import ConsoleReport, HeldOut, JudgeWatch, RolloutTable
from lightning_focal.modules import GRPOModule
from lightning_focal.rewards import RewardStrategy
from lightning_focal.runs import AtomicCheckpointIO, CSVLog, EventLog, RunFolder, RunRecord, release, run_folder
from lightning_focal.runs.folder import RUN_FOLDER_ENV
from lightning_focal.terminal import plain_errors, plain_message, quiet

__all__ = ["FocalCLI", "main"]


COMMANDS = {
    "ablate": ("lightning_focal.studies.ablate", "ablate_command"),
    "judge": ("lightning_focal.judging.command", "judge_command"),
    "rephrase": ("lightning_focal.rephrasing.command", "rephrase_command"),
    "replay": ("lightning_focal.studies.replay_command", "replay_command"),
    "report": ("lightning_focal.report.command", "report_command"),
    "rubrics": ("lightning_focal.studies.rubrics_command", "rubrics_command"),
    "sft": ("lightning_focal.warm_start", "sft_command"),
}
"""Sub-commands that are no Trainer method: where each one lives."""


class _Parser(LightningArgumentParser):
    """A parser whose complaints are a few lines, without the list of all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and where options are explained; exit status 2."""
        strategies = [name for name in lightning_focal.rewards.__all__ if _is_strategy(getattr(lightning_focal.rewards, name))]
        prog = str(getattr(getattr(ex, "subcommand_parser", None) or self, "prog", "")).replace(" [options]", "")
        sys.stderr.write(f"error: {plain_message(message, strategies)}\ntip: options are explained by {prog} --help\n")
        raise SystemExit(2)


def _is_strategy(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, RewardStrategy) and value is not RewardStrategy


class _SaveConfig(SaveConfigCallback):
    """Writes config.yaml; into the folder of a run that is resumed only once its checkpoint has been accepted."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See the class."""
        resumed = stage == "fit" and (Path(str(trainer.log_dir)) / self.config_filename).exists()
        if not trainer.strategy.broadcast(resumed):  # as the first process sees it
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See the class."""
        super().setup(trainer, pl_module, "fit")


class FocalCLI(LightningCLI):
    """LightningCLI with ``--reward`` and ``--run_dir``, and a run folder that holds everything a run writes.

    The folder's loggers, checkpoints, rollout table, held-out scores and console report are added unless the config brings
    callbacks of these kinds itself.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--reward`` and ``--run_dir``."""
        parser.add_lightning_class_args(RewardStrategy, "reward", subclass_mode=True, required=False)
        parser.add_argument(
            "--run_dir", type=str, default="runs/run", help="Folder of the run; a number is put behind it where it is in use."
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave Lightning's own table of every value to `--verbose=true`: the levels are printed anyway."""
        parser: LightningArgumentParser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        return parser

    def _parse_ckpt_path(self) -> None:
        """Nothing: the config file holds the hyper-parameters, and reading a large checkpoint twice is slow."""

    def before_instantiate_classes(self) -> None:
        """Decide on the run folder, on the first process, before anything is written."""
        config = self.config[self.subcommand]
        if config.get("ckpt_path") == "last":
            config["ckpt_path"] = str(Path(config["run_dir"]) / "checkpoints" / "last.ckpt")
        _expect_checkpoint(config.get("ckpt_path"))
        _expect_no_automatic_optimisation(config["trainer"])
        if RUN_FOLDER_ENV not in os.environ:
            if self.subcommand == "fit":
                folder = run_folder(config["run_dir"], config.get("ckpt_path"))
            else:
                folder = run_folder(Path(config["run_dir"]).with_name(f"{Path(config['run_dir']).name}-{self.subcommand}"))
            os.environ[RUN_FOLDER_ENV] = str(folder)
        self.folder = Path(os.environ[RUN_FOLDER_ENV])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer around the run folder."""
        config = self._get(self.config_init, "trainer", default={})
        callbacks = [c for c in [self._get(self.config_init, "reward"), *_listed(config.get("callbacks"))] if c is not None]
        config["callbacks"] = _listed(config.get("callbacks"))
        kwargs.setdefault("default_root_dir", str(self.folder))
        if config.get("logger") in (None, True):
            kwargs["logger"] = [CSVLog(self.folder), EventLog(self.folder)]
        if config.get("plugins") is None:
            kwargs["plugins"] = [AtomicCheckpointIO()]
        added: list[Any] = [RunFolder(), RunRecord()]
        for kind in (HeldOut, RolloutTable, ConsoleReport, JudgeWatch):
            if not any(isinstance(callback, kind) for callback in callbacks):
                added.append(kind())
        if config.get("enable_checkpointing") is not False:
            for callback in [c for c in callbacks if isinstance(c, ModelCheckpoint)]:
                callback.dirpath = callback.dirpath or str(self.folder / "checkpoints")
            if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
                added.append(
                    ModelCheckpoint(
                        self.folder / "checkpoints", filename="step={step}", auto_insert_metric_name=False, save_last="link"
                    )
                )
        config["callbacks"] += added
        trainer_config = {**config, **kwargs}
        reward = self._get(self.config_init, "reward")
        return self._instantiate_trainer(trainer_config, [] if reward is None else [reward])


def _expect_checkpoint(path: str | None) -> None:
    if path is not None and "://" not in path and not Path(path).exists():
        raise FileNotFoundError(
            f"`ckpt_path` must be an existing checkpoint such as runs/focal/checkpoints/last.ckpt, got {path!r} (looked in {Path.cwd()})"
        )


def _expect_no_automatic_optimisation(trainer: Any) -> None:
    for key, default, ours in (
        ("gradient_clip_val", None, "`model.update.gradient_clip_val` (global norm)"),
        ("accumulate_grad_batches", 1, "`model.update.micro_batch_size` (sequences in one forward and backward)"),
    ):
        if trainer.get(key) not in (None, default):
            raise ValueError(f"`trainer.{key}` must be left out, got {trainer[key]}: write {ours}")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: as on the command line, without the program's name; None = ``sys.argv``.
    """
    given, argv = sys.argv[1:] if args is None else list(args), sys.argv
    with plain_errors():
        if given and given[0] in COMMANDS:
            module, function = COMMANDS[given[0]]
            getattr(importlib.import_module(module), function)(given[1:])
            return
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        logging.getLogger("lightning_focal").setLevel(logging.INFO)
        quiet()
        launched = RUN_FOLDER_ENV in os.environ  # by a first process, whose folder it is
        sys.argv = [argv[0], *given]
        try:
            _run()
        except BaseException:
            if not launched and RUN_FOLDER_ENV in os.environ:
                release(Path(os.environ[RUN_FOLDER_ENV]))
            raise
        finally:
            sys.argv = argv
            if not launched:
                os.environ.pop(RUN_FOLDER_ENV, None)


def _run() -> None:
    FocalCLI(
        GRPOModule,
        LightningDataModule,
        subclass_mode_data=True,
        parser_class=_Parser,
        save_config_callback=_SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        trainer_defaults={
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        parser_kwargs={
            "description": "Reinforcement learning on rubrics of many criteria, and without labels. Further commands with a "
            "--help of their own: sft (a supervised warm start), rephrase (questions into pairs), judge (is a judge there, and how good is it), "
            "rubrics (what is in a file of rubrics), report (what came out, as one HTML file), ablate (a grid of runs), "
            "replay (recorded rollouts under another strategy)."
        },
    )


if __name__ == "__main__":
    main()
