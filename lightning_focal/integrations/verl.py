"""A strategy of this package inside verl: a replay buffer that makes one reward of several criteria, and an advantage estimator.

verl 0.9 hands what a reward function returns besides its score (``extra_fields["reward_extra_info"]``) to no advantage estimator of
others, but lets ``trainer.v1.sampler.custom_sampler`` name the class that draws each batch. That class stands here, the estimator in
:mod:`lightning_focal.integrations.verl_plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lightning_focal.integrations.columns import make_strategy, shape_columns

__all__ = ["Criteria"]

_KEY = "trainer.v1.sampler.sampler_kwargs"


class Criteria:
    """What ``trainer.v1.sampler.sampler_kwargs`` says.

    Args:
        criteria: keys of what the reward function returns besides its score, each a criterion.
        weights: one for each, 1 by default; below 0 for a penalty.
        bounds: by key the lowest and highest score, [0, 1] by default.
        strategy: ``class_path`` (:class:`~lightning_focal.rewards.FocalReward` by default) and its arguments beside it.
        write: ``rewards`` for any of verl's estimators, ``advantages`` for ``algorithm.adv_estimator: lightning_focal``.

    Raises:
        ValueError: naming the key that is wrong.

    >>> Criteria(["right"], strategy={"gamma": 1.0}).reward([{"right": 1.0}, {"right": 0.0}], ["a", "a"])[0]
    tensor([1., 0.])
    """

    def __init__(
        self,
        criteria: Sequence[str] = (),
        weights: Sequence[float] | None = None,
        bounds: Mapping[str, Sequence[float]] | None = None,
        strategy: Mapping[str, Any] | None = None,
        write: str = "rewards",
    ) -> None:
        if not criteria:
            raise ValueError(f"`{_KEY}.criteria` must list keys that the reward function returns, got none")
        if weights is not None and len(weights) != len(criteria):
            raise ValueError(f"`{_KEY}.weights` must hold one weight per criterion ({len(criteria)}), got {len(weights)}")
        if write not in ("rewards", "advantages"):
            raise ValueError(f"`{_KEY}.write` must be 'rewards' or 'advantages', got {write!r}")
        self.weights = dict(zip(criteria, weights or [1.0] * len(criteria), strict=True))
        self.bounds = {name: (float(low), float(high)) for name, (low, high) in (bounds or {}).items()}
        self.strategy = make_strategy(**(strategy or {}))
        self.write = write

    def reward(self, infos: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
        """Return what is to be written for each rollout ``[N]``, and measures of each criterion; ``infos`` are verl's extra infos.

        Raises:
            ValueError: for a criterion that no rollout has.
        """
        held = sorted({key for info in infos for key in info})
        if missing := [name for name in self.weights if name not in held]:
            raise ValueError(f"`{_KEY}.criteria`: no reward function returned {missing[0]!r}; there are {held}")
        shaped = shape_columns(self.strategy, infos, groups, self.weights, self.bounds)
        measures = {"focal/judged": float(shaped.valid.float().mean())}
        for k, name in enumerate(self.weights):
            known = torch.tensor([float(info[name]) for info in infos if info.get(name) is not None]).nanmean()
            parts = {"score": known, "weight": shaped.weights[:, k].mean(), "saturation": shaped.saturation[:, k].mean()}
            measures |= {f"focal/{name}/{part}": float(value) for part, value in parts.items()}
        return (shaped.rewards if self.write == "rewards" else shaped.advantages), measures


class _Focal:
    """Rewrites the ``rm_scores`` of every training batch; what verl draws, evicts and keeps is verl's."""

    sampler_kwargs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.criteria = Criteria(**{str(key): value for key, value in (self.sampler_kwargs or {}).items()})

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Draw a batch as verl does; of a training batch rewrite the scores in the TransferQueue and add ``focal/...`` to the metrics."""
        import transfer_queue as tq
        from tensordict import TensorDict

        batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        if partition_id != "train":
            return batch, metrics
        data = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["rm_scores", "extra_fields"])
        fields = [getattr(field, "data", field) or {} for field in data["extra_fields"]]
        sessions = [
            key.rsplit("_", 1)[0] for key in batch.keys
        ]  # `{uid}_{session}_{output}`; a session's outputs share one reward
        rows = {session: row for row, session in enumerate(sessions)}
        infos = [fields[row].get("reward_extra_info") or {} for row in rows.values()]
        values, measures = self.criteria.reward(infos, [session.rsplit("_", 1)[0] for session in rows])
        given = dict(zip(rows, values, strict=True))
        scores = [torch.zeros_like(row) for row in data["rm_scores"].unbind()]
        for session, row in zip(sessions, scores, strict=True):
            row[-1] = given[session]
        written = torch.nested.as_nested_tensor(scores, layout=torch.jagged)
        tq.kv_batch_put(
            keys=batch.keys, partition_id=partition_id, fields=TensorDict({"rm_scores": written}, batch_size=len(scores))
        )
        return batch, metrics | measures


def __getattr__(name: str) -> Any:
    """``FocalReplayBuffer`` for ``trainer.v1.trainer_mode: sync``, ``FocalReplayBufferAsync`` for the others: made where verl is installed."""
    if name not in ("FocalReplayBuffer", "FocalReplayBufferAsync"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _buffer(name)


@cache
def _buffer(name: str) -> type:
    from verl.trainer.ppo.v1 import replay_buffer

    return type(name, (_Focal, getattr(replay_buffer, name.removeprefix("Focal"))), {"__module__": __name__})
