"""What recorded rollouts would have been worth under another reward strategy: no model, no judge."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_focal.functional import compare_ranks, length_correlation, length_weight, pair_signs, projection_tilt
from lightning_focal.rewards import RewardStrategy
from lightning_focal.rewards.strategy import draw_seeds
from lightning_focal.types import CriterionScores

__all__ = ["RecordedBatch", "read_rollouts", "replay"]

_NEEDED = {"batch", "prompt_id", "rollout", "response", "tokens", "criteria"}


@dataclass(frozen=True)
class RecordedBatch:
    """One rollout batch read back.

    Args:
        batch: its number.
        prompt_ids: ``[P]``.
        responses: ``[P][G]``.
        scores: the judgements as they were recorded; masks and reasons included.
        lengths: ``[P, G]`` tokens of each response.
    """

    batch: int
    prompt_ids: tuple[str, ...]
    responses: tuple[tuple[str, ...], ...]
    scores: CriterionScores
    lengths: Tensor


def read_rollouts(folder: str | Path, stage: str = "train") -> Iterator[RecordedBatch]:
    """Yield the batches that :class:`~lightning_focal.callbacks.RolloutTable` wrote, in order.

    Args:
        folder: ``<run folder>/rollouts``.
        stage: ``train``, ``val``, ``test`` or ``predict``.

    Raises:
        FileNotFoundError: when the folder holds no rollouts of the stage.
        ValueError: when a file lacks a column, or a group is not whole.
    """
    import pyarrow.parquet as pq

    files = sorted(Path(folder).glob(f"{stage}-*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"`rollouts`: no {stage}-*.parquet in {Path(folder).absolute()}; expected the `rollouts` of a run folder"
        )
    for _, of_batch in itertools.groupby(files, key=lambda file: file.name.rsplit("-r", 1)[0]):
        rows: list[dict[str, Any]] = []
        for file in of_batch:
            table = pq.read_table(file)
            if missing := sorted(_NEEDED - set(table.column_names)):
                raise ValueError(f"{file}: no column {missing[0]!r}; expected a file written by RolloutTable")
            rows += table.to_pylist()
        yield _batch(rows)


def _batch(rows: Sequence[Mapping[str, Any]]) -> RecordedBatch:
    groups: dict[str, list[Mapping[str, Any]]] = {row["prompt_id"]: [] for row in rows}
    for row in sorted(rows, key=lambda row: row["rollout"]):
        groups[row["prompt_id"]].append(row)
    size, criteria = max(map(len, groups.values())), [group[0]["criteria"] for group in groups.values()]
    for prompt_id, group in groups.items():
        if len(group) != size:
            raise ValueError(f"batch {rows[0]['batch']}: the group of {prompt_id!r} has {len(group)} rollouts, others {size}")
    shape = (len(groups), size, max(map(len, criteria)))
    scores, mask, failed = (torch.zeros(shape, dtype=dtype) for dtype in (torch.float64, torch.bool, torch.bool))
    weights = torch.zeros(shape[0], shape[2], dtype=torch.float64)
    for p, group in enumerate(groups.values()):
        for g, row in enumerate(group):
            for c, criterion in enumerate(row["criteria"]):
                weights[p, c] = criterion["prior_weight"]
                failed[p, g, c] = criterion["outcome"] == "error"
                if criterion["score"] is not None:
                    scores[p, g, c], mask[p, g, c] = criterion["score"], True
    names = tuple(tuple(c["name"] for c in of_prompt) for of_prompt in criteria)
    tags = tuple(tuple(tuple(c["tags"]) for c in of_prompt) for of_prompt in criteria)
    responses = tuple(tuple(row["response"] for row in group) for group in groups.values())
    number, ids = int(rows[0]["batch"]), tuple(groups)
    seeds = draw_seeds(number, ids)
    judged = CriterionScores(scores, mask, weights, names=names, tags=tags, failed=failed, seeds=seeds)
    lengths = torch.tensor([[row["tokens"] for row in group] for group in groups.values()])
    return RecordedBatch(number, ids, responses, judged, lengths)


def replay(strategy: RewardStrategy, batches: Sequence[RecordedBatch]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a fresh strategy over recorded batches in their order.

    Args:
        strategy: observes and shapes each batch as it would in training; its source is not asked.
        batches: from :func:`read_rollouts`.

    Returns:
        ``(summary, rows)``: sums of :func:`~lightning_focal.functional.compare_ranks` turned into shares; mean weight and saturation by the
        key that criteria are logged under; ``tilt``, saturation minus mean score; ``length_weight``, weight times the absolute correlation of
        its criterion with length; and one row a rollout: recorded static reward, new reward and advantage, and both ranks within the group
        (0 = best).
    """
    sums = dict.fromkeys(("pairs", "flipped", "split", "kendall_distance", "groups", "new_best"), 0.0)
    tilts, on_length = list[Tensor](), list[Tensor]()
    weight, saturation = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    rows, trajectory = list[dict[str, Any]](), list[dict[str, Any]]()
    for batch in batches:
        strategy.observe(batch.scores)
        shaped = strategy.shape(batch.scores)
        for name, value in compare_ranks(shaped.static, shaped.rewards, shaped.valid).items():
            sums[name] += float(value)
        mask, scores = batch.scores.mask, batch.scores.scores
        tilt, known = projection_tilt(shaped.saturation, scores, mask)
        tilts.append(tilt[known])
        on_length.append(length_weight(shaped.weights, length_correlation(scores, batch.lengths, mask)))
        here = defaultdict[str, list[float]](list)
        for keys, weights, levels in zip(batch.scores.log_keys, shaped.weights.tolist(), shaped.saturation.tolist(), strict=True):
            for key, in_force, level in zip(keys, weights, levels, strict=False):  # behind the last key there is padding
                here[key].append(in_force)
                saturation[key].append(level)
        for key, values in here.items():
            weight[key] += values
        trajectory.append({"batch": batch.batch, **_means(here)})
        columns = {
            "static_reward": shaped.static,
            "reward": shaped.rewards,
            "advantage": shaped.advantages,
            "valid": shaped.valid,
        }
        columns |= {"static_rank": _ranks(shaped.static, shaped.valid), "rank": _ranks(shaped.rewards, shaped.valid)}
        lists = {name: column.tolist() for name, column in columns.items()}
        rows += [
            {"batch": batch.batch, "prompt_id": prompt_id, "rollout": g, "response": text}
            | {name: values[p][g] for name, values in lists.items()}
            for p, prompt_id in enumerate(batch.prompt_ids)
            for g, text in enumerate(batch.responses[p])
        ]
    pairs, groups = max(1.0, sums["pairs"]), max(1.0, sums["groups"])
    summary = {
        "batches": len(batches),
        "rollouts": len(rows),
        "pairs": int(sums["pairs"]),
        "flipped_share": sums["flipped"] / pairs,
        "kendall_distance": sums["kendall_distance"] / pairs,
        "new_best_share": sums["new_best"] / groups,
        "tilt": float(torch.cat(tilts).mean()),
        "length_weight": float(torch.cat(on_length).mean()),
        "weight": _means(weight),
        "saturation": _means(saturation),
        "trajectory": trajectory,
    }
    return summary, rows


def _ranks(rewards: Tensor, valid: Tensor) -> Tensor:
    """``[P, G]`` number of valid rollouts that are strictly better; -1 where not valid."""
    better = ((pair_signs(rewards) < 0) & valid[:, None, :]).sum(-1)
    return torch.where(valid, better, -1)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {key: sum(of_key) / len(of_key) for key, of_key in sorted(values.items())}
