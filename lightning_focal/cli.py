"""The command line: ``lightning_focal fit | validate | test | predict``, a LightningCLI that knows reward strategies."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import lightning_focal.data
import lightning_focal.evaluation
import lightning_focal.report
import lightning_focal.rewards  # strategies, stages and sources are found by their short names
from lightning_focal.callbacks import ConsoleReport, HeldOut, JudgeWatch, RolloutTable
from lightning_focal.models import check_shards, is_sharded_checkpoint
from lightning_focal.modules import GRPOModule
from lightning_focal.parsing import RunParser, run_parser_settings
from lightning_focal.rewards import RewardStrategy
from lightning_focal.runs import (
    AtomicCheckpointIO,
    CSVLog,
    EventLog,
    ProcessWatch,
    RunCheckpoint,
    RunFolder,
    RunRecord,
    release,
    resume_from,
    run_folder,
)
from lightning_focal.runs.folder import RUN_FOLDER_ENV, let_go, own_rank, take
from lightning_focal.runs.rejoin import rejoin
from lightning_focal.runs.saving import share_folder
from lightning_focal.runs.signals import ENDED_BY_CTRL_C
from lightning_focal.runs.watch import end_with_parent
from lightning_focal.terminal import QUIET_HELP, plain_errors, quiet, say_less

__all__ = ["FocalCLI", "main"]


COMMANDS = {
    "ablate": ("lightning_focal.commands.ablate", "ablate_command"),
    "eval": ("lightning_focal.commands.eval", "eval_command"),
    "export": ("lightning_focal.commands.export", "export_command"),
    "judge": ("lightning_focal.commands.judge", "judge_command"),
    "lm-eval": ("lightning_focal.commands.lm_eval", "lm_eval_command"),
    "plan": ("lightning_focal.commands.plan", "plan_command"),
    "rephrase": ("lightning_focal.commands.rephrase", "rephrase_command"),
    "replay": ("lightning_focal.commands.replay", "replay_command"),
    "report": ("lightning_focal.commands.report", "report_command"),
    "rubrics": ("lightning_focal.commands.rubrics", "rubrics_command"),
    "sft": ("lightning_focal.commands.sft", "sft_command"),
}
"""Sub-commands that are no Trainer method: where each one lives."""


_ABOUT = {
    "fit": "Train a policy. Every key can also stand in a file: --config FILE; a later file or option wins.",
    "validate": "Answer the held-out prompts once, and show how far each criterion is met.",
    "test": "Answer the test prompts once, and show how far each criterion is met.",
    "predict": "Answer prompts, and write the responses with their criterion scores.",
}
_CHECKPOINT = "Checkpoint to start from; of fit, to go on from, training state included; last = the newest of `run_dir`."


class _Parser(RunParser):
    """Knows the strategies of this package."""

    @staticmethod
    def strategies() -> list[str]:
        """Names that ``--reward=`` takes."""
        return [name for name in lightning_focal.rewards.__all__ if _is_strategy(getattr(lightning_focal.rewards, name))]


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
    """LightningCLI with ``--reward``, ``--run_dir`` and ``--checkpoint``, and a run folder that holds everything a run writes.

    The folder's loggers, rollout table, held-out scores and console report are added unless the config brings callbacks of these
    kinds itself. The checkpoints that a run goes on from are its own: a ``ModelCheckpoint`` keeps others beside them.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--reward``, ``--run_dir`` and ``--checkpoint``."""
        parser.add_lightning_class_args(RewardStrategy, "reward", subclass_mode=True, required=False)
        parser.add_argument(
            "--run_dir", type=str, default="runs/run", help="Folder of the run; a number is put behind it where it is in use."
        )
        parser.add_argument("--quiet", type=bool, default=False, nargs="?", const=True, help=QUIET_HELP)
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out `weights_only`: a checkpoint is always read as plain data."""
        return {name: {*skipped, "weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave Lightning's own table of every value to `--verbose=true`: the levels are printed anyway."""
        kwargs["description"] = _ABOUT[subcommand]
        parser: LightningArgumentParser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        for action in parser._actions:
            if action.dest == "ckpt_path":
                action.help = _CHECKPOINT
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        return parser

    def _parse_ckpt_path(self) -> None:
        """Nothing: the config file holds the hyper-parameters, and reading a large checkpoint twice is slow."""

    def before_instantiate_classes(self) -> None:
        """Decide on the run folder, on the first process, before anything is written."""
        config = self.config[self.subcommand]
        if config["quiet"]:
            say_less()
        _expect_no_automatic_optimisation(config["trainer"])
        fit, wanted, known = self.subcommand == "fit", Path(config["run_dir"]), os.environ.get(RUN_FOLDER_ENV)
        resume = resume_from(config.get("ckpt_path"), wanted, fit, Path(known) if known and fit else None)
        config["ckpt_path"] = resume.path
        if resume.path is not None and is_sharded_checkpoint(resume.path):
            check_shards(resume.path)  # before anybody else reads its index, which is a pickle
        if known is None:
            if fit:
                if own_rank():  # the first process claims the folder, and tells the others once they talk
                    folder = resume.folder or wanted
                else:
                    folder = resume.folder or run_folder(wanted, resume.path)
                    take(folder)
            else:
                folder = wanted.with_name(f"{wanted.name}-{self.subcommand}")
                folder = folder if own_rank() else run_folder(folder)
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
        added: list[Any] = [ProcessWatch(), RunRecord()]
        for kind in (HeldOut, RolloutTable, ConsoleReport, JudgeWatch):
            if not any(isinstance(callback, kind) for callback in callbacks):
                added.append(kind())
        if self._get(self.config_init, "quiet"):
            for report in [callback for callback in [*callbacks, *added] if isinstance(callback, ConsoleReport)]:
                report.quiet = True
        if config.get("enable_checkpointing") is not False:
            share_folder([c for c in callbacks if isinstance(c, ModelCheckpoint)], self.folder / "checkpoints")
            checkpoint: RunCheckpoint = self._get(self.config_init, "checkpoint")
            checkpoint.resumed_from = self.config[self.subcommand]["ckpt_path"]
            added.append(checkpoint)
        config["callbacks"] = [RunFolder(), *config["callbacks"], *added]
        trainer_config = {**config, **kwargs}
        reward = self._get(self.config_init, "reward")
        trainer: Trainer = self._instantiate_trainer(trainer_config, [] if reward is None else [reward])
        rejoin(trainer)
        return trainer


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
        if launched and os.environ.get("LOCAL_RANK", "0") != "0":
            end_with_parent()
        sys.argv = [argv[0], *given]
        try:
            _run()
        except BaseException as error:
            if not launched and not own_rank() and RUN_FOLDER_ENV in os.environ:
                release(Path(os.environ[RUN_FOLDER_ENV]))
            if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
                raise SystemExit(ENDED_BY_CTRL_C) from None
            raise
        finally:
            sys.argv = argv
            if not launched:
                os.environ.pop(RUN_FOLDER_ENV, None)
                let_go()


def _run() -> None:
    FocalCLI(
        GRPOModule,
        LightningDataModule,
        save_config_callback=_SaveConfig,
        **run_parser_settings(
            _Parser,
            prog="lightning_focal",
            description="Reinforcement learning on rubrics of many criteria, and without labels. Further commands with a "
            "--help of their own: sft (a supervised warm start), rephrase (questions into pairs), judge (is a judge there, and how good is it), "
            "rubrics (what is in a file of rubrics), report (what came out, as one HTML file), ablate (a grid of runs), "
            "replay (recorded rollouts under another strategy), export (a checkpoint into a Hugging Face folder), "
            "eval (tasks of lm-evaluation-harness), lm-eval (its own command line), plan (parameters and "
            "memory of a run, before it is run).",
        ),
    )


if __name__ == "__main__":
    main()
