"""Every private or undocumented name of another package that this one cannot do without: one small function for each.

Each says why it is needed and which versions it was tried with. ``tests/test_foreign.py`` holds a contract test for each, and finds
no such name in any other file.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "attention_name",
    "grpo_advantages",
    "grpo_trainer",
    "load_vllm_weights",
    "name_before_wrapping",
    "published_weights",
    "release_vllm",
    "verifiers_hooks",
    "verifiers_state",
    "weights_version",
]


def attention_name(model: Any) -> str:
    """Return the attention that a transformers model uses: ``sdpa``, ``eager``, the name of a registered one.

    ``config._attn_implementation``: transformers lets it be set by ``set_attn_implementation`` and has no public way to read it.
    Tried with transformers 5.16 to 5.24.
    """
    return str(model.config.get_text_config()._attn_implementation)


def published_weights(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name and shape the weights of some layers as the checkpoint that the model was published as has them.

    ``core_model_loading.revert_weight_conversion``: transformers fuses some weights (experts of a layer) when it loads them;
    ``save_pretrained`` undoes it for a whole model, which is too much to hold at once. Tried with transformers 5.16 to 5.24.
    """
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, weights))


def name_before_wrapping(name: str) -> str:
    """Return the name of a parameter or module as it was before FSDP and activation checkpointing wrapped its owners.

    ``_fsdp_wrapped_module`` and ``_checkpoint_wrapped_module``: PyTorch takes them off in state dicts alone. Tried with torch 2.8 to
    2.13.

    >>> name_before_wrapping("_fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module.weight")
    'model.layers.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in ("_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


def weights_version(model: Any) -> int:
    """Return a number that grows whenever a parameter of a model is changed in place.

    ``Tensor._version``: PyTorch describes the counter in its notes on autograd and has no public way to read it. Tried with torch 2.8
    to 2.13.
    """
    return sum(parameter._version for parameter in model.parameters())


def load_vllm_weights(llm: Any, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
    """Replace the weights of a vLLM engine in this process; return the names of parameters that got no value.

    ``load_weights`` of vLLM's model tells which did; ``reload_weights``, which prepares and ends a reload, only warns of the others. On
    a CPU vLLM multiplies by packed copies of weights, and ``reload_weights`` packs no output layer that is the embedding. Tried with
    vLLM 0.32.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    (model,) = llm.apply_model(lambda model: model)
    loaded, load = set[str](), model.load_weights

    def noted(given: Any) -> set[str]:
        loaded.update(load(given))
        return loaded

    model.load_weights = noted
    try:
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    finally:
        del model.load_weights
    for module in model.modules():
        if current_platform.is_cpu() and isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
    return {name for name, _ in model.named_parameters()} - loaded


def release_vllm(llm: Any) -> None:
    """Free the memory of a vLLM engine in this process and leave process groups alone.

    ``_finalizer`` of its client: vLLM's own end, also of an engine that is collected, ends ``torch.distributed`` for the whole
    process, whoever began it. Tried with vLLM 0.32.
    """
    llm.llm_engine.engine_core._finalizer.detach()
    llm.llm_engine.model_executor.shutdown()


def grpo_trainer() -> type[Any]:
    """Return TRL's ``GRPOTrainer``, which asks its subclass for advantages: ``advantages_of(rewards [N, F]) -> [N]``.

    The rewards are those that the functions gave in all processes, NaN = none; groups are runs of rows. ``_calculate_rewards`` returns
    them, ``_generate_and_score_completions`` makes advantages of them, ``_logs`` keeps those for the table of completions: TRL has no
    public place in between. Without TRL it is a class that raises. Tried with TRL 1.13, 1.14 and 1.16.
    """
    if find_spec("trl") is None:

        class Missing:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                raise ImportError("FocalGRPOTrainer needs TRL: pip install 'lightning-focal[trl]'")

        return Missing
    from trl import GRPOTrainer

    class Open(GRPOTrainer):  # type: ignore[misc]
        def _calculate_rewards(self, *args: Any) -> Any:
            self.rewards_of_batch = super()._calculate_rewards(*args)
            return self.rewards_of_batch

        def _generate_and_score_completions(self, inputs: list[Any]) -> Any:
            output = super()._generate_and_score_completions(inputs)
            advantages = self.advantages_of(self.rewards_of_batch)
            output["advantages"] = advantages.split(len(inputs))[self.accelerator.process_index]
            logged = self._logs["advantages"]
            for _ in range(min(len(logged), len(advantages))):
                logged.pop()
            logged.extend(advantages.tolist())
            return output

    return Open


def grpo_advantages(rewards: Tensor, weights: Tensor, group_size: int, scale: str, aggregation: str) -> Tensor:
    """Return advantages ``[N]`` as TRL's ``GRPOTrainer`` makes them, with weights ``[N, F]`` for each row of rewards ``[N, F]``.

    TRL's formulas stand in the middle of a method and take one weight a function. With the same weights in all rows these are its own,
    bit by bit. A reward that is NaN adds nothing to a sum. ``scale`` and ``aggregation`` are ``scale_rewards`` and
    ``multi_objective_aggregation`` of ``GRPOConfig``. Tried with TRL 1.13, 1.14 and 1.16.

    >>> rewards = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    >>> grpo_advantages(rewards, torch.ones(2, 2), 2, "none", "sum_then_normalize")
    tensor([ 0.5000, -0.5000])
    """

    def centred(values: Tensor, dim: int) -> Tensor:
        return values - values.nanmean(dim, keepdim=True)

    def spread(values: Tensor, dim: int) -> Tensor:
        if values.shape[dim] == 1:
            return torch.zeros_like(values)
        count = (~values.isnan()).sum(dim, keepdim=True)
        correction = torch.where(count > 1, count / (count - 1), torch.nan)
        return ((centred(values, dim) ** 2).nanmean(dim, keepdim=True) * correction).sqrt()

    none, sum_first = rewards.isnan().all(1), aggregation == "sum_then_normalize"
    if not sum_first:
        grouped = rewards.view(-1, group_size, rewards.shape[1])
        rewards = (centred(grouped, 1) / (spread(grouped, 1) + 1e-4)).view_as(rewards)
    sums = (rewards * weights).nansum(1).masked_fill(none, torch.nan)
    groups = sums.view(-1, group_size) if sum_first else sums[None]
    advantages = centred(groups, 1)
    if not sum_first or scale != "none":
        advantages = advantages / ((spread(groups, 1) if scale == "group" or not sum_first else spread(sums, 0)) + 1e-4)
    return advantages.reshape(-1).nan_to_num(nan=0.0)


def verifiers_state(kind: type) -> Any:
    """Make the state that rollouts of a class of verifiers' tasks begin with.

    ``verifiers.v1.state.state_cls``: which ``State`` a task was written for is told by nothing that verifiers exports. Tried with
    verifiers 0.4.
    """
    return import_module("verifiers.v1.state").state_cls(kind)()


def verifiers_hooks(task: Any, mark: str) -> list[Any]:
    """Return the methods of a task of verifiers that a decorator such as ``@vf.intercept`` has marked.

    ``verifiers.v1.utils.decorators.discover_decorated``: ``Task.hooks`` does not know every mark. Tried with verifiers 0.4.
    """
    return list(import_module("verifiers.v1.utils.decorators").discover_decorated(task, mark))
