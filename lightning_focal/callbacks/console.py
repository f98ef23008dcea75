"""What a person sees while a run goes on: one line a batch, a table of levels every few, a summary at the end."""

from __future__ import annotations

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.progress import BarColumn, Progress, SpinnerColumn

from lightning_focal.callbacks.held_out import HeldOut, find_held_out
from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts, batches_done
from lightning_focal.precision import describe_device
from lightning_focal.terminal import Cells, follow_stderr, make_console, program, shortened

__all__ = ["ConsoleReport", "first_line", "level_table"]

_PHASES = {"train": "training", "val": "answering held-out prompts", "test": "answering test prompts", "predict": "answering"}
_WRITTEN = {name: name for name in ("config.yaml", "run.json", "metrics.csv", "held_out.json")} | {
    "TensorBoard events": "events.out.tfevents.*",
    "rollouts/*.parquet": "rollouts/*.parquet",
    "checkpoints/": "checkpoints/*.ckpt",
}
"""What a run may leave in its folder, and the files by which it is known."""
_TERMS = (
    "static: score under the rubric's own (prior) weights, in [0, 1]; compare runs by it\n"
    "reward: what the policy learns from, under the weights in force, which {}"
)
_FEW = 10
"""Held-out prompts below which an interval tells too little for a verdict."""


