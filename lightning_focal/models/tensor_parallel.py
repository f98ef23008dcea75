"""Layers that several processes compute together, each a slice of it (tensor parallelism, arXiv:1909.08053)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lightning_focal.models.lora import Lora
from lightning_focal.models.skeleton import empty_policy
from lightning_focal.models.weights import bare_model

__all__ = ["check_tensor_parallel", "layer_styles", "split_layers"]

_KEY = "trainer.strategy.tensor_parallel_size"
_ROWS, _COLUMNS = ("colwise", "colwise_gather_output"), ("rowwise", "rowwise_split_input")
_NORM = "replicated_with_grad_allreduce"
_FAMILY = "a Llama, Mistral or Qwen has one"


def check_tensor_parallel(config: Any, size: int, lora: Lora | None = None) -> None:
    """Refuse a policy whose layers cannot be computed by ``size`` processes together; reads no weight.

    Args:
        config: of transformers.
        size: processes that compute a layer together; 1 is always fine.
        lora: adapters of the run, or None.

    Raises:
        ValueError: for a model without a plan, or with one that is not understood; for heads and widths that do not divide; for
            adapters with dropout, which every process would draw for itself.

    >>> from lightning_focal.models import policy_config
    >>> check_tensor_parallel(policy_config("random:tiny-llama?heads=4&kv_heads=2")[0], 2)
    >>> check_tensor_parallel(policy_config("random:tiny-llama?heads=4&kv_heads=1")[0], 2)
    Traceback (most recent call last):
    ...
    ValueError: `trainer.strategy.tensor_parallel_size` must divide the policy's num_key_value_heads = 1, got 2
    """
    if size == 1:
        return
    if lora is not None and lora.dropout > 0:
        raise ValueError(
            f"`model.lora.dropout` must be 0 with `{_KEY}` = {size}, got {lora.dropout}: each process would drop others"
        )
    text, styles = config.get_text_config(), dict[str, str]()
    model = empty_policy(config)
    for name, module, style in _matched(model):
        styles[name] = style
        if style == _NORM:
            known = name.endswith((".q_norm", ".k_norm")) and _width(module) == getattr(text, "head_dim", None)
        else:
            known = style in _ROWS + _COLUMNS and isinstance(module, nn.Linear)
        if not known:
            raise ValueError(f"`{_KEY}` must be 1 for {type(model).__name__}, got {size}: its {name} is to be split '{style}'")
    if not styles:
        raise ValueError(f"`{_KEY}` must be 1 for {type(model).__name__}, got {size}: transformers has no plan for it; {_FAMILY}")
    widths: dict[str, int] = {}
    if any(name.endswith("k_proj") and style == "colwise" for name, style in styles.items()):
        heads = int(text.num_attention_heads)
        widths = {"num_attention_heads": heads, "num_key_value_heads": int(getattr(text, "num_key_value_heads", None) or heads)}
    for name, style in styles.items():
        layer: Any = model.get_submodule(name)
        if style in _ROWS:
            widths.setdefault(f"width of {name}", layer.out_features)
        elif style in _COLUMNS:
            widths.setdefault(f"width into {name}", layer.in_features)
    for name, width in widths.items():
        if width % size:
            raise ValueError(f"`{_KEY}` must divide the policy's {name} = {width}, got {size}")


def _width(module: nn.Module) -> int | None:
    weight = getattr(module, "weight", None)
    return None if weight is None else weight.numel()


def _matched(model: Any) -> Iterable[tuple[str, nn.Module, str]]:
    """Name, module and style of every layer that transformers' plan of a model names."""
    base = bare_model(model)
    plan = getattr(base.config.get_text_config(), "base_model_tp_plan", None) or {}
    prefix = base.base_model_prefix
    for name, module in base.named_modules():
        for pattern, style in plan.items():
            if fnmatchcase(name, f"{prefix}.{pattern}"):
                yield name, module, style


def layer_styles(model: nn.Module) -> dict[nn.Module, str]:
    """Return how each layer of a model is split: by transformers' plan, adapters along with the layers they adapt.

    An adapter's matrix that meets the split side of its layer is split, the other one stays whole.

    Args:
        model: a transformers model that :func:`check_tensor_parallel` takes, possibly peft-wrapped.
    """
    styles: dict[nn.Module, str] = {}
    for _, module, style in _matched(model):
        adapted: Any = module
        if not hasattr(adapted, "base_layer"):
            styles[module] = style
            continue
        styles[adapted.base_layer] = style
        for adapter in (adapted.lora_B if style in _ROWS else adapted.lora_A).values():
            styles[adapter] = style
    return styles


def split_layers(module: nn.Module, mesh: Any, styles: Mapping[nn.Module, str]) -> None:
    """Split the layers within a module over the processes of a mesh; each keeps its slice, nothing is sent.

    A layer takes and returns tensors of its process: whole ones, or slices of features between a layer split by rows and the next one
    split by columns. What they add up to is summed over processes, forward and backward.

    Args:
        module: parameters the same on every process, or on the meta device; changed in place.
        mesh: one-dimensional, of the processes that compute a layer together.
        styles: of :func:`layer_styles`.
    """
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

    made: dict[str, Any] = {
        "colwise": ColwiseParallel,
        "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
        "rowwise": RowwiseParallel,
        "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
        # A norm of each head: heads are split, its weight is whole, and so the weight's gradient is a sum over processes.
        _NORM: lambda: SequenceParallel(sequence_dim=2, use_local_output=True),
    }
    for layer in module.modules():
        if layer in styles and not any(hasattr(parameter, "placements") for parameter in layer.parameters(recurse=False)):
            trained = {name: parameter.requires_grad for name, parameter in layer.named_parameters()}
            parallelize_module(layer, mesh, made[styles[layer]](), src_data_rank=None)
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_(trained[name])
