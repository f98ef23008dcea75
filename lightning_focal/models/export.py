"""A policy as a Hugging Face folder: written whole or not at all, adapters merged, read back to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_focal.models.bars import no_bars
from lightning_focal.models.folder import whole_folder
from lightning_focal.models.lora import has_adapters
from lightning_focal.models.weights import RolloutCopy, is_sharded

__all__ = ["export_adapter", "export_policy"]


def export_policy(
    model: nn.Module, tokenizer: Any, folder: str | Path, *, write: bool = True, texts: Mapping[str, str] | None = None
) -> Path:
    """Write weights (safetensors), tokenizer, chat template and generation config, beside the target, then rename.

    The folder is a policy source, ``model.policy: <folder>``, and what transformers' ``from_pretrained`` reads. Low-rank adapters
    are merged into the weights, shards gathered; tied weights are stored once.

    Args:
        model: a transformers causal language model, possibly with LoRA adapters, possibly sharded over processes.
        tokenizer: of the model.
        folder: where to; an earlier export there is replaced, anything else is not.
        write: False on every process but the first: shards are gathered by all, written by one.
        texts: further files by name, a model card say.

    Returns:
        The folder.

    Raises:
        ValueError: if ``folder`` holds something that is no model.
        TypeError: for adapters other than plain LoRA.
    """
    target = _checked(folder, "config.json", "an exported policy")
    plain: Any = RolloutCopy(model, None).model if has_adapters(model) or is_sharded(model) else model
    if not write:
        return target
    with no_bars():
        return _write(target, plain, tokenizer, texts)


def export_adapter(model: nn.Module, tokenizer: Any, folder: str | Path, *, texts: Mapping[str, str] | None = None) -> Path:
    """Write low-rank adapters alone, as peft reads them, with the tokenizer; otherwise as :func:`export_policy`.

    Args:
        model: with LoRA adapters, not sharded.
        tokenizer: of the model.
        folder: where to; earlier adapters there are replaced, anything else is not.
        texts: further files by name, a model card say.

    Returns:
        The folder.

    Raises:
        ValueError: if ``folder`` holds something else.
        TypeError: for a model without adapters.
    """
    if not has_adapters(model):
        raise TypeError(f"`model` must have adapters (see `apply_lora`), got a plain {type(model).__name__}")
    with no_bars():
        # of the embeddings nothing is trained; peft would ask a hub about them
        target = _checked(folder, "adapter_config.json", "exported adapters")
        return _write(target, model, tokenizer, texts, save_embedding_layers=False)


def _checked(folder: str | Path, mark: str, what: str) -> Path:
    target = Path(folder)
    if target.exists() and not (target / mark).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`folder` must be new, empty or {what}, got {str(target)!r}, which holds something else")
    return target


def _write(target: Path, model: Any, tokenizer: Any, texts: Mapping[str, str] | None, **arguments: Any) -> Path:
    with whole_folder(target) as beside:
        model.save_pretrained(beside, **arguments)
        tokenizer.save_pretrained(beside)
        for name, text in (texts or {}).items():
            (beside / name).write_text(text, encoding="utf-8")
    return target
