"""What recorded rollouts would have been worth under another reward strategy: no model, no judge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_focal.rewards import RewardStrategy
from lightning_focal.types import CriterionScores

__all__ = ["RecordedBatch", "compare_ranks", "read_rollouts", "replay"]


@dataclass(frozen=True)
class RecordedBatch:
    """One rollout batch read back.

    Args:
        batch: its number.
        prompt_ids: ``[P]``.
        responses: ``[P][G]``.
        scores: the judgements as they were recorded; masks and reasons included.
    """

    batch: int
    prompt_ids: tuple[str, ...]
    responses: tuple[tuple[str, ...], ...]
    scores: CriterionScores


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
    for _, group in itertools.groupby(files, key=lambda file: file.name.rsplit("-r", 1)[0]):
        rows: list[dict[str, Any]] = []
        for file in group:
            table = pq.read_table(file)
            missing = {"batch", "prompt_id", "rollout", "response", "criteria"} - set(table.column_names)
            if missing:
                raise ValueError(f"{file}: no column {sorted(missing)[0]!r}; expected a file written by RolloutTable")
            rows += table.to_pylist()
        yield _batch(rows)


def _batch(rows: Sequence[Mapping[str, Any]]) -> RecordedBatch:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    ids, g = tuple(groups), max(len(group) for group in groups.values())
    short = [prompt_id for prompt_id, group in groups.items() if len(group) != g]
    if short:
        raise ValueError(f"batch {rows[0]['batch']}: the group of {short[0]!r} has {len(groups[short[0]])} rollouts, others {g}")
    c = max(len(group[0]["criteria"]) for group in groups.values())
    scores, mask = torch.zeros(len(ids), g, c, dtype=torch.float64), torch.zeros(len(ids), g, c, dtype=torch.bool)
    failed, weights = torch.zeros_like(mask), torch.zeros(len(ids), c, dtype=torch.float64)
    for p, group in enumerate(groups.values()):
        for i, row in enumerate(sorted(group, key=lambda row: row["rollout"])):
            for k, criterion in enumerate(row["criteria"]):
                weights[p, k] = criterion["prior_weight"]
                failed[p, i, k] = criterion["outcome"] == "error"
                if criterion["score"] is not None:
                    scores[p, i, k], mask[p, i, k] = criterion["score"], True
    first = [group[0]["criteria"] for group in groups.values()]
    return RecordedBatch(
        batch=int(rows[0]["batch"]),
        prompt_ids=ids,
        responses=tuple(
            tuple(row["response"] for row in sorted(group, key=lambda row: row["rollout"])) for group in groups.values()
        ),
        scores=CriterionScores(
            scores,
            mask,
            weights,
            names=tuple(tuple(c["name"] for c in criteria) for criteria in first),
            tags=tuple(tuple(tuple(c["tags"]) for c in criteria) for criteria in first),
            failed=failed,
        ),
    )


def compare_ranks(static: Tensor, rewards: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Compare two orders of the rollouts of each group, pair by pair.

    Args:
        static: ``[P, G]`` one reward.
        rewards: ``[P, G]`` the other.
        valid: ``[P, G]`` bool, True = takes part.

    Returns:
        Sums over all groups, as float64 scalars: ``pairs`` (that are valid and not tied under both), ``flipped`` (ordered one way by one and the
        other way by the other), ``split`` (tied under exactly one), ``kendall_distance`` (flipped plus half of split: Fagin's K
        with p = 1/2), ``groups`` with two valid rollouts or more, ``new_best`` (groups whose best rollout changed).

    >>> ranks = compare_ranks(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[2.0, 3.0, 1.0]]), torch.ones(1, 3).bool())
    >>> int(ranks["pairs"]), int(ranks["flipped"]), int(ranks["new_best"])
    (3, 1, 1)
    """
    g = static.shape[1]
    upper = torch.ones(g, g, dtype=torch.bool, device=static.device).triu(1)
    a = _signs(static)
    b = _signs(rewards)
    both = (valid[:, :, None] & valid[:, None, :]) & upper
    flipped = (a * b < 0) & both
    split = ((a == 0) != (b == 0)) & both
    pairs = ((a != 0) | (b != 0)) & both
    low = torch.finfo(static.dtype).min
    best_a = torch.where(valid, static, low).argmax(-1)
    top_b = torch.where(valid, rewards, low)
    lost = top_b.gather(1, best_a[:, None]).squeeze(1) < top_b.amax(-1) - 1e-12
    several = valid.sum(-1) > 1
    return {
        "pairs": pairs.sum().double(),
        "flipped": flipped.sum().double(),
        "split": split.sum().double(),
        "kendall_distance": flipped.sum().double() + split.sum().double() / 2,
        "groups": several.sum().double(),
        "new_best": (lost & several).sum().double(),
    }


