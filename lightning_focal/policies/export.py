"""A policy as a Hugging Face folder: written whole or not at all, adapters merged, read back to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from lightning_focal.generation.folder import whole_folder
from lightning_focal.generation.weights import RolloutCopy, is_sharded
from lightning_focal.policies.bars import no_bars
from lightning_focal.policies.lora import has_adapters

__all__ = ["export_policy"]


def export_policy(model: nn.Module, tokenizer: Any, folder: str | Path, *, write: bool = True) -> Path:
    """Write weights (safetensors), tokenizer, chat template and generation config, beside the target, then rename.

    The folder is a policy source, ``model.policy: <folder>``, and what transformers' ``from_pretrained`` reads. Low-rank adapters
    are merged into the weights, shards gathered; tied weights are stored once.

    Args:
        model: a transformers causal language model, possibly with LoRA adapters, possibly sharded over processes.
        tokenizer: of the model.
        folder: where to; an earlier export there is replaced, anything else is not.
        write: False on every process but the first: shards are gathered by all, written by one.

    Returns:
        The folder.

    Raises:
        ValueError: if ``folder`` holds something that is no model.
        TypeError: for adapters other than plain LoRA.
    """
    target = Path(folder)
    if target.exists() and not (target / "config.json").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`folder` must be new, empty or an exported policy, got {str(target)!r}, which holds something else")
    plain: Any = RolloutCopy(model, None).model if has_adapters(model) or is_sharded(model) else model
    if not write:
        return target
    with whole_folder(target) as beside:
        with no_bars():
            plain.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    return target
