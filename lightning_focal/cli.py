"""Commands that run the Trainer: ``lightning_focal fit | validate | test | predict`` by LightningCLI."""

from __future__ import annotations

import inspect
import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

import lightning_focal.data
import lightning_focal.evaluation
import lightning_focal.report.callbacks
import lightning_focal.report.media
import lightning_focal.rewards  # noqa: F401 - data, callbacks and strategies are found by their short names
from lightning_focal.arguments import lasting
from lightning_focal.callbacks import ConsoleReport
from lightning_focal.entry import COMMANDS, RUNS, main  # noqa: F401 - names that tests and scripts use
from lightning_focal.modules import GRPOModule
from lightning_focal.parsing import PlainParser
from lightning_focal.rewards import RewardStrategy
from lightning_focal.runs import ENDED_BY_CTRL_C, ConfigRecord, RunCheckpoint, run_scope
from lightning_focal.terminal import plain_message, program, quiet, say_less
from lightning_focal.trainer import TRAINER_DEFAULTS, Trainer, begin_run, check_callbacks

__all__ = ["FocalCLI", "RunCLI", "launch", "run_command"]


class RunParser(PlainParser, LightningArgumentParser):
    """The parser of a command that runs the Trainer; its line of usage does not repeat a hundred options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, usage="%(prog)s [options]", **kwargs)


class RunCLI(LightningCLI):
    """A command that runs the Trainer once, in a run folder that holds everything it writes.

    Loggers that the config brings are added to the folder's own. The checkpoints that a run goes on from are its own: a
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
            "a run logs and saves; `trainer.enable_checkpointing: false` and `trainer.logger: false` (no TensorBoard events) leave that out",
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
            save_config_callback=None,
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
        add(
            "--quiet", type=bool, default=False, nargs="?", const=True, help="Say nothing but warnings, errors and what came out."
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the classes of a run, what a person changes most first, Lightning's own keys last."""
        model: Any = self.model_class
        parser.add_lightning_class_args(model, "model")
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        parser.add_class_arguments(RunCheckpoint, "checkpoint")
        own = {"run_dir"}  # the key of that name
        parser.add_class_arguments(Trainer, "trainer", skip=own, fail_untyped=False, instantiate=False, sub_configs=True)
        parser.add_instantiator(self._make_logger, Logger, subclasses=True)
        parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})

    def _make_logger(self, kind: type[Logger], *args: Any, **kwargs: Any) -> Logger:
        """Make a logger that keeps its files in the run folder, unless it was told where."""
        place = inspect.signature(kind).parameters.get("save_dir")
        if place is not None and kwargs.get("save_dir") in (None, place.default):
            kwargs["save_dir"] = str(self.folder / (kwargs.get("save_dir") or ""))
        return kind(*args, **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments given; Lightning announces the seed next."""
        self.config = parser.parse_args(self.given)
        if self.config.quiet:
            say_less()

    def before_instantiate_classes(self) -> None:
        """Refuse what a run has no use for, then decide on the run folder, on the first process, before anything is written."""
        for key, (default, words) in self.refused.items():
            if self.config.trainer[key] not in (None, default):
                raise ValueError(f"`trainer.{key}` must be left out, got {self.config.trainer[key]}: {words}")
        config = self.config
        named, config.run_dir = config.run_dir is not None, config.run_dir or self.run_dir
        typed = f"{program()} {shlex.join([self.command, *self.given])}"
        self.run = begin_run(config.run_dir, config.ckpt_path, self.command, named=named, typed=typed)
        config.ckpt_path, self.folder = self.run.path, cast(Path, self.run.folder)

    def instantiate_classes(self) -> None:
        """Make everything that the configuration names; what a class says of an argument is said of the person's key."""
        with self._naming_keys():
            super().instantiate_classes()

    @contextmanager
    def _naming_keys(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError) as error:
            message = plain_message(str(error)).strip().removeprefix("- ")
            if (words := _with_key(message, self.config)) == message:
                raise
            raise type(error)(words) from error

    def more_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Return the callbacks of the command, beside those that the config brings."""
        return []

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the Trainer around the run folder."""
        config = self.config_init.trainer
        given = config.callbacks or []
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        check_callbacks(given, self.model.automatic_optimization)
        callbacks = [*given, *self.more_callbacks(given), ConfigRecord(self._settings)]
        if config.enable_checkpointing is not False:
            checkpoint: RunCheckpoint = self.config_init.checkpoint
            checkpoint.resumed_from = self.config.ckpt_path
            callbacks.append(checkpoint)
        return super().instantiate_trainer(callbacks=callbacks, run_dir=self.run, **kwargs)

    def _settings(self) -> str:
        """What config.yaml says: what was given, and files so that they are found from every folder."""
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False, skip_validation=True))
        kept = {"logger": settings["trainer"]["logger"]}  # a logger's folder is told from where the run is started
        settings = lasting(settings)
        settings["trainer"] |= kept
        return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))

    def start(self) -> None:
        """Run the Trainer; a checkpoint is always read as plain data."""
        more = {"predict": {"return_predictions": False}, "validate": {"verbose": False}, "test": {"verbose": False}}
        run = getattr(self.trainer, "fit" if self.trains else self.command)
        known = {"datamodule": self.datamodule, "ckpt_path": self.config.ckpt_path, "weights_only": True}
        with self._naming_keys():
            run(self.model, **known, **more.get(self.command, {}))


def _with_key(message: str, config: Any) -> str:
    """Return a message that begins with an argument's name with the key that it was given by, where that is one.

    >>> from jsonargparse import Namespace
    >>> config = Namespace(**{"reward": Namespace(class_path="FocalReward", init_args=Namespace(gamma=-1.0))})
    >>> _with_key("`gamma` must be >= 0, got -1.0", config)
    '`reward.gamma` must be >= 0, got -1.0'
    """
    named = re.match(r"`(\w+)`(.*)", message, re.DOTALL)
    given = vars(config.as_flat()) if named else {}
    keys = [
        key
        for key, value in given.items()
        if named and (named[2].startswith(f" {value!r} ") or (key.rpartition(".")[2] == named[1] and str(value) in message))
    ]
    return message if named is None or len(keys) != 1 else f"`{keys[0].replace('.init_args', '')}`{named[2]}"


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
    argv = sys.argv
    sys.argv = [argv[0], command, *args]  # what further processes are started with
    try:
        with run_scope():
            make(command, args).start()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise SystemExit(ENDED_BY_CTRL_C) from None
        raise
    finally:
        sys.argv = argv


class FocalCLI(RunCLI):
    """A command of reinforcement learning: ``fit``, ``validate``, ``test`` or ``predict``.

    The Trainer adds rollout table, held-out scores, console report and the watch over the judge, unless the config brings callbacks
    of these kinds itself.

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
        parser.add_subclass_arguments(RewardStrategy, "reward", required=False)
        super().add_core_arguments_to_parser(parser)

    def more_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Return the strategy; the Trainer adds what watches a run."""
        return [] if self.config_init.reward is None else [self.config_init.reward]

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the Trainer; ``--quiet`` is told to who writes on the console."""
        trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.callbacks:
            if isinstance(callback, ConsoleReport) and self.config.quiet:
                callback.quiet = True
        return trainer


def run_command(command: str, args: Sequence[str]) -> None:
    """``lightning_focal fit | validate | test | predict``, with what stands behind it on the command line."""
    launch(FocalCLI, command, args)
