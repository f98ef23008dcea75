"""``lightning_focal replay``: recorded rollouts under another strategy, over a grid."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lightning_focal.files import write_json, write_parquet, write_text
from lightning_focal.parsing import HelpFormatter
from lightning_focal.rewards import RewardStrategy
from lightning_focal.studies.plots import replay_figure
from lightning_focal.studies.replay import read_rollouts, replay
from lightning_focal.studies.tables import markdown_table
from lightning_focal.terminal import make_console

__all__ = ["replay_command"]


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        formatter_class=HelpFormatter,
        prog="lightning_focal replay",
        description="Recompute rewards, weights and ranks of recorded rollouts under another strategy, without a model.",
    )
    made.add_argument("--rollouts", type=str, required=True, help="Folder `rollouts` of a run.")
    made.add_subclass_arguments(RewardStrategy, "reward", as_group=False, required=True, help="The strategy to replay.")
    made.add_argument(
        "--grid",
        type=dict[str, list[Any]],
        default={},
        help="Values to try of the strategy's arguments, e.g. '{gamma: [0, 1, 3]}'.",
    )
    made.add_argument("--stage", type=str, default="train", help="Which rollouts: train, val, test or predict.")
    made.add_argument("--out", type=str, default="replay", help="Folder for table, figure and rows.")
    made.add_argument("--show", type=int, default=3, help="Number of groups to show whose best rollout changed most.")
    return made


def replay_command(args: list[str]) -> None:
    """Run the command; see :func:`parser` for its arguments."""
    made = parser()
    config = made.parse_args(args)
    console = make_console()
    batches = list(read_rollouts(config.rollouts, config.stage))
    out = Path(config.out)
    results = []
    for point in _points(config.grid):
        strategy = _strategy(made, config, point)
        summary, rows = replay(strategy, batches)
        label = ", ".join(f"{name} {value}" for name, value in point.items()) or type(strategy).__name__
        results.append({"label": label, "arguments": point, **summary})
        write_parquet(out / f"rows-{len(results) - 1:02d}.parquet", rows)
    if config.show:
        console.print(f"Groups whose best rollout changed most under {results[-1]['label']}:")
        _show_changes(console, rows, config.show)
    lines = [
        [
            r["label"],
            f"{r['flipped_share']:.3f}",
            f"{r['kendall_distance']:.3f}",
            f"{r['new_best_share']:.3f}",
            _heaviest(r["weight"]),
        ]
        for r in results
    ]
    head = ["strategy", "flipped pairs", "Kendall distance", "new best", "heaviest criteria"]
    table = Table(
        title=f"{results[0]['rollouts']} rollouts in {results[0]['batches']} batches, against static", title_justify="left"
    )
    for name in head:
        table.add_column(name)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    write_text(out / "replay.md", markdown_table(head, lines))
    write_json(
        out / "replay.json",
        {"rollouts": str(config.rollouts), "reward": json.loads(made.dump(config, format="json"))["reward"], "results": results},
    )
    replay_figure(results, out / "replay.png")
    console.print(f"written to {out}: replay.md, replay.json, replay.png, rows-*.parquet")


def _points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise SystemExit(f"error: `grid.{name}` must be a list of values, got {values!r}")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _strategy(made: ArgumentParser, config: Namespace, point: dict[str, Any]) -> RewardStrategy:
    """A fresh strategy for a point of the grid, its arguments checked like any on the command line."""
    reward = json.loads(made.dump(config, format="json"))["reward"]
    reward.setdefault("init_args", {}).update(point)
    parsed = made.parse_object({"rollouts": config.rollouts, "reward": reward})
    strategy = made.instantiate_classes(parsed).reward
    if not isinstance(strategy, RewardStrategy):
        raise TypeError(f"`reward` must be a RewardStrategy, got {type(strategy).__name__}")
    return strategy


def _heaviest(weight: dict[str, float]) -> str:
    top = sorted(weight.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{key} {value:.2f}" for key, value in top)


def _show_changes(console: Console, rows: list[dict[str, Any]], count: int) -> None:
    """Print groups whose best rollout changed: which one, and what is preferred instead."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["batch"], row["prompt_id"]), []).append(row)
    changed = []
    for key, group in groups.items():
        old = min(group, key=lambda row: (row["static_rank"] < 0, row["static_rank"], row["rollout"]))
        new = min(group, key=lambda row: (row["rank"] < 0, row["rank"], row["rollout"]))
        if old["rank"] > 0:
            changed.append((new["reward"] - old["reward"], key, old, new))
    for gain, (batch, prompt_id), old, new in sorted(changed, key=lambda item: -item[0])[:count]:
        console.print(f"batch {batch}, {prompt_id}: rollout {new['rollout']} in place of {old['rollout']} (reward {gain:+.3f})")
        console.print(f"  was best: {_short(old['response'])}", markup=False)
        console.print(f"  is best:  {_short(new['response'])}", markup=False)


def _short(text: str, limit: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
