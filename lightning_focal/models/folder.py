"""A model's folder for another program to read: written whole or not at all, one layer in memory at a time."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.models.weights import bare_model, full_weights

__all__ = ["hub_weights", "whole_folder", "write_description", "write_weights"]

_FILE_BYTES = 2 << 30


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

    Args:
        policy: a transformers model, possibly peft-wrapped, possibly sharded.

    Yields:
        ``(name, tensor)``, detached, in the policy's precision.
    """
    from transformers.core_model_loading import revert_weight_conversion

    base = bare_model(policy)
    group: dict[str, Tensor] = {}
    place: tuple[str, ...] | None = None
    for name, value in full_weights(policy):
        parts = name.split(".")
        index = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
        here = tuple(parts[: index + 1])
        if group and here != place:
            yield from revert_weight_conversion(base, group).items()
            group = {}
        place, group[name] = here, value
    yield from revert_weight_conversion(base, group).items()


def write_description(policy: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write everything of a model but its weights: config, generation config, tokenizer."""
    base = bare_model(policy)
    config = copy.deepcopy(base.config)
    config.architectures = [_class_name(base)]
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
    """Write the weights as safetensors of at most 2 GiB (or one tensor).

    Args:
        policy: see :func:`hub_weights`.
        folder: exists.
        write: False on every process but the first: shards are gathered by all, written by one.
        dtype: of what is written; None = the policy's.
    """
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
