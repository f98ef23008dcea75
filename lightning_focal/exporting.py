"""``lightning_focal export``: a checkpoint in, a Hugging Face folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_focal.policies import (
    Lora,
    apply_lora,
    empty_policy,
    export_adapter,
    export_policy,
    load_tokenizer,
    policy_config,
    read_weights,
)

__all__ = ["export_checkpoint", "export_command", "parser"]

_PARTS = {"policy": "policy.", "teacher": "teacher.model."}


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog="lightning_focal export",
        description="Write the policy of a checkpoint as a Hugging Face folder: safetensors, tokenizer, chat template, generation "
        "config. Needs neither the GPUs nor the number of processes that wrote the checkpoint; LoRA is merged.",
    )
    add = made.add_argument
    add("--ckpt_path", type=str, required=True, help="A checkpoint: a file, or a folder of shards.")
    add("--out", type=str, required=True, help="Folder to write; an earlier export there is replaced, anything else is not.")
    add("--config", type=str | None, default=None, help="Configuration of the run; config.yaml of its run folder by default.")
    add("--adapter", action="store_true", help="Write the LoRA adapters alone, as peft reads them.")
    add("--part", type=Literal["policy", "teacher"], default="policy", help="What to write: the policy, or its slow teacher.")
    add(
        "--dtype",
        type=Literal["float32", "bfloat16", "float16"] | None,
        default=None,
        help="Of the written weights; as in the checkpoint by default.",
    )
    return made


def export_command(args: list[str]) -> None:
    """Run the command.

    Args:
        args: as on the command line, behind ``lightning_focal export``.
    """
    config = parser().parse_args(args)
    model = _model_of(config.ckpt_path, config.config)
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    folder = export_checkpoint(config.ckpt_path, config.out, model, adapter=config.adapter, part=config.part, dtype=config.dtype)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.print(f"written: {folder} ({size / 1e6:.1f} MB)")
    if not config.adapter:
        console.print(f"Next:    lightning_focal fit ... --model.policy={folder}")


def export_checkpoint(
    ckpt_path: str | Path,
    out: str | Path,
    model: dict[str, Any],
    *,
    adapter: bool = False,
    part: str = "policy",
    dtype: str | None = None,
) -> Path:
    """Write the policy of a checkpoint as a Hugging Face folder.

    Args:
        ckpt_path: a file, or a folder of shards.
        out: where to.
        model: the ``model`` section of the run's configuration: ``policy``, ``lora`` and ``cache_dir`` are read.
        adapter: write the LoRA adapters alone.
        part: ``policy`` or ``teacher``.
        dtype: of the written weights; None = as in the checkpoint.

    Returns:
        The folder.

    Raises:
        ValueError: for a checkpoint that does not fit the configuration, or adapters that are not there.
    """
    source, cache_dir = str(model["policy"]), model.get("cache_dir")
    lora = None if not model.get("lora") else Lora(**(model["lora"] if isinstance(model["lora"], dict) else {}))
    if adapter and lora is None:
        raise ValueError("`--adapter` needs a run with `model.lora`, this one trained the weights themselves")
    if part == "teacher" and lora is not None:
        raise ValueError("`--part teacher` needs a run without `model.lora`: of adapters the checkpoint holds nameless averages")
    weights = read_weights(ckpt_path, _PARTS[part])
    tokenizer = load_tokenizer(source, cache_dir=cache_dir)
    config, generation_config = policy_config(source, cache_dir=cache_dir)
    policy = empty_policy(config, str(next(iter(weights.values())).dtype).removeprefix("torch."))
    policy.generation_config = generation_config
    if lora is not None:
        policy = apply_lora(policy, lora)
    _take(policy, weights, str(ckpt_path))
    if dtype is not None:
        policy = policy.to(getattr(torch, dtype))
    # A model card goes in here, beside the weights.
    return (export_adapter if adapter else export_policy)(policy, tokenizer, out)


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


def _model_of(ckpt_path: str, given: str | None) -> dict[str, Any]:
    """The ``model`` section of a run's configuration."""
    path = Path(given) if given is not None else Path(ckpt_path).absolute().parent.parent / "config.yaml"
    if not path.is_file():
        what = f"`--config` {given!r} does not exist" if given is not None else f"no {path}"
        raise FileNotFoundError(f"{what}: name the configuration of the run with `--config`")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, str):  # in a file of its own
        model = yaml.safe_load((path.parent / model).read_text(encoding="utf-8"))
    if not isinstance(model, dict) or not model.get("policy"):
        raise ValueError(f"{path}: `model.policy` must name the policy that was trained, got {model!r}")
    return model
