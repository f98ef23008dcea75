"""A policy as a model of lm-evaluation-harness: a live one, and one by its checkpoint, ``--model lightning_focal``."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from lightning_focal.evaluation.package import expect_lm_eval, hushed

__all__ = ["NAME", "policy_lm", "register"]

NAME = "lightning_focal"
"""What the model class is called in the harness."""


def register() -> None:
    """Make ``lightning_focal`` known to the harness as a model; ``ckpt``, ``config``, ``part`` and ``dtype`` are its arguments."""
    expect_lm_eval()
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{__name__}:CheckpointLM")


def policy_lm(
    model: Any,
    tokenizer: Any,
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    place: tuple[int, int] = (0, 1),
    quiet: bool = True,
) -> Any:
    """Wrap a policy for the harness; neither it nor the tokenizer is changed, but for eval mode.

    Args:
        model: a whole transformers model, on its device, without adapters.
        tokenizer: of the model.
        batch_size: questions at once.
        max_length: context in tokens; the model's own by default.
        place: this process and the number of those that share the questions, each with a model of its own.
        quiet: no progress bars.
    """
    expect_lm_eval()
    with hushed():  # of a model that is there already it warns, three lines a time
        return _policy_class()(model, tokenizer, batch_size=batch_size, max_length=max_length, place=place, quiet=quiet)


@cache
def _policy_class() -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    class PolicyLM(HFLM):  # type: ignore[misc]
        """A transformers model that is there already."""

        def __init__(
            self,
            model: Any,
            tokenizer: Any,
            batch_size: int | str = 16,
            max_length: int | None = None,
            place: tuple[int, int] = (0, 1),
            quiet: bool = False,
        ) -> None:
            super().__init__(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),
                backend="causal",
                batch_size=batch_size,
                max_length=None if max_length is None else int(max_length),
            )
            self._rank, self._world_size = place
            self._quiet = quiet

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm or self._quiet)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm or self._quiet)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().generate_until(requests, disable_tqdm=disable_tqdm or self._quiet)

        def all_gather(self, tensor: Any) -> Any:
            # The harness counts questions to pad the shorter shares, for forward passes that every process must join. Here each
            # process has a whole model and joins none.
            return tensor.reshape(-1).expand(self._world_size)

        def barrier(self) -> None:
            if self._world_size > 1:
                torch.distributed.barrier()

    return PolicyLM


@cache
def _checkpoint_class() -> Any:
    import torch

    from lightning_focal.evaluation.sources import load_evaluated

    class CheckpointLM(_policy_class()):  # type: ignore[misc]
        """A Trainer's checkpoint, or any source of a policy."""

        def __init__(
            self,
            ckpt: str,
            config: str | None = None,
            part: str = "policy",
            dtype: str | None = None,
            batch_size: int | str = 1,
            max_batch_size: int | None = None,
            max_length: int | None = None,
            device: str | None = None,
        ) -> None:
            model, tokenizer = load_evaluated(ckpt, config=config, part=part, dtype=dtype)
            place = device or ("cuda" if torch.cuda.is_available() else "cpu")
            super().__init__(model.to(place), tokenizer, batch_size=batch_size, max_length=max_length)

    return CheckpointLM


def __getattr__(name: str) -> Any:
    """Build the registered class once the harness asks for it; it derives from a class of a package that may not be there."""
    if name == "CheckpointLM":
        return _checkpoint_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
