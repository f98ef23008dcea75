"""Rollouts, criteria and the report's figures in the loggers of a run, as far as these take tables and pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_focal.callbacks import RolloutObserver, ScoredRollouts
from lightning_focal.callbacks.observer import batches_done
from lightning_focal.callbacks.rollout_table import rollout_rows
from lightning_focal.report.contents import all_figures
from lightning_focal.report.figures import matplotlib_figure
from lightning_focal.report.levels import run_levels
from lightning_focal.report.methods import group_runs
from lightning_focal.report.run import read_run
from lightning_focal.report.tables import markdown_table

__all__ = ["LogMedia", "log_figures", "log_table", "takes_media"]

_log = logging.getLogger(__name__)

_SHOWN = ("prompt_id", "rollout", "prompt", "response", "reward", "static_reward", "advantage", "criteria")


class LogMedia(RolloutObserver):
    """Hands tables and figures to the loggers of a run that take them: Weights & Biases, TensorBoard, MLflow.

    These are rollouts of the last batch (``rollouts/train``) and of the last evaluation (``rollouts/val``), score, saturation and
    weight by criterion (``criteria``), and the report's figures (``report/...``), which are drawn with matplotlib. A Trainer with a
    ``run_dir`` and a logger of yours has this callback already.

    Args:
        every_n_batches: how often, and once at the end; figures take a second or two each time.
        rows: rollouts in a table at most.
        characters: of a cell at most; what is longer ends in an ellipsis.
        figures: draw them.
        rollouts: recorded rollouts to read for figures by tag at most, evenly spread over the run; 0 = no tags.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(
        self, every_n_batches: int = 50, rows: int = 32, characters: int = 1000, figures: bool = True, rollouts: int = 1600
    ) -> None:
        for name, value, least in (
            ("every_n_batches", every_n_batches, 1),
            ("rows", rows, 0),
            ("characters", characters, 1),
            ("rollouts", rollouts, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be >= {least}, got {value}")
        self.every_n_batches, self.rows, self.characters = every_n_batches, rows, characters
        self.figures, self.rollouts = figures, rollouts
        self._seen: dict[str, ScoredRollouts] = {}

    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """Keep the last batch of a stage."""
        if trainer.is_global_zero and self.rows:
            self._seen[scored.stage] = scored

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hand over what the batches before this one have left."""
        if trainer.global_step and batches_done(trainer) % self.every_n_batches == 0:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over everything there is."""
        folder = trainer.log_dir  # a collective: asked for on every process
        loggers = list(filter(takes_media, trainer.loggers))
        if not trainer.is_global_zero or folder is None or not loggers:
            return
        batch, tables = batches_done(trainer), {"criteria": _criteria(trainer.callback_metrics)}
        for stage, scored in self._seen.items():
            tables[f"rollouts/{stage}"] = _rollouts(scored, batch, self.rows)
        self._seen = {}
        for logger in loggers:
            for name, (columns, rows) in tables.items():
                if rows:
                    cells = [[_short(cell, self.characters) for cell in row] for row in rows]
                    log_table(logger, name, columns, cells, batch)
        if self.figures and (Path(folder) / "metrics.csv").exists():
            try:
                log_figures(loggers, folder, batch, self.rollouts)
            except ImportError:
                self.figures = False
                _log.warning("figures in loggers need matplotlib: pip install 'lightning-focal[plots]'")


def takes_media(logger: Logger) -> bool:
    """Say whether a logger takes tables and pictures: those of TensorBoard, Weights & Biases and MLflow do."""
    return isinstance(logger, (TensorBoardLogger, WandbLogger, MLFlowLogger))


def log_table(logger: Logger, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
    """Write a table to a logger: Weights & Biases gets a table, TensorBoard a text in Markdown, MLflow such a file, others nothing."""
    if isinstance(logger, WandbLogger):
        logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(name, markdown_table(columns, rows, as_entities), global_step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_text(logger.run_id, markdown_table(columns, rows, as_entities), f"{name}-{step:06d}.md")


def as_entities(cell: str) -> str:
    """Escape a text of strangers for a Markdown table: nothing in it is markup, links included.

    >>> as_entities("*a* | <b>")
    '&#42;a&#42; &#124; &#60;b&#62;'
    """
    plain = re.sub(r"[^\w\s.,;:?'\"/%=@$-]", lambda found: f"&#{ord(found[0])};", cell)
    return plain.replace("://", "&#58;//").replace("_", "&#95;")


def _short(cell: Any, characters: int) -> Any:
    if isinstance(cell, float):
        return round(cell, 4)
    if not isinstance(cell, str):
        return cell
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in cell)
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _rollouts(scored: ScoredRollouts, batch: int, count: int) -> tuple[Sequence[str], list[list[Any]]]:
    rows = []
    for row in rollout_rows(scored, batch)[:count]:
        row["prompt"] = row["messages"][-1]["content"] if row["messages"] else ""
        criteria = ((c["name"], "-" if c["score"] is None else f"{c['score']:.2f}") for c in row["criteria"])
        row["criteria"] = ", ".join(f"{name} {score}" for name, score in criteria)
        rows.append([row[name] for name in _SHOWN])
    return _SHOWN, rows


def _criteria(seen: Mapping[str, Any]) -> tuple[Sequence[str], list[list[Any]]]:
    """Score, saturation and weight of the last training batch, by criterion."""
    names = ("train/criterion/{}/score", "train/saturation/{}", "train/weight/{}")
    keys = [found[1] for name in seen if (found := re.fullmatch(r"train/criterion/(.+)/score", name))]
    rows = [[key, *(float(seen.get(name.format(key), float("nan"))) for name in names)] for key in keys]
    return ("criterion", "score", "saturation", "weight"), rows


def log_figures(loggers: Sequence[Logger], folder: str | Path, batch: int, rollouts: int = 0) -> list[str]:
    """Draw the figures of a run folder into loggers that take pictures; returns the names they have there.

    The first view of each is called after the figure, the others after what their criteria are grouped by, too. At most so many
    recorded rollouts are read.
    """
    run = read_run(folder)
    recorded = run_levels(read_run(folder, rollouts)) if rollouts else {}
    levels = recorded | run_levels(run)  # by criterion those logged in every batch, by tag those of the rollouts that were read
    tags, show = [], [_pictures(logger, batch) for logger in loggers]
    for views in all_figures(group_runs([run]), {run.folder: levels}):
        for at, (choice, figure) in enumerate(views.views.items()):
            if at and "criterion" in views.choices:
                break  # a figure for each criterion is for the page alone
            plain = re.sub(r"[^\w.\- ]", "", choice[-1]) if at else ""  # a tag of TensorBoard holds nothing else
            tags.append("/".join(["report", views.name, *([" ".join(plain.split())] if at else [])]))
            drawn = matplotlib_figure(figure)
            for into in show:
                into(tags[-1], drawn)
    return tags


def _pictures(logger: Logger, batch: int) -> Callable[[str, Any], None]:
    if isinstance(logger, WandbLogger):
        return lambda tag, drawn: logger.log_image(tag, [drawn], step=batch)
    if isinstance(logger, TensorBoardLogger):
        return lambda tag, drawn: logger.experiment.add_figure(tag, drawn, global_step=batch, close=False)
    if isinstance(logger, MLFlowLogger):
        return lambda tag, drawn: logger.experiment.log_figure(logger.run_id, drawn, f"{tag}-{batch:06d}.png")
    return lambda tag, drawn: None
