"""``lightning_focal export``: a checkpoint in, a Hugging Face folder out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_focal.model_card import model_card, run_records
from lightning_focal.parsing import HelpFormatter
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
from lightning_focal.terminal import make_console

__all__ = ["checkpoint_policy", "export_checkpoint", "export_command", "parser", "read_run_config", "trained_batches"]

_PARTS = {"policy": "policy.", "teacher": "teacher.model."}


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        formatter_class=HelpFormatter,
        prog="lightning_focal export",
        description="Write the policy of a checkpoint as a Hugging Face folder: safetensors, tokenizer, chat template, generation "
        "config, and a model card with method, data, seed and scores. Needs neither the GPUs nor the number of processes that wrote "
        "the checkpoint; LoRA is merged.",
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
    run = read_run_config(config.ckpt_path, config.config)
    batch = trained_batches(config.ckpt_path)
    card = model_card(
        run,
        name=Path(config.out).name,
        records=run_records(_run_folder(config.ckpt_path), batch),
        batch=batch,
        adapter=config.adapter,
        part=config.part,
    )
    console = make_console(soft_wrap=True, markup=False, emoji=False)
    folder = export_checkpoint(
        config.ckpt_path, config.out, run["model"], adapter=config.adapter, part=config.part, dtype=config.dtype, card=card
    )
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
    card: str | None = None,
) -> Path:
    """Write the policy of a checkpoint as a Hugging Face folder.

    Args:
        ckpt_path: a file, or a folder of shards.
        out: where to.
        model: the ``model`` section of the run's configuration: ``policy``, ``lora`` and ``cache_dir`` are read.
        adapter: write the LoRA adapters alone.
        part: ``policy`` or ``teacher``.
        dtype: of the written weights; None = as in the checkpoint.
        card: a model card to write as README.md, see :func:`~lightning_focal.model_card.model_card`.

    Returns:
        The folder.

    Raises:
        ValueError: for a checkpoint that does not fit the configuration, or adapters that are not there.
    """
    if adapter and not model.get("lora"):
        raise ValueError("`--adapter` needs a run with `model.lora`, this one trained the weights themselves")
    policy, tokenizer = checkpoint_policy(ckpt_path, model, part=part, dtype=dtype)
    texts = None if card is None else {"README.md": card}
    return (export_adapter if adapter else export_policy)(policy, tokenizer, out, texts=texts)


def checkpoint_policy(
    ckpt_path: str | Path, model: dict[str, Any], *, part: str = "policy", dtype: str | None = None
) -> tuple[Any, Any]:
    """Load the policy of a checkpoint, on the CPU and in eval mode.

    Args:
        ckpt_path: a file, or a folder of shards.
        model: the ``model`` section of the run's configuration: ``policy``, ``lora`` and ``cache_dir`` are read.
        part: ``policy`` or ``teacher``.
        dtype: of the weights; None = as in the checkpoint.

    Returns:
        The model, with its adapters where it was trained with any, and the tokenizer.

    Raises:
        ValueError: for a checkpoint that does not fit the configuration.
    """
    source, cache_dir = str(model["policy"]), model.get("cache_dir")
    lora = None if not model.get("lora") else Lora(**(model["lora"] if isinstance(model["lora"], dict) else {}))
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
    """Return the number of rollout batches behind a checkpoint; None where it does not say.

    Args:
        ckpt_path: a file, or a folder of shards.
    """
    path = Path(ckpt_path)
    path = path / "meta.pt" if path.is_dir() else path
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return int(content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"])
    except (OSError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None


def _run_folder(ckpt_path: str | Path) -> Path:
    return Path(ckpt_path).absolute().parent.parent


def read_run_config(ckpt_path: str | Path, given: str | None = None) -> dict[str, Any]:
    """Read the configuration of the run that wrote a checkpoint.

    Args:
        ckpt_path: a file, or a folder of shards.
        given: the configuration's file; ``config.yaml`` of the run folder by default.

    Returns:
        The configuration, ``model`` a mapping.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it names no policy.
    """
    path = Path(given) if given is not None else _run_folder(ckpt_path) / "config.yaml"
    if not path.is_file():
        what = f"`--config` {given!r} does not exist" if given is not None else f"no {path}"
        raise FileNotFoundError(f"{what}: name the configuration of the run with `--config`")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, str):  # in a file of its own
        model = yaml.safe_load((path.parent / model).read_text(encoding="utf-8"))
    if not isinstance(model, dict) or not model.get("policy"):
        raise ValueError(f"{path}: `model.policy` must name the policy that was trained, got {model!r}")
    return {**content, "model": model}
