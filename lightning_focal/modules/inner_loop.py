"""The inner loop: epochs x mini-batches of (loss, backward, clip, step) over one batch of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.models import adding_backward
from lightning_focal.modules.clipping import clip_global_norm
from lightning_focal.modules.reference import Reference
from lightning_focal.modules.update import Sequences, Update, UpdateSums, accumulate_gradients, sequence_logp, step_normaliser

__all__ = ["InnerLoop", "Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """What the loop needs of its run.

    Args:
        optimizer: steps the policy; ``step`` and ``zero_grad`` are called.
        backward: called with each micro-batch's loss.
        all_reduce_sum: over processes.
        all_reduce_mean: over processes.
        seed: of the permutation of an epoch, from that epoch's number.
        largest: the largest of a tensor over processes, element by element.
        most: the largest of a number over processes.
        hold: within it gradients are not exchanged between processes.
        places: place of each row among the rows of all processes, and the number of those; None = there is one process.
    """

    optimizer: Any
    backward: Callable[[Tensor], None]
    all_reduce_sum: Callable[[Tensor], Tensor]
    all_reduce_mean: Callable[[Tensor], Tensor]
    seed: Callable[[int], int]
    largest: Callable[[Tensor], Tensor] = lambda value: value
    most: Callable[[int], int] = lambda number: number
    hold: Callable[[], AbstractContextManager[None]] = nullcontext
    places: Callable[[], tuple[Sequence[int], int]] | None = None


class InnerLoop:
    """Turns a batch of rollouts into optimiser steps, and counts them.

    Args:
        update: clips, aggregation, KL, numbers of steps.
        reference: what the KL term compares with.

    Attributes:
        version: optimiser steps taken so far.
        bad_steps: steps skipped because loss or gradient was not finite.
        bad_steps_in_a_row: the last of them, without a good one in between.
    """

    def __init__(self, update: Update, reference: Reference) -> None:
        self.update, self.reference = update, reference
        self.version = self.bad_steps = self.bad_steps_in_a_row = 0

    def run(self, model: nn.Module, sequences: Sequences, temperature: float, around: Surroundings) -> dict[str, Tensor]:
        """Run over a batch and return what to watch, as scalar tensors by the name they are logged under.

        Args:
            model: the policy; left in training mode.
            sequences: the batch; log-probabilities of the sampling policy and of the reference are filled in here.
            temperature: the rollouts were sampled at.
            around: the run.

        Raises:
            ValueError: if the sampler's log-probabilities are wanted and not there.
            FloatingPointError: when too many steps in a row were not finite.
        """
        update = self.update
        if update.importance_cap is not None and sequences.sampling_logp is None:
            raise ValueError(
                "`model.update.importance_cap` needs the sampler's log-probabilities, and the generator reports none for this sampling"
            )
        micro = (update.micro_batch_size, update.micro_batch_tokens, around.most, update.fused_logp)
        if update.steps > 1:
            old = sequence_logp(model, sequences, temperature, *micro)
            sequences = replace(sequences, old_logp=old)
        if update.kl_coef > 0:
            with self.reference.model(model) as reference:
                ref = sequence_logp(reference, sequences, temperature, *micro)
            sequences = replace(sequences, ref_logp=ref)
        model.train()
        sums, losses, norms = UpdateSums(), [], []
        places = None if around.places is None or update.mini_batches == 1 else around.places()
        for epoch in range(update.epochs):
            for rows in self._mini_batches(len(sequences), around.seed(epoch), places):
                mini = sequences.rows(rows)
                normaliser = step_normaliser(mini, update, around.all_reduce_mean)
                if float(normaliser.sum()) == 0:  # nothing valid on any process: no step
                    continue
                torch.clear_autocast_cache()  # weights cast before the last step, or without gradient, are stale
                backward = adding_backward(model, around.backward)
                step = accumulate_gradients(
                    model, mini, update, temperature, normaliser, backward, sums, around.hold, around.most
                )
                norm = clip_global_norm(model, update.gradient_clip_val or float("inf"))
                if self._accept(step["total"], norm, around):
                    around.optimizer.step()
                    self.version += 1
                    losses.append(step)
                    norms.append(norm.detach())
                around.optimizer.zero_grad()
        torch.clear_autocast_cache()
        device = sequences.advantages.device
        nothing = torch.full((), torch.nan, device=device)
        names = ["ratio_mean", "clip_fraction", "old_kl", *(["kl"] if update.kl_coef > 0 else [])]
        names += [] if update.fused_logp else ["entropy"]
        if sequences.sampling_logp is not None:
            names += ["sampling_gap", "sampling_kl", *(["importance_weight"] if update.importance_cap is not None else [])]
        means = sums.means(names, device, around.all_reduce_sum)
        watched = {f"train/policy/{name}": value for name, value in means.items()}
        if sequences.sampling_logp is not None:
            gap = sums.largest.get("sampling_gap_max", torch.zeros(()))
            watched["train/policy/sampling_gap_max"] = around.largest(gap.to(device))
        for name in ("policy", "total"):
            watched[f"train/loss/{name}"] = torch.stack([step[name] for step in losses]).mean() if losses else nothing
        watched["train/policy/grad_norm"] = torch.stack(norms).mean() if norms else nothing
        return dict(sorted(watched.items()))

    def _accept(self, loss: Tensor, norm: Tensor, around: Surroundings) -> bool:
        """Say whether a step may be taken; count it and stop the run where too many in a row may not."""
        if bool(torch.isfinite(around.all_reduce_sum(loss.detach().double())) & torch.isfinite(norm)):
            self.bad_steps_in_a_row = 0
            return True
        self.bad_steps += 1
        self.bad_steps_in_a_row += 1
        if self.bad_steps_in_a_row >= self.update.max_bad_steps:
            raise FloatingPointError(
                f"loss or gradient was not finite in {self.bad_steps_in_a_row} optimiser steps in a row "
                f"(`model.update.max_bad_steps`), last loss {float(loss)}, gradient norm {float(norm)}; the weights are as after "
                f"update {self.version}: lower the learning rate, or raise precision"
            )
        return False

    def _mini_batches(self, size: int, seed: int, places: tuple[Sequence[int], int] | None = None) -> Sequence[Tensor]:
        """Rows of each optimiser step; permuted by a seed of their own where there is more than one.

        The permutation is one of the rows of all processes: each takes its own out of it, so that a step is made of the same
        rollouts however many processes there are.
        """
        count = self.update.mini_batches
        if count == 1:
            return [torch.arange(size)]
        mine, total = (range(size), size) if places is None else places
        if total < count:
            raise ValueError(f"`model.update.mini_batches` is {count}, but a batch has only {total} rollouts")
        rows = torch.full((total,), -1)
        rows[torch.tensor(mine, dtype=torch.int64)] = torch.arange(size)
        parts = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tensor_split(count)
        return [chosen[chosen >= 0] for chosen in (rows[part] for part in parts)]

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"version": self.version, "bad_steps": self.bad_steps, "bad_steps_in_a_row": self.bad_steps_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the counts back; what a checkpoint does not hold starts at 0."""
        for name in self.state_dict():
            setattr(self, name, int(state.get(name, 0)))
