"""The policy, as the Trainer's strategy wants it: whole on each process, or split over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_focal.callbacks.teacher import TeacherWeights
from lightning_focal.models import (
    Lora,
    Sharding,
    check_tensor_parallel,
    load_sharded,
    load_trainable,
    policy_config,
    wrap_flat,
)

__all__ = ["check_strategy", "leave_prompts_alone", "load_for"]

Holders = Sequence[tuple[Any, str]]


def leave_prompts_alone(trainer: Any) -> None:
    """Spare batches the Trainer's search for numbers to convert to its precision: prompts hold none.

    Its plugins for FSDP and for true half precision refuse frozen dataclasses, which prompts are.
    """
    trainer.precision_plugin.convert_input = lambda batch: batch


def check_strategy(
    trainer: Any, source: str, lora: Lora | None = None, cache_dir: str | None = None, *, offload: bool = False
) -> None:
    """Refuse a policy that the Trainer's strategy cannot split, before any weight is read.

    Args:
        trainer: its strategy is asked.
        source: where the policy comes from.
        lora: adapters of the run, or None.
        cache_dir: where packaged policies are converted to.
        offload: the reference waits in a file, whole.

    Raises:
        ValueError: for a strategy that splits what ``offload`` keeps whole, and see
            :func:`~lightning_focal.models.check_tensor_parallel`.
    """
    strategy = trainer.strategy
    if offload and isinstance(strategy, ModelParallelStrategy | FSDPStrategy):
        raise ValueError(
            "`model.reference.init_args.offload` keeps whole weights in a file, the strategy splits them over processes: leave it out"
        )
    if isinstance(strategy, ModelParallelStrategy) and (size := strategy.device_mesh["tensor_parallel"].size()) > 1:
        check_tensor_parallel(policy_config(source, cache_dir=cache_dir)[0], size, lora)


def load_for(
    module: LightningModule,
    source: str,
    sharding: Sharding,
    copies: Callable[[nn.Module], Holders] = lambda policy: (),
    **arguments: Any,
) -> tuple[Any, Any]:
    """Load a policy for the strategy that a module is trained with; called in ``configure_model``.

    Args:
        module: with a Trainer.
        source: where the policy comes from.
        sharding: how it is split under ``ModelParallelStrategy``; its ``blocks`` are those of ``FSDPStrategy``, too.
        copies: given a policy that is about to be split, returns who holds copies of it, and in which attribute: they are split alike.
        arguments: of :func:`~lightning_focal.models.load_trainable`.

    Returns:
        The model and its tokenizer.

    Raises:
        ValueError: for units of ``FSDPStrategy`` that would part tied weights.
    """
    strategy = module.trainer.strategy
    if isinstance(strategy, ModelParallelStrategy):

        def modules(policy: nn.Module) -> list[nn.Module]:
            return [getattr(holder, name) for holder, name in copies(policy)]

        return load_sharded(source, strategy.device_mesh, sharding, strategy.root_device, copies=modules, **arguments)
    if isinstance(strategy, FSDPStrategy):
        policy, tokenizer = load_trainable(source, **arguments)
        flat = _flat_arguments(strategy)
        for holder, name in copies(policy):
            own = {"cpu_offload": True} if isinstance(holder, TeacherWeights) and holder.offload else {}
            setattr(holder, name, wrap_flat(getattr(holder, name), strategy.root_device, sharding.blocks, **flat | own))
        return wrap_flat(policy, strategy.root_device, sharding.blocks, **flat), tokenizer
    return load_trainable(source, **arguments)


def _flat_arguments(strategy: FSDPStrategy) -> dict[str, Any]:
    """What the strategy would wrap with; the wrapping is done here, so it is told of no policy any more.

    Its mixed precision would also narrow buffers, rotary frequencies among them, and have weights that are stored in bfloat16
    computed in float32: of what it derives from `trainer.precision` only the arithmetic of mixed precision is taken.
    """
    mixed = strategy.mixed_precision
    if mixed is None and "mixed" in str(strategy.precision_plugin.precision):
        mixed = replace(cast(Any, strategy.mixed_precision_config), buffer_dtype=None)
    own = {
        "cpu_offload": strategy.cpu_offload,
        "mixed_precision": mixed,
        "sharding_strategy": strategy.sharding_strategy,
        "auto_wrap_policy": strategy.kwargs.pop("auto_wrap_policy", None),
    }
    return {**own, **strategy.kwargs}
