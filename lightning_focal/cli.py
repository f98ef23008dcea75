"""The command line: ``lightning_focal fit | validate | test | predict`` by LightningCLI, and where the other commands live."""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins import CheckpointIO

import lightning_focal.data
import lightning_focal.evaluation
import lightning_focal.report
import lightning_focal.rewards  # strategies, stages and sources are found by their short names
from lightning_focal.callbacks import ConsoleReport, HeldOut, JudgeWatch, RolloutTable
from lightning_focal.callbacks.observer import batches_done
from lightning_focal.files import set_aside_of, write_text
from lightning_focal.models import check_shards, is_sharded_checkpoint
from lightning_focal.modules import GRPOModule
from lightning_focal.parsing import TRAINER_DEFAULTS, RunParser
from lightning_focal.rewards import RewardStrategy
from lightning_focal.runs import (
    ENDED_BY_CTRL_C,
    RUN_FOLDER_ENV,
    AtomicCheckpointIO,
    CSVLog,
    EventLog,
    ProcessWatch,
    RunCheckpoint,
    RunFolder,
    RunRecord,
    end_with_parent,
    let_go,
    not_written,
    own_rank,
    rejoin,
    release,
    resume_from,
    run_folder,
    share_folder,
    take,
)
from lightning_focal.terminal import QUIET_HELP, near, plain_errors, quiet, say_less
from lightning_focal.trainer import Trainer, check_callbacks

__all__ = ["COMMANDS", "RUNS", "FocalCLI", "RunCLI", "launch", "main"]


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

RUNS = {
    "fit": "Train a policy. Every key can also stand in a file: --config FILE; a later file or option wins.",
    "validate": "Answer the held-out prompts once, and show how far each criterion is met.",
    "test": "Answer the test prompts once, and show how far each criterion is met.",
    "predict": "Answer prompts, and write the responses with their criterion scores.",
}
"""Sub-commands that are Trainer methods, and what they are for."""


class _SaveConfig(SaveConfigCallback):
    """Writes config.yaml; into the folder of a run that is resumed only once its checkpoint has been accepted."""

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        resumed = stage == "fit" and (Path(str(trainer.log_dir)) / self.config_filename).exists()
        if not trainer.strategy.broadcast(resumed):  # as the first process sees it
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        folder = trainer.log_dir  # a collective: asked for on every process
        path = Path(str(folder)) / self.config_filename
        before = path.read_text(encoding="utf-8") if trainer.is_global_zero and path.is_file() else None
        super().setup(trainer, pl_module, "fit")
        if before is not None and _settings(before) != _settings(path.read_text(encoding="utf-8")):
            write_text(set_aside_of(trainer, folder, batches_done(trainer)).place_for(path), before)


def _settings(text: str) -> Any:
    """What a config.yaml says, but for where a run is found and goes on: that differs from start to start."""
    settings = yaml.safe_load(text)
    return {**settings, "ckpt_path": None, "run_dir": None} if isinstance(settings, dict) else settings


