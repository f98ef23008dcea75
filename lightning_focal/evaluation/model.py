"""A policy as a model of lm-evaluation-harness: a live one, one by its checkpoint (``--model lightning_focal``), one under vLLM."""

from __future__ import annotations

import copy
import importlib.metadata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_focal.evaluation.harness import expect_lm_eval, hushed
from lightning_focal.generation.assemble import decode_responses
from lightning_focal.models import has_adapters, is_sharded_checkpoint, load_policy
from lightning_focal.models.checkpoints import checkpoint_policy, read_run_config
from lightning_focal.models.weights import RolloutCopy
from lightning_focal.thoughts import opening_at_the_end, split_thought

__all__ = ["NAME", "is_checkpoint", "load_evaluated", "policy_lm", "register", "vllm_lm"]

NAME = "lightning_focal"
"""What the model class is called in the harness."""


def register() -> None:
    """Make ``lightning_focal`` known to the harness as a model; ``ckpt``, ``config``, ``part`` and ``dtype`` are its arguments."""
    expect_lm_eval()
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{__name__}:CheckpointLM")


def is_checkpoint(path: str | Path) -> bool:
    """Say whether a path is a Trainer's checkpoint, whole or in shards, rather than a policy."""
    return Path(path).is_file() or is_sharded_checkpoint(path)


def load_evaluated(
    path: str | Path, *, config: str | None = None, part: str = "policy", dtype: str | None = None
) -> tuple[Any, Any]:
    """Load what is to be evaluated, on the CPU; adapters are merged as an export merges them.

    Args:
        path: a checkpoint, an exported folder, or a source as in ``model.policy``.
        config: configuration of the run, for a checkpoint; that of its run folder by default.
        part: ``policy`` or ``teacher``, for a checkpoint.
        dtype: of the weights; as they are stored by default.

    Raises:
        FileNotFoundError: for a checkpoint without its configuration.
        ValueError: for a checkpoint that does not fit it.
    """
    if not is_checkpoint(path):
        return load_policy(path, dtype=dtype or "auto")
    model, tokenizer = checkpoint_policy(path, read_run_config(path, config)["model"], part=part, dtype=dtype)
    return (RolloutCopy(model, None).model if has_adapters(model) else model), tokenizer


def policy_lm(
    model: Any, tokenizer: Any, *, batch_size: int = 16, max_length: int | None = None, place: tuple[int, int] = (0, 1)
) -> Any:
    """Wrap a policy for the harness; neither it nor the tokenizer is changed, but for eval mode. Of responses it returns the answers.

    Args:
        model: a whole transformers model, on its device, without adapters.
        tokenizer: of the model.
        batch_size: questions at once.
        max_length: context in tokens; the model's own by default.
        place: this process and the number of those that share the questions, each with a model of its own.
    """
    expect_lm_eval()
    with hushed():  # of a model that is there already it warns, three lines a time
        return _policy_class()(model, tokenizer, batch_size=batch_size, max_length=max_length, place=place)


class _Answering:
    """Leaves thoughts, which the prompts may have opened, out of what a model of the harness writes."""

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Return answers."""
        model: Any = super()
        pairs = zip(requests, model.generate_until(requests, disable_tqdm=disable_tqdm), strict=True)
        return [split_thought(opening_at_the_end(request.args[0]) + text).answer for request, text in pairs]


@cache
def _policy_class() -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    class PolicyLM(_Answering, HFLM):  # type: ignore[misc]
        """A transformers model that is there already."""

        def __init__(
            self,
            model: Any,
            tokenizer: Any,
            batch_size: int | str = 16,
            max_length: int | None = None,
            place: tuple[int, int] = (0, 1),
        ) -> None:
            self.place = place
            super().__init__(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),
                backend="causal",
                batch_size=batch_size,
                max_length=None if max_length is None else int(max_length),
            )

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
            if isinstance(tokens, int):
                return super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
            return decode_responses(self.tokenizer, [tokens])[0]

        @property
        def rank(self) -> int:
            return self.place[0]

        @property
        def world_size(self) -> int:
            return self.place[1]

        def all_gather(self, tensor: Any) -> Any:
            # The harness counts questions to pad the shorter shares, for forward passes that every process must join. Here each
            # process has a whole model and joins none.
            return tensor.reshape(-1).expand(self.world_size)

        def barrier(self) -> None:
            if self.world_size > 1:
                torch.distributed.barrier()

    return PolicyLM


@cache
def _checkpoint_class() -> Any:
    import torch

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


def vllm_lm(folder: str | Path, *, dtype: str | None = None, max_length: int | None = None, **arguments: Any) -> Any:
    """Build the harness's vLLM model over an exported folder; ``arguments`` are the engine's. ModuleNotFoundError without vLLM."""
    if find_spec("vllm") is None:
        raise ModuleNotFoundError(
            "`--backend vllm` needs vLLM, in an environment of its own: pip install 'lightning-focal[eval,vllm]'"
        )
    import vllm

    asked = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return str(vllm.__version__) if distribution_name == "vllm" else asked(distribution_name)

    importlib.metadata.version = version  # the harness asks for that of `vllm`; the CPU build is installed under another name
    try:
        from lm_eval.models.vllm_causallms import VLLM

        kind = type("AnsweringVLLM", (_Answering, VLLM), {})
        return kind(pretrained=str(folder), dtype=dtype or "auto", max_length=max_length, batch_size="auto", **arguments)
    finally:
        importlib.metadata.version = asked
