"""A policy as a Hugging Face folder: written whole or not at all, one layer in memory at a time, read back to the last bit."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.foreign import published_weights
from lightning_focal.models.dropout import stored_config
from lightning_focal.models.lora import has_adapters
from lightning_focal.models.pypi import no_bars
from lightning_focal.models.weights import bare_model, full_weights

__all__ = ["export_adapter", "export_policy", "hub_weights", "whole_folder", "write_description", "write_weights"]

_FILE_BYTES = 2 << 30


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

    Raises:
        ValueError: if ``folder`` holds something that is no model.
        TypeError: for adapters other than plain LoRA.
    """
    target = _checked(folder, "config.json", "an exported policy")
    if not write:
        write_weights(model, target, write=False)
        return target
    with whole_folder(target) as beside:
        write_description(model, tokenizer, beside)
        write_weights(model, beside)
        _write_texts(beside, texts)
    return target


def export_adapter(model: nn.Module, tokenizer: Any, folder: str | Path, *, texts: Mapping[str, str] | None = None) -> Path:
    """Write low-rank adapters alone, as peft reads them, with the tokenizer; otherwise as :func:`export_policy`.

    Raises:
        ValueError: if ``folder`` holds something else.
        TypeError: for a model without adapters.
    """
    if not has_adapters(model):
        raise TypeError(f"`model` must have adapters (see `apply_lora`), got a plain {type(model).__name__}")
    target = _checked(folder, "adapter_config.json", "exported adapters")
    with no_bars(), whole_folder(target) as beside:
        # of the embeddings nothing is trained; peft would ask a hub about them
        model.save_pretrained(beside, save_embedding_layers=False)  # type: ignore[operator]
        tokenizer.save_pretrained(beside)
        _write_texts(beside, texts)
    return target


def _checked(folder: str | Path, mark: str, what: str) -> Path:
    target = Path(folder)
    if target.exists() and not (target / mark).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`folder` must be new, empty or {what}, got {str(target)!r}, which holds something else")
    return target


def _write_texts(folder: Path, texts: Mapping[str, str] | None) -> None:
    for name, text in (texts or {}).items():
        (folder / name).write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to write to; it takes ``target``'s place when the context ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside, before = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    try:
        beside.mkdir()
        yield beside
        if target.exists():
            os.replace(target, before)
        os.replace(beside, target)
    finally:
        if before.exists() and not target.exists():  # the second rename failed
            os.replace(before, target)
        for left in (beside, before):
            shutil.rmtree(left, ignore_errors=True)


def hub_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every parameter as a published checkpoint of this architecture has them.

    transformers keeps some models in another form than they are published in (experts of a layer in one tensor); this undoes it,
    one layer at a time. Otherwise as :func:`~lightning_focal.models.weights.full_weights`: shards gathered (a collective),
    adapters merged, tied weights once.

    Yields:
        ``(name, tensor)``, detached, in the policy's precision.
    """
    base = bare_model(policy)
    group: dict[str, Tensor] = {}
    place: tuple[str, ...] | None = None
    for name, value in full_weights(policy):
        parts = name.split(".")
        index = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
        here = tuple(parts[: index + 1])
        if group and here != place:
            yield from published_weights(base, group).items()
            group = {}
        place, group[name] = here, value
    yield from published_weights(base, group).items()


def write_description(policy: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write everything of a model but its weights: config, generation config, tokenizer."""
    base = bare_model(policy)
    config = stored_config(copy.deepcopy(base.config))
    config.architectures, config.dtype = [_class_name(base)], base.dtype
    config.save_pretrained(folder)
    if getattr(base, "generation_config", None) is not None:
        base.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _class_name(model: nn.Module) -> str:
    """Name of the transformers class; sharding puts a class of its own before it."""
    return next(
        c.__name__ for c in type(model).__mro__ if c.__module__.startswith("transformers.") or not c.__name__.startswith("FSDP")
    )


def write_weights(policy: nn.Module, folder: Path, *, write: bool = True, dtype: torch.dtype | None = None) -> None:
    """Write the weights as safetensors of at most 2 GiB (or one tensor)."""
    from safetensors.torch import save_file

    files, part, size = list[tuple[Path, dict[str, int]]](), dict[str, Tensor](), 0

    def flush() -> None:
        path = folder / f"part-{len(files)}.safetensors"
        save_file(part, path, metadata={"format": "pt"})
        files.append((path, {name: value.nbytes for name, value in part.items()}))
        part.clear()

    weights = hub_weights(policy)
    try:
        for name, value in weights:
            if not write:
                continue
            held = value.to("cpu", dtype if value.is_floating_point() else None).contiguous()
            if part and size + held.nbytes > _FILE_BYTES:
                flush()
                size = 0
            part[name] = held
            size += held.nbytes
        if write:
            flush()
            _name_files(files, folder)
    finally:
        for _ in weights:  # a full disk here must not leave the others waiting in a gather
            pass


def _name_files(files: list[tuple[Path, dict[str, int]]], folder: Path) -> None:
    """Give the files the names that transformers and vLLM look for, with an index where there are several."""
    if len(files) == 1:
        files[0][0].rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, (path, sizes) in enumerate(files, 1):
        renamed = path.rename(folder / f"model-{number:05d}-of-{len(files):05d}.safetensors")
        places |= dict.fromkeys(sizes, renamed.name)
    index = {"metadata": {"total_size": sum(sum(sizes.values()) for _, sizes in files)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
