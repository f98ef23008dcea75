"""Weights out of a Trainer's checkpoint, a file or a folder of shards, by one process and without running code from it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lightning_focal.files import why_unreadable
from lightning_focal.models.chat import Chat
from lightning_focal.models.load import empty_policy, load_tokenizer, policy_config
from lightning_focal.models.lora import Lora, apply_lora
from lightning_focal.shard_index import INDEX, read_index

__all__ = [
    "check_shards",
    "checkpoint_policy",
    "is_sharded_checkpoint",
    "read_run_config",
    "read_weights",
    "run_folder_of",
    "trained_batches",
]

_PARTS = {"policy": "policy.", "teacher": "teacher.model."}

_PREFIXES = ("state_dict.", "model.")
"""What weights are filed under in a folder of shards: by ``ModelParallelStrategy`` and by ``FSDPStrategy``."""


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Say whether a checkpoint is a folder of shards, written by several processes side by side."""
    return (Path(path) / INDEX).is_file()


def check_shards(path: str | Path) -> Any:
    """Read the index of a folder of shards without running code from it.

    Returns:
        A ``torch.distributed.checkpoint.metadata.Metadata``.

    Raises:
        ValueError: for an index that is broken, or that names anything but tensors and where they lie.
    """
    try:
        return read_index(path)
    except OSError:
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"the index of the checkpoint {str(path)!r} is refused: {error}") from error


def read_weights(path: str | Path, prefix: str = "policy.") -> dict[str, Tensor]:
    """Read a model's weights from a checkpoint, on the CPU.

    Args:
        path: a file, or a folder of shards; read by this process alone, whatever number of processes wrote it.
        prefix: of the names wanted, ``policy.`` or ``teacher.model.``; it is taken off.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: for one that is broken, holds more than data, or has no such weights.
    """
    path = Path(path)
    if is_sharded_checkpoint(path):
        found = _read_shards(path, prefix)
    elif path.is_file():
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"the checkpoint {str(path)!r} is refused: {str(error).splitlines()[0]}") from error
        state = content.get("state_dict", {}) if isinstance(content, dict) else {}
        found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    else:
        what = "is a folder without shards" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"`ckpt_path` must be a checkpoint, a file or a folder of shards: {str(path)!r} {what}")
    if not found:
        raise ValueError(f"the checkpoint {str(path)!r} holds no weights named {prefix}*")
    return found


def _read_shards(path: Path, prefix: str) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            return check_shards(path)

    stored = check_shards(path).state_dict_metadata
    wanted: dict[str, Tensor] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata) and name.startswith(tuple(first + prefix for first in _PREFIXES))
    }
    if wanted:
        load(wanted, storage_reader=Reader(path))
    first = next((first for first in _PREFIXES if any(name.startswith(first + prefix) for name in wanted)), "")
    return {name.removeprefix(first + prefix): value for name, value in wanted.items()}


def checkpoint_policy(
    ckpt_path: str | Path, model: dict[str, Any], *, part: str = "policy", dtype: str | None = None
) -> tuple[Any, Any]:
    """Load the policy of a checkpoint, on the CPU and in eval mode.

    Args:
        ckpt_path: a file, or a folder of shards.
        model: the ``model`` section of the run's configuration: ``policy``, ``lora``, ``chat`` and ``cache_dir`` are read.
        part: ``policy`` or ``teacher``.
        dtype: of the weights; None = as in the checkpoint.

    Raises:
        ValueError: for a checkpoint that does not fit the configuration.
    """
    source, trusted = str(model["policy"]), bool(model.get("trust_remote_code"))
    finding: dict[str, Any] = {"cache_dir": model.get("cache_dir"), "trust_remote_code": trusted}
    lora = None if not model.get("lora") else Lora(**(model["lora"] if isinstance(model["lora"], dict) else {}))
    if part == "teacher" and lora is not None:
        raise ValueError("`--part teacher` needs a run without `model.lora`: of adapters the checkpoint holds nameless averages")
    weights = read_weights(ckpt_path, _PARTS[part])
    given = model.get("chat")
    tokenizer = (Chat(**given) if given else Chat()).apply(load_tokenizer(source, **finding))
    config, generation_config = policy_config(source, **finding)
    policy = empty_policy(config, str(next(iter(weights.values())).dtype).removeprefix("torch."), trust_remote_code=trusted)
    policy.generation_config = generation_config
    if lora is not None:
        policy = apply_lora(policy, lora)
    _take(policy, weights, str(ckpt_path))
    if dtype is not None:
        policy = policy.to(getattr(torch, dtype))
    return policy.eval(), tokenizer


def _take(policy: Any, weights: dict[str, torch.Tensor], path: str) -> None:
    """Put weights into an empty policy without copying them."""
    _, unexpected = policy.load_state_dict(weights, strict=False, assign=True)
    plain = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    plain.tie_weights()
    empty = [name for name, parameter in policy.named_parameters() if parameter.is_meta]
    if empty or unexpected:
        first = (empty or unexpected)[0]
        raise ValueError(
            f"the checkpoint {path!r} does not fit the configuration: {len(empty)} weights are missing, {len(unexpected)} are "
            f"unknown (first: {first!r}); is `--config` that of the run, `model.lora` included?"
        )


def trained_batches(ckpt_path: str | Path) -> int | None:
    """Return the number of rollout batches behind a checkpoint; None where it does not say."""
    path = Path(ckpt_path)
    path = path / "meta.pt" if path.is_dir() else path
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return int(content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"])
    except (OSError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None


def run_folder_of(ckpt_path: str | Path) -> Path:
    """Return the run folder that a checkpoint lies in."""
    return Path(ckpt_path).absolute().parent.parent


def read_run_config(ckpt_path: str | Path, given: str | None = None) -> dict[str, Any]:
    """Read the configuration of the run that wrote a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken, or names no policy.
    """
    path = Path(given) if given is not None else run_folder_of(ckpt_path) / "config.yaml"
    if not path.is_file():
        what = f"`--config` {given!r} does not exist" if given is not None else f"no {path}"
        raise FileNotFoundError(f"{what}: name the configuration of the run with `--config`")
    if (why := why_unreadable(path)) is not None:
        raise ValueError(f"`--config`: {why}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, str):  # in a file of its own
        model = yaml.safe_load((path.parent / model).read_text(encoding="utf-8"))
    if not isinstance(model, dict) or not model.get("policy"):
        raise ValueError(f"{path}: `model.policy` must name the policy that was trained, got {model!r}")
    return {**content, "model": model}
