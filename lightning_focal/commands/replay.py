"""``lightning_focal replay``: recorded rollouts under another strategy, over a grid."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Column

from lightning_focal.files import write_figure, write_json, write_parquet, write_text
from lightning_focal.parsing import CommandParser
from lightning_focal.report.figures import figure_text, new_figure
from lightning_focal.report.tables import markdown_table
from lightning_focal.rewards import RewardStrategy
from lightning_focal.studies.replay import read_rollouts, replay
from lightning_focal.terminal import Cells, make_console, shortened

__all__ = ["parser", "replay_command"]

_SHARES = {"flipped_share": "flipped pairs", "kendall_distance": "Kendall distance", "new_best_share": "new best"}
_LEVELS = {"tilt": "saturation minus mean", "length_weight": "weight on length"}


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal replay",
        description="Recompute rewards, weights and ranks of recorded rollouts under another strategy, without a model.",
    )
    made.add_argument("--rollouts", type=str, required=True, help="Folder `rollouts` of a run.")
    made.add_subclass_arguments(RewardStrategy, "reward", as_group=False, required=True, help="The strategy to replay.")
    grid = "Values to try of the strategy's arguments, e.g. '{gamma: [0, 1, 3]}'."
    made.add_argument("--grid", type=dict[str, list[Any]], default={}, help=grid)
    made.add_argument("--stage", type=str, default="train", help="Which rollouts: train, val, test or predict.")
    made.add_argument("--out", type=str, default="replay", help="Folder for table, figure and rows.")
    made.add_argument("--show", type=int, default=3, help="Number of groups to show whose best rollout changed most.")
    return made


def replay_command(args: list[str]) -> None:
    """Run the command: ``ValueError`` on an argument of the grid without values, or files that are not whole."""
    made = parser()
    config = made.parse_args(args)
    console, out = make_console(), Path(config.out)
    for name, values in config.grid.items():
        if not values:
            raise ValueError(f"`grid.{name}` must be a list of values, got {values!r}")
    batches = list(read_rollouts(config.rollouts, config.stage))
    results: list[dict[str, Any]] = []
    for values in itertools.product(*config.grid.values()):
        point = dict(zip(config.grid, values, strict=True))
        strategy = _strategy(made, config, point)
        summary, rows = replay(strategy, batches)
        label = ", ".join(f"{name} {value}" for name, value in point.items()) or type(strategy).__name__
        write_parquet(out / f"rows-{len(results):02d}.parquet", rows)
        results.append({"label": label, "arguments": point, **summary})
    if config.show:
        console.print(f"Groups whose best rollout changed most under {label}:")
        _show_changes(console, rows, config.show)
    head = ["strategy", *_SHARES.values(), *_LEVELS.values(), "heaviest criteria"]
    lines = [[r["label"], *(f"{r[name]:.3f}" for name in (*_SHARES, *_LEVELS)), _heaviest(r["weight"])] for r in results]
    title = f"{len(rows)} rollouts in {len(batches)} batches, against static"
    table = Cells(*head[:-1], Column(head[-1], overflow="fold"), title=title, title_justify="left")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    write_text(out / "replay.md", markdown_table(head, lines))
    write_json(out / "replay.json", {"rollouts": config.rollouts, "reward": _reward(made, config), "results": results})
    _draw(results, out / "replay.png")
    console.print(f"written to {out}: replay.md, replay.json, replay.png, rows-*.parquet")


def _reward(made: ArgumentParser, config: Namespace) -> dict[str, Any]:
    return dict(json.loads(made.dump(config, format="json"))["reward"])


def _strategy(made: ArgumentParser, config: Namespace, point: Mapping[str, Any]) -> RewardStrategy:
    """A fresh strategy for a point of the grid, its arguments checked like any on the command line."""
    reward = _reward(made, config)
    reward["init_args"] = {**reward.get("init_args", {}), **point}
    strategy: RewardStrategy = made.instantiate_classes(made.parse_object({"rollouts": config.rollouts, "reward": reward})).reward
    return strategy


def _heaviest(weight: Mapping[str, float]) -> str:
    return ", ".join(f"{shortened(key, 40)} {value:.2f}" for key, value in sorted(weight.items(), key=lambda item: -item[1])[:3])


def _show_changes(console: Console, rows: Sequence[Mapping[str, Any]], count: int) -> None:
    """Print groups whose best rollout changed: which one, and what is preferred instead."""
    changed = []
    for (batch, prompt_id), group in itertools.groupby(rows, key=lambda row: (row["batch"], row["prompt_id"])):
        valid = [row for row in group if row["valid"]]
        if valid and (old := min(valid, key=lambda row: row["static_rank"]))["rank"] > 0:
            new = min(valid, key=lambda row: row["rank"])
            changed.append((new["reward"] - old["reward"], f"batch {batch}, {prompt_id}", old, new))
    for gain, group_name, old, new in sorted(changed, key=lambda item: -item[0])[:count]:
        moved = f"rollout {new['rollout']} in place of {old['rollout']} (reward {gain:+.3f})"
        console.print(f"{shortened(group_name, 100)}: {moved}")
        console.print(f"  was best: {shortened(old['response'], 100)}")
        console.print(f"  is best:  {shortened(new['response'], 100)}")


def _draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Shares against the strategy, and the weight of each criterion key over batches for the last strategy."""
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    places, last = range(len(results)), results[-1]
    for share, label in _SHARES.items():
        left.plot(places, [result[share] for result in results], marker="o", label=label)
    left.set_xticks(places, [figure_text(result["label"]) for result in results], rotation=30, ha="right")
    left.set_ylabel("share, against static")
    left.set_ylim(0)
    left.legend()
    for key in last["weight"]:
        known = [entry for entry in last["trajectory"] if key in entry]
        right.plot([entry["batch"] for entry in known], [entry[key] for entry in known], label=figure_text(key))
    right.set_xlabel("rollout batch")
    right.set_ylabel(f"mean weight of a criterion ({figure_text(last['label'])})")
    right.legend(fontsize="small")
    write_figure(path, figure)