class ConsoleReport(RolloutObserver):
    """Live progress in words.

    On a terminal a bar below the lines shows what the run does and how far that is, tokens a second and the time left; logs are
    printed above it. Elsewhere, and where ``CI`` is set, there are plain lines alone: one a batch, tables without frames, no colours
    (``NO_COLOR`` takes these away on a terminal, too).

    Args:
        table_every_n_batches: print score, saturation and weight of every criterion key so often; 0 = never.
        quiet: print what came out alone; ``--quiet`` sets it.
    """

    def __init__(self, table_every_n_batches: int = 5, quiet: bool = False) -> None:
        if table_every_n_batches < 0:
            raise ValueError(f"`table_every_n_batches` must be >= 0, got {table_every_n_batches}")
        self.table_every_n_batches, self.quiet = table_every_n_batches, quiet
        self.console = make_console(soft_wrap=True)
        self._bar: Progress | None = None
        self._began = self._first_batch_began = time.monotonic()
        self._batches_here = self._evaluations_shown = 0
        self._pace = ""

    # -- training -------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is about to run."""
        self._began, folder = time.monotonic(), trainer.log_dir  # a collective: asked for on every process
        paths = first_line(pl_module)
        if not self._speaks(trainer):
            return
        rows = getattr(getattr(trainer, "datamodule", None), "rows", {})
        counts = ", ".join(f"{len(split_rows)} {split} prompts" for split, split_rows in rows.items())
        strategy = getattr(pl_module, "reward_strategy", None)
        parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        self._say(paths)
        self._say(
            f"{type(strategy).__name__} on {getattr(pl_module, 'source', '?')} · {parameters / 1e6:.1f} M trained parameters · "
            f"{counts} · groups of {getattr(pl_module, 'group_size', '?')} · {f'run folder {folder}' if folder else 'nothing is kept'}",
            style="bold",
        )
        still = type(getattr(strategy, "weighting", None)).__name__ == "StaticWeighting"
        self._say(_TERMS.format("stay as they are" if still else "move"), style="dim")
        if find_held_out(trainer) is not None and rows.get("val"):
            self._move_bar(trainer, "val", 0)
        else:
            self._move_bar(trainer, "train", batches_done(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock after the first evaluation."""
        if self._batches_here == 0:
            self._first_batch_began = time.monotonic()
            self._show_evaluation(trainer)
        if self._speaks(trainer):
            self._move_bar(trainer, "train", batches_done(trainer))

    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """Keep a live bar on a terminal."""
        if self._speaks(trainer):
            done = batches_done(trainer) if scored.stage == "train" else scored.batch_idx + 1
            self._move_bar(trainer, scored.stage, done)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print the line of a batch, and the table every few."""
        self._batches_here += 1
        if not self._speaks(trainer):
            return
        seen, done = trainer.callback_metrics, batches_done(trainer)
        total = getattr(pl_module, "planned_batches", None) or 0
        per_batch = (time.monotonic() - self._first_batch_began) / self._batches_here
        left = f" · {_clock(per_batch * (total - done))} left" if total > done else ""
        self._pace = f"{float(seen.get('train/time/tokens_per_s', 0)):.0f} tok/s"
        self._say(
            f"batch {done}/{total or '?'} · static {_value(seen, 'train/reward/prior')} · reward "
            f"{_value(seen, 'train/reward/mean')} · worst {_value(seen, 'train/balance/worst')} ({_worst(seen, 'train')})"
            f"{'' if self._bar else f' · {self._pace}'} · {float(seen.get('train/time/step_s', 0)):.1f} s{'' if self._bar else left}"
        )
        self._pace += left
        self._move_bar(trainer, "train", done)
        if self.table_every_n_batches and done % self.table_every_n_batches == 0:
            self.console.print(level_table(seen, f"levels in batch {done}"))
        self._show_evaluation(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the live line."""
        self._stop_bar()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the live line: the terminal is needed for the error."""
        self._stop_bar()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what came out, where everything is, and what to type next."""
        folder = str(trainer.log_dir).rstrip("/")  # a collective: asked for on every process
        if not trainer.is_global_zero:
            return
        held_out, say = find_held_out(trainer), self.console.print
        if held_out is not None and held_out.history:
            say(_held_out_table(held_out))
            if len(held_out.history) > 1:
                self._say(_verdict(held_out), style="bold")
        if getattr(trainer, "fast_dev_run", False):
            say(f"{_clock(time.monotonic() - self._began)} in all, and nothing kept: `trainer.fast_dev_run` tries a run out")
            return
        written = [words for words, pattern in _WRITTEN.items() if any(Path(folder).glob(pattern))]
        say(f"{_clock(time.monotonic() - self._began)} in all. Written to {folder}:")
        self._say(f"  {', '.join(written) or 'nothing'}")
        savers, kinds = trainer.checkpoint_callbacks, ("last_model_path", "best_model_path")
        paths = [getattr(saver, kind, "") for kind in kinds for saver in savers]
        last, known = next((path for path in paths if path and Path(path).exists()), ""), f"{folder}/config.yaml"
        following = []
        if last and "config.yaml" in written and held_out is not None and held_out.history:
            following += [[program(), name, "--config", known, "--ckpt_path", last] for name in ("validate", "predict")]
        if "metrics.csv" in written:
            following.append([program(), "report", folder])
        if "TensorBoard events" in written:
            following.append(["tensorboard", "--logdir", folder])
        if following:
            say("Next:")
        for command, *words in following:
            line = f"  {command} {shlex.join(words)}"
            narrow = self.console.is_terminal and len(line) > self.console.width
            say(line.replace(" --", " \\\n      --") if narrow else line)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the score of a validation during a run, and the levels of one that was asked for by itself."""
        self._show_evaluation(trainer)
        self._show_levels(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the levels of a test."""
        self._show_levels(trainer, "test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the answers are."""
        self._stop_bar()
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "rollouts"
        if trainer.is_global_zero:
            self.console.print(f"responses with their criterion scores: {folder}/predict-*.parquet")

    # -- parts ------------------------------------------------------------------------------------------------------------

    def _speaks(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and not self.quiet

    def _say(self, text: str, **kwargs: Any) -> None:
        """Print prose: on a terminal no word is broken at its edge, in a file no line is."""
        self.console.print(text, soft_wrap=not self.console.is_terminal, **kwargs)

    def _move_bar(self, trainer: Trainer, stage: str, done: int) -> None:
        """Show how far training is, or the evaluation that goes on: each counts its own batches."""
        lightnings = getattr(trainer, "progress_bar_callback", None)
        if not self.console.is_terminal or lightnings is not None:  # two would write over each other
            return
        if self._bar is None:
            columns = ("{task.description}", BarColumn(16), "{task.completed}/{task.fields[planned]}", "{task.fields[pace]}")
            terminal = sys.stderr.isatty()  # else it is a file
            self._bar = Progress(SpinnerColumn(), *columns, console=self.console, transient=True, redirect_stderr=terminal)
            self._bar.add_task("", total=None, planned="?", pace="")
            follow_stderr()
        if stage == "train":
            planned = getattr(trainer.lightning_module, "planned_batches", None)
        elif stage == "val" and (held_out := find_held_out(trainer)) is not None:
            planned = held_out.batches(trainer)[1]
        else:
            planned = sum(getattr(trainer, f"num_{stage}_batches", ()))
        (task,), pace = self._bar.tasks, self._pace if stage == "train" else ""
        task.total = planned or None
        self._bar.update(task.id, description=_PHASES[stage], completed=done, planned=planned or "?", pace=pace)
        self._bar.start()  # nothing happens to one that is there

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_levels(self, trainer: Trainer, stage: str) -> None:
        if trainer.state.fn == "fit":
            return
        self._stop_bar()
        folder = trainer.log_dir
        if trainer.is_global_zero:
            seen = trainer.callback_metrics
            if not self.quiet:
                self.console.print(level_table(seen, f"{stage} prompts", stage))
            mean, low, high = (_value(seen, f"{stage}/held_out/{name}") for name in ("mean", "low", "high"))
            between = "" if mean == "-" else f" [{low}, {high}]"
            self.console.print(f"prior-weighted static score {_value(seen, f'{stage}/reward/prior')}{between}; {folder}")

    def _show_evaluation(self, trainer: Trainer) -> None:
        held_out = find_held_out(trainer)
        if held_out is None or len(held_out.history) <= self._evaluations_shown or not self._speaks(trainer):
            return
        self._evaluations_shown = len(held_out.history)
        (mean, low, high), entry = held_out.interval(-1), held_out.history[-1]
        self._say(
            f"held-out score after {entry['batch']} batches: {mean:.3f} [{low:.3f}, {high:.3f}] "
            f"({len(entry['scores'])} prompts, prior weights) · worst {_value(entry['measures'], 'val/balance/worst')} "
            f"({_worst(entry['measures'], 'val')})"
        )


def first_line(module: LightningModule) -> str:
    """Return what a run computes with, when it judges, and how it tells thoughts from answers; asked for on every process."""
    describe = getattr(module, "describe", None)
    chat, judging = (getattr(module, name, str)() for name in ("describe_chat", "describe_judging"))
    return " · ".join(filter(None, (describe_device(module.device), describe and describe(), judging, chat)))


def level_table(seen: Any, title: str, stage: str = "train") -> Cells:
    """Return the table of score, saturation and weight by criterion key, from logged values."""
    table = Cells("criterion", title=title, title_justify="left")
    for column in ("score", "saturation", "weight"):
        table.add_column(column, justify="right")
    for key in _keys(seen, stage):
        names = (f"{stage}/criterion/{key}/score", f"{stage}/saturation/{key}", f"{stage}/weight/{key}")
        table.add_row(key, *(_value(seen, name) for name in names))
    return table


def _verdict(held_out: HeldOut) -> str:
    """What became of the held-out score, in words that an interval and enough prompts bear out."""
    mean, low, high = held_out.difference()
    first, last = (held_out.interval(place)[0] for place in (0, -1))
    level, prompts = (
        f"{100 * held_out.level:g} %",
        len(held_out.history[0]["scores"].keys() & held_out.history[-1]["scores"].keys()),
    )
    change = f"{first:.3f} -> {last:.3f}, paired difference {_signed(mean)} [{_signed(low)}, {_signed(high)}]"
    change = f"{change} ({level} bootstrap over {prompts} prompts)"
    if prompts < _FEW:
        return f"No verdict: {prompts} held-out prompts are too few, {_FEW} are needed. Held-out score {change}"
    if low <= 0 <= high:
        return f"No clear change: the {level} interval includes 0. Held-out score {change}"
    return f"The held-out score {'rose' if low > 0 else 'fell'}: {change}"


def _signed(value: float, digits: int = 3) -> str:
    """A difference with its sign; one that rounds to nothing has a plus.

    >>> _signed(-0.0002), _signed(-0.2, 1)
    ('+0.000', '-0.2')
    """
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _held_out_table(held_out: HeldOut) -> Cells:
    first, last = held_out.history[0]["measures"], held_out.history[-1]["measures"]
    table = Cells("", title="held-out prompts", title_justify="left")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    names = {"prior-weighted score": "val/held_out/mean", "worst criterion": "val/balance/worst"}
    names |= {"mean over criteria": "val/balance/mean", "every criterion met": "val/balance/strict_completion"}
    names |= {key: f"val/criterion/{key}/score" for key in _keys(last, "val")}
    names |= {"response tokens": "val/rollout/length", "cut off by the limit": "val/rollout/truncated"}
    for label, name in names.items():
        if name in first and name in last:
            digits = 1 if "length" in name else 3
            before, after = float(first[name]), float(last[name])
            cells = (f"{before:.{digits}f}", f"{after:.{digits}f}", _signed(after - before, digits))
            table.add_row(label, *("-" if "nan" in cell else cell for cell in cells))
    return table


def _keys(seen: Any, stage: str) -> list[str]:
    prefix, suffix = f"{stage}/criterion/", "/score"
    return [name[len(prefix) : -len(suffix)] for name in seen if name.startswith(prefix) and name.endswith(suffix)]


def _worst(seen: Any, stage: str) -> str:
    levels = {key: float(seen[f"{stage}/criterion/{key}/score"]) for key in _keys(seen, stage)}
    return shortened(min((key for key in levels if not math.isnan(levels[key])), key=lambda key: levels[key], default="-"))


def _value(seen: Any, name: str) -> str:
    value = float(seen.get(name, math.nan))
    return "-" if math.isnan(value) else f"{value:.3f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
