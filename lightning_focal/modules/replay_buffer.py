"""A small replay of good rollouts: one for a group whose own are all alike and worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_focal.functional import weighted_reward
from lightning_focal.modules.processes import Processes
from lightning_focal.types import CriterionScores, Rollouts

__all__ = ["Judged", "ReplayBuffer"]


class Judged(NamedTuple):
    """Rollouts and their scores."""

    rollouts: Rollouts
    scores: CriterionScores

    def rewards(self, base: Tensor) -> Tensor:
        """``[P, G]`` reward under base weights ``[P, C]``, NaN = judged on nothing that weighs."""
        scores = self.scores
        return weighted_reward(scores.scores, base, scores.mask).masked_fill(~scores.judged(base), torch.nan)


class ReplayBuffer:
    """The best rollout of each prompt whose group had good ones and bad ones, with the log-probabilities it was sampled at.

    Where all rollouts of a group are alike and worse than the one that is kept for the prompt, that one takes the place of the last
    (as in ARPO, arXiv:2505.16282): the group has a contrast again. Every process holds the same entries.

    Args:
        size: prompts that one is kept for; the one kept longest ago goes first. 0 = none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: dict[str, dict[str, Any]] = {}  # by prompt id, plain data on the host

    def better(self, judged: Judged, base: Tensor, varied: Tensor) -> dict[int, dict[str, Any]]:
        """Return what is kept for each row of ``judged`` that has use for it, by row.

        Args:
            judged: ``P`` groups.
            base: ``[P, C]`` base weights.
            varied: ``[P]`` bool, True = the group has a contrast of its own.
        """
        if not self.entries:
            return {}
        found, ids, names = {}, judged.rollouts.prompts.ids, judged.scores.names
        best = judged.rewards(base).nan_to_num(-torch.inf).amax(1).tolist()
        for row, contrast in enumerate(varied.tolist()):
            entry = self.entries.get(ids[row])
            same_rubric = entry is not None and entry["names"] == list(names[row])
            if entry is not None and same_rubric and not contrast and -torch.inf < best[row] < entry["reward"] - 1e-6:
                found[row] = entry
        return found

    def learn(self, judged: Judged, base: Tensor, varied: Tensor, processes: Processes) -> None:
        """Keep the best rollout of each group with a contrast, unless a better one is kept; a collective."""
        if not self.size:
            return
        rollouts, scores = judged.rollouts.to("cpu"), judged.scores.to("cpu")
        if rollouts.logp is None:
            raise ValueError(
                "`model.dynamic_sampling.replay_buffer_size` needs the sampler's log-probabilities, and the generator reports none for "
                "this sampling"
            )
        best = judged.rewards(base).nan_to_num(-torch.inf).max(1)
        mine = []
        for row in varied.nonzero().flatten().tolist():
            g, tokens = int(best.indices[row]), int(rollouts.lengths[row, best.indices[row]])
            criteria = len(scores.names[row])
            entry: dict[str, Any] = {
                "reward": float(best.values[row]),
                "version": rollouts.version,
                "names": list(scores.names[row]),
                "text": rollouts.texts[row][g],
                "truncated": bool(rollouts.truncated[row, g]),
                "thought_tokens": None if rollouts.thought_tokens is None else int(rollouts.thought_tokens[row, g]),
                "response_ids": rollouts.response_ids[row, g, :tokens].clone(),
                "logp": rollouts.logp[row, g, :tokens].clone(),
                "scores": scores.scores[row, g, :criteria].clone(),
                "mask": scores.mask[row, g, :criteria].clone(),
            }
            words = {"outcomes": scores.outcomes, "reasons": scores.reasons}
            mine.append(
                (rollouts.prompts.ids[row], entry | {k: None if v is None else list(v[row][g]) for k, v in words.items()})
            )
        for name, entry in sorted(processes.gather(mine), key=lambda pair: pair[0]):
            if name not in self.entries or entry["reward"] >= self.entries[name]["reward"]:
                self.entries.pop(name, None)
                self.entries[name] = entry
        self.entries = dict(list(self.entries.items())[-self.size :])


def mix(judged: Judged, found: Mapping[int, Mapping[str, Any]]) -> Judged:
    """Put a kept rollout in the place of the last of its group.

    Args:
        judged: ``P`` groups, with log-probabilities.
        found: what :meth:`ReplayBuffer.better` returned.

    Returns:
        A copy whose ``versions`` say which policy wrote which response.
    """
    rollouts, scores = judged
    more = max([0, *(len(entry["response_ids"]) - rollouts.response_ids.shape[2] for entry in found.values())])
    versions = torch.full_like(rollouts.lengths, rollouts.version)
    by_rollout: dict[str, Any] = {"truncated": rollouts.truncated, "thought_tokens": rollouts.thought_tokens, "version": versions}
    by_token: dict[str, Any] = {name: getattr(rollouts, name) for name in ("response_ids", "response_mask", "logp")}
    by_criterion: dict[str, Any] = {name: getattr(scores, name) for name in ("scores", "mask", "failed", "repeated")}
    by_token = {name: pad(value, (0, more)) for name, value in by_token.items()}
    tensors = {n: v.clone() for n, v in (by_rollout | by_token | by_criterion).items() if v is not None}
    words: dict[str, Any] = {"text": rollouts.texts, "outcomes": scores.outcomes, "reasons": scores.reasons}
    words = {name: list(value) for name, value in words.items() if value is not None}
    for row, entry in found.items():
        tokens, criteria = len(entry["response_ids"]), len(entry["names"])
        new = {**entry, "response_mask": torch.ones(tokens, dtype=torch.bool), "failed": torch.zeros(criteria, dtype=torch.bool)}
        new["repeated"] = torch.full((criteria,), torch.nan)
        for name, tensor in tensors.items():
            if name in by_rollout:
                tensor[row, -1] = new[name]
            else:
                tensor[row, -1] = torch.nan if name == "repeated" else 0
                tensor[row, -1, : len(new[name])] = new[name].to(tensor)
        for name, of_groups in words.items():
            of_groups[row] = (*of_groups[row][:-1], new[name] if name == "text" else tuple(new[name]))
    changed = {"texts": tuple(words.pop("text")), "versions": tensors.pop("version")}
    changed |= {name: tensors[name] for name in (*by_rollout, *by_token) if name in tensors}
    judgements = {name: tensors[name] for name in by_criterion if name in tensors}
    judgements |= {name: tuple(value) for name, value in words.items()}
    return Judged(replace(rollouts, **changed), replace(scores, **judgements))