class RunCLI(LightningCLI):
    """A command that runs the Trainer once, in a run folder that holds everything it writes.

    The folder's loggers are added unless the config brings others. The checkpoints that a run goes on from are its own: a
    ``ModelCheckpoint`` keeps others beside them.

    Args:
        command: its name.
        args: as on the command line, behind the name.
        description: what the help says of it.
        model_class: what ``model`` configures.
    """

    run_dir = "runs/run"
    """Where a run goes by default."""
    refused: ClassVar[dict[str, tuple[Any, str]]] = {
        "barebones": (
            False,
            "a run logs and saves; `trainer.logger: false` and `trainer.enable_checkpointing: false` leave that out",
        ),
        "default_root_dir": (None, "`run_dir` names the folder of a run"),
        "model_registry": (None, "`ckpt_path` is a file, and checkpoints stay in the run folder"),
    }
    """Keys of the Trainer that must keep their default, and what to write in their place."""

    def __init__(self, command: str, args: Sequence[str], description: str, model_class: type[LightningModule]) -> None:
        self.command, self.given, self.trains = command, list(args), command not in ("validate", "test", "predict")
        super().__init__(
            model_class,
            LightningDataModule,
            save_config_callback=_SaveConfig,
            save_config_kwargs={"overwrite": True},
            trainer_class=Trainer,
            parser_class=RunParser,
            parser_kwargs={"prog": f"lightning_focal {command}", "description": description},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            run=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys that belong to no class."""
        add = parser.add_argument
        about = f"Folder of the run, {self.run_dir} by default; a number is put behind it where it is in use."
        add("--run_dir", type=str | None, default=None, help=about)
        add(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to start from; in training to go on from, training state included; last = the newest of `run_dir`. A "
            "`run_dir` that is not the checkpoint's run is a new run that branches off.",
        )
        add("--seed_everything", type=bool | int, default=0, help="Seed: weights, rollouts, order of prompts; true draws one.")
        add("--quiet", type=bool, default=False, nargs="?", const=True, help=QUIET_HELP)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the classes of a run, what a person changes most first, Lightning's own keys last."""
        model: Any = self.model_class
        parser.add_lightning_class_args(model, "model")
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        parser.add_class_arguments(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments given."""
        self.config = parser.parse_args(self.given)

    def before_instantiate_classes(self) -> None:
        """Refuse what a run has no use for, then decide on the run folder, on the first process, before anything is written."""
        for key, (default, words) in self.refused.items():
            if self.config.trainer[key] not in (None, default):
                raise ValueError(f"`trainer.{key}` must be left out, got {self.config.trainer[key]}: {words}")
        config, known = self.config, os.environ.get(RUN_FOLDER_ENV)
        named, config.run_dir = config.run_dir is not None, config.run_dir or self.run_dir
        wanted = Path(config.run_dir)
        if config.quiet:
            say_less()
        typed = shlex.join(["lightning_focal", self.command, *self.given])
        folder = Path(known) if known and self.trains else None
        resume = resume_from(config.ckpt_path, wanted, self.trains, folder, named=named, command=typed)
        config.ckpt_path = resume.path
        if resume.path is not None and is_sharded_checkpoint(resume.path):
            check_shards(resume.path)  # before anybody else reads its index, which is a pickle
        if known is None:
            folder = resume.folder if self.trains else None
            wanted = wanted if self.trains else wanted.with_name(f"{wanted.name}-{self.command}")
            if own_rank():  # the first process claims the folder, and tells the others once they talk
                folder = folder or wanted
            else:
                folder = folder or run_folder(wanted)
                if self.trains:
                    take(folder)
            os.environ[RUN_FOLDER_ENV] = str(folder)
        self.folder = Path(os.environ[RUN_FOLDER_ENV])

    def more_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Return the callbacks of the command, beside those that the config brings."""
        return []

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the Trainer around the run folder."""
        config = self.config_init.trainer
        given = config.callbacks or []
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        check_callbacks(given, self.model.automatic_optimization)
        callbacks = [RunFolder(), *given, ProcessWatch(), *self.more_callbacks(given)]
        if config.logger in (None, True):
            kwargs["logger"] = [CSVLog(self.folder), EventLog(self.folder)]
        plugins = config.plugins or []
        plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        if config.enable_checkpointing is not False:
            share_folder([c for c in given if isinstance(c, ModelCheckpoint)], self.folder / "checkpoints")
            checkpoint: RunCheckpoint = self.config_init.checkpoint
            checkpoint.resumed_from = self.config.ckpt_path
            callbacks.append(checkpoint)
        rejoin()
        return super().instantiate_trainer(callbacks=callbacks, default_root_dir=str(self.folder), **kwargs)

    def start(self) -> None:
        """Run the Trainer; a checkpoint is always read as plain data."""
        more = {"predict": {"return_predictions": False}, "validate": {"verbose": False}, "test": {"verbose": False}}
        trainer: Any = self.trainer
        run = getattr(trainer, "fit" if self.trains else self.command)
        known = {"datamodule": self.datamodule, "ckpt_path": self.config.ckpt_path, "weights_only": True}
        run(self.model, **known, **more.get(self.command, {}))
        if trainer.fast_dev_run and trainer.is_global_zero:
            release(self.folder)  # nothing was kept


def launch(make: Callable[[str, Sequence[str]], RunCLI], command: str, args: Sequence[str]) -> None:
    """Run a command as this process, or as one that the first process of the same run has launched.

    Args:
        make: builds it from its name and what stands behind it on the command line.
        command: its name.
        args: as on the command line, behind the name.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lightning_focal").setLevel(logging.INFO)
    quiet()
    argv, launched = sys.argv, RUN_FOLDER_ENV in os.environ  # by a first process, whose folder it is
    if launched and os.environ.get("LOCAL_RANK", "0") != "0":
        end_with_parent()
    sys.argv = [argv[0], command, *args]  # what further processes are started with
    try:
        make(command, args).start()
    except BaseException as error:
        if RUN_FOLDER_ENV in os.environ:
            folder = Path(os.environ[RUN_FOLDER_ENV])
            words = not_written(folder, error) if isinstance(error, OSError) else None
            if not launched and not own_rank():
                release(folder)
            if words is not None:
                raise OSError(words) from error
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise SystemExit(ENDED_BY_CTRL_C) from None
        raise
    finally:
        sys.argv = argv
        if not launched:
            os.environ.pop(RUN_FOLDER_ENV, None)
            let_go()


class FocalCLI(RunCLI):
    """A command of reinforcement learning: ``fit``, ``validate``, ``test`` or ``predict``.

    Rollout table, held-out scores, console report and the watch over the judge are added unless the config brings callbacks of
    these kinds itself.

    Args:
        command: its name.
        args: as on the command line, behind the name.
        description: what the help says of it.
    """

    refused = RunCLI.refused | {
        "gradient_clip_val": (None, "write `model.update.gradient_clip_val` (global norm)"),
        "gradient_clip_algorithm": (None, "`model.update.gradient_clip_val` is a global norm"),
        "accumulate_grad_batches": (1, "write `model.update.micro_batch_size` (sequences in one forward and backward)"),
    }

    def __init__(self, command: str, args: Sequence[str] = (), description: str = "") -> None:
        super().__init__(command, args, description or RUNS[command], GRPOModule)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--reward`` before the others."""
        names = lightning_focal.rewards.__all__
        parser.strategies = [name for name in names if _is_strategy(getattr(lightning_focal.rewards, name))]
        parser.add_subclass_arguments(RewardStrategy, "reward", required=False)
        super().add_core_arguments_to_parser(parser)

    def more_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Return the run's record, the default callbacks that are not given, and the strategy."""
        reward = [] if self.config_init.reward is None else [self.config_init.reward]
        kinds = (HeldOut, RolloutTable, ConsoleReport, JudgeWatch)
        missing = [kind() for kind in kinds if not any(isinstance(callback, kind) for callback in [*reward, *given])]
        for callback in [*given, *missing]:
            if isinstance(callback, ConsoleReport) and self.config.quiet:
                callback.quiet = True
        return [RunRecord(), *missing, *reward]


def _is_strategy(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, RewardStrategy) and value is not RewardStrategy


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: as on the command line, without the program's name; None = ``sys.argv``.
    """
    command, *rest = (sys.argv[1:] if args is None else args) or [""]
    with plain_errors():
        if command in COMMANDS:
            module, function = COMMANDS[command]
            getattr(importlib.import_module(module), function)(rest)
        elif command in RUNS:
            launch(FocalCLI, command, rest)
        else:
            hint = near(command, [*RUNS, *COMMANDS])
            sys.stderr.write(f"error: there is no command {command!r}{hint}\ntip: lightning_focal --help lists them\n")
            raise SystemExit(2)


if __name__ == "__main__":
    main()
