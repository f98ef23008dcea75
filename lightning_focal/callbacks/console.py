"""What a person sees while a run goes on: one line a batch, a table of levels every few, a summary at the end."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.progress import BarColumn, Progress, SpinnerColumn

from lightning_focal.callbacks.held_out import HeldOut, find_held_out
from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts, batches_done
from lightning_focal.precision import describe_device
from lightning_focal.terminal import Cells, make_console, shortened

__all__ = ["ConsoleReport", "first_line", "level_table"]

_PHASES = {"train": "training", "val": "answering held-out prompts", "test": "answering test prompts", "predict": "answering"}
_WRITTEN = {name: name for name in ("config.yaml", "run.json", "metrics.csv", "held_out.json")} | {
    "TensorBoard events": "events.out.tfevents.*",
    "rollouts/*.parquet": "rollouts/*.parquet",
    "checkpoints/": "checkpoints/*.ckpt",
}
"""What a run may leave in its folder, and the files by which it is known."""


class ConsoleReport(RolloutObserver):
    """Live progress in words.

    On a terminal a bar below the lines shows how far the run is, what it does, tokens a second and the time left. Elsewhere, and
    where ``CI`` is set, there are plain lines alone: one a batch, tables without frames, no colours (``NO_COLOR`` takes these away
    on a terminal, too).

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

    # -- training -------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is about to run."""
        self._began, folder = time.monotonic(), trainer.log_dir  # a collective: asked for on every process
        paths = first_line(pl_module)
        if not self._speaks(trainer):
            return
        rows = getattr(getattr(trainer, "datamodule", None), "rows", {})
        counts = ", ".join(f"{len(split_rows)} {split} prompts" for split, split_rows in rows.items())
        strategy = type(getattr(pl_module, "reward_strategy", None)).__name__
        parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        self.console.print(paths)
        self.console.print(
            f"{strategy} on {getattr(pl_module, 'source', '?')} · {parameters / 1e6:.1f} M trained parameters · "
            f"{counts} · groups of {getattr(pl_module, 'group_size', '?')} · {f'run folder {folder}' if folder else 'nothing is kept'}",
            style="bold",
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock after the first evaluation."""
        if self._batches_here == 0:
            self._first_batch_began = time.monotonic()
            self._show_evaluation(trainer)

    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """Keep a live bar on a terminal."""
        if self._speaks(trainer):
            training = scored.stage == "train"
            phase = _PHASES[scored.stage] + ("" if training else f", {scored.batch_idx + 1}")
            self._move_bar(pl_module, description=phase, completed=batches_done(trainer) if training else None)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print the line of a batch, and the table every few."""
        self._batches_here += 1
        if not self._speaks(trainer):
            return
        seen, done = trainer.callback_metrics, batches_done(trainer)
        total = getattr(pl_module, "planned_batches", None) or 0
        per_batch = (time.monotonic() - self._first_batch_began) / self._batches_here
        left = f" · {_clock(per_batch * (total - done))} left" if total > done else ""
        speed = f"{float(seen.get('train/time/tokens_per_s', 0)):.0f} tok/s"
        self.console.print(
            f"batch {done}/{total or '?'} · reward {_value(seen, 'train/reward/mean')} · static "
            f"{_value(seen, 'train/reward/static')} · worst {_value(seen, 'train/balance/worst')} ({_worst(seen, 'train')}) · "
            f"{speed} · {float(seen.get('train/time/step_s', 0)):.1f} s{left}"
        )
        self._move_bar(pl_module, description=_PHASES["train"], completed=done, pace=f"{speed}{left}")
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
                mean, low, high = held_out.difference()
                verdict = "rose" if low > 0 else "fell" if high < 0 else "did not change for certain"
                say(
                    f"The held-out score {verdict}: {held_out.interval(0)[0]:.3f} -> {held_out.interval(-1)[0]:.3f}, "
                    f"paired difference {mean:+.3f} [{low:+.3f}, {high:+.3f}] ({held_out.level:.0%} bootstrap over prompts)",
                    style="bold",
                )
        if getattr(trainer, "fast_dev_run", False):
            say(f"{_clock(time.monotonic() - self._began)} in all, and nothing kept: `trainer.fast_dev_run` tries a run out")
            return
        written = [words for words, pattern in _WRITTEN.items() if any(Path(folder).glob(pattern))]
        say(f"{_clock(time.monotonic() - self._began)} in all. Written to {folder}:")
        say(f"  {', '.join(written) or 'nothing'}")
        savers, kinds = trainer.checkpoint_callbacks, ("last_model_path", "best_model_path")
        paths = [getattr(saver, kind, "") for kind in kinds for saver in savers]
        last = next((path for path in paths if path), "")
        if last:
            say("Next:")
            say(f"  lightning_focal validate --config {folder}/config.yaml --ckpt_path {last}")
            say(f"  lightning_focal predict --config {folder}/config.yaml --ckpt_path {last}")
            if "metrics.csv" in written:
                say(f"  lightning_focal report {folder}")
            if "TensorBoard events" in written:
                say(f"  tensorboard --logdir {folder}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the levels of a validation that was asked for by itself."""
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

    def _move_bar(self, pl_module: LightningModule, **fields: Any) -> None:
        lightnings = getattr(getattr(pl_module, "trainer", None), "progress_bar_callback", None)
        if not self.console.is_terminal or lightnings is not None:  # two would write over each other
            return
        if self._bar is None:
            columns = (SpinnerColumn(), "{task.description}", BarColumn(24), "{task.completed}/{task.fields[planned]}")
            self._bar = Progress(*columns, "{task.fields[pace]}", console=self.console, transient=True)
            planned = getattr(pl_module, "planned_batches", None)
            self._bar.add_task("", total=planned, planned=planned or "?", pace="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], **fields)

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
        self.console.print(
            f"held-out score after {entry['batch']} batches: {mean:.3f} [{low:.3f}, {high:.3f}] "
            f"({len(entry['scores'])} prompts, prior weights) · worst {_value(entry['measures'], 'val/balance/worst')} "
            f"({_worst(entry['measures'], 'val')})"
        )


def first_line(module: LightningModule) -> str:
    """Return what a run computes with, and how it tells thoughts from answers; asked for on every process."""
    describe = getattr(module, "describe", None)
    chat = getattr(module, "describe_chat", str)()
    return " · ".join(filter(None, (describe_device(module.device), describe and describe(), chat)))


def level_table(seen: Any, title: str, stage: str = "train") -> Cells:
    """Return the table of score, saturation and weight by criterion key, from logged values."""
    table = Cells("criterion", title=title, title_justify="left")
    for column in ("score", "saturation", "weight"):
        table.add_column(column, justify="right")
    for key in _keys(seen, stage):
        names = (f"{stage}/criterion/{key}/score", f"{stage}/saturation/{key}", f"{stage}/weight/{key}")
        table.add_row(key, *(_value(seen, name) for name in names))
    return table


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
            cells = (f"{before:.{digits}f}", f"{after:.{digits}f}", f"{after - before:+.{digits}f}")
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