def _signs(rewards: Tensor) -> Tensor:
    difference = rewards[:, :, None] - rewards[:, None, :]
    return torch.where(difference.abs() < 1e-9, torch.zeros_like(difference), difference.sign())


def replay(strategy: RewardStrategy, batches: Sequence[RecordedBatch]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a fresh strategy over recorded batches in their order.

    Args:
        strategy: observes and shapes each batch as it would in training; its source is not asked.
        batches: from :func:`read_rollouts`.

    Returns:
        ``(summary, rows)``: sums of :func:`compare_ranks` turned into shares, mean weight and saturation by criterion key, and one
        row a rollout: recorded static reward, new reward and advantage, and both ranks within the group (0 = best).
    """
    sums: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    by_key: dict[str, list[tuple[float, float]]] = {}
    trajectory: list[dict[str, Any]] = []
    for batch in batches:
        strategy.observe(batch.scores)
        shaped = strategy.shape(batch.scores)
        for name, value in compare_ranks(shaped.static, shaped.rewards, shaped.valid).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        here: dict[str, list[tuple[float, float]]] = {}
        weights, saturation = shaped.weights.tolist(), shaped.saturation.tolist()
        for p, keys in enumerate(batch.scores.keys):
            for c, key in enumerate(keys):
                here.setdefault(key, []).append((weights[p][c], saturation[p][c]))
        for key, pairs in here.items():
            by_key.setdefault(key, []).extend(pairs)
        trajectory.append(
            {"batch": batch.batch, **{key: _mean(pair[0] for pair in pairs) for key, pairs in sorted(here.items())}}
        )
        rows += _rows(batch, shaped)
    n_pairs, n_groups = max(1.0, sums.get("pairs", 0.0)), max(1.0, sums.get("groups", 0.0))
    summary = {
        "batches": len(batches),
        "rollouts": len(rows),
        "pairs": int(sums.get("pairs", 0)),
        "flipped_share": sums.get("flipped", 0.0) / n_pairs,
        "kendall_distance": sums.get("kendall_distance", 0.0) / n_pairs,
        "new_best_share": sums.get("new_best", 0.0) / n_groups,
        "weight": {key: _mean(pair[0] for pair in values) for key, values in sorted(by_key.items())},
        "saturation": {key: _mean(pair[1] for pair in values) for key, values in sorted(by_key.items())},
        "trajectory": trajectory,
    }
    return summary, rows


def _rows(batch: RecordedBatch, shaped: Any) -> list[dict[str, Any]]:
    static_rank, rank = _ranks(shaped.static, shaped.valid), _ranks(shaped.rewards, shaped.valid)
    columns = {"static_reward": shaped.static, "reward": shaped.rewards, "advantage": shaped.advantages, "valid": shaped.valid}
    columns |= {"static_rank": static_rank, "rank": rank}
    lists = {name: tensor.tolist() for name, tensor in columns.items()}
    return [
        {"batch": batch.batch, "prompt_id": prompt_id, "rollout": g, "response": text}
        | {name: values[p][g] for name, values in lists.items()}
        for p, prompt_id in enumerate(batch.prompt_ids)
        for g, text in enumerate(batch.responses[p])
    ]


def _ranks(rewards: Tensor, valid: Tensor) -> Tensor:
    """``[P, G]`` number of valid rollouts that are strictly better; -1 where not valid."""
    better = (_signs(rewards) < 0) & valid[:, None, :]
    return torch.where(valid, better.sum(-1), torch.full_like(better.sum(-1), -1))


def _mean(values: Any) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)
