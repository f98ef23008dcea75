"""``lightning_focal export``: a checkpoint in, a Hugging Face folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from lightning_focal.commands.model_card import model_card, run_records
from lightning_focal.models import export_adapter, export_policy, load_policy
from lightning_focal.models.checkpoints import checkpoint_policy, read_run_config, run_folder_of, trained_batches
from lightning_focal.models.weights import expect_same_logits
from lightning_focal.parsing import CommandParser
from lightning_focal.terminal import make_console

__all__ = ["export_checkpoint", "export_command", "parser"]


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
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
    dtypes = Literal["float32", "bfloat16", "float16"] | None
    add("--dtype", type=dtypes, default=None, help="Of the written weights; as in the checkpoint by default.")
    return made


def export_command(args: list[str]) -> None:
    """Run the command."""
    config = parser().parse_args(args)
    path, how = config.ckpt_path, {"adapter": config.adapter, "part": config.part}
    run, batch = read_run_config(path, config.config), trained_batches(path)
    records = run_records(run_folder_of(path), batch)
    card = model_card(run, name=Path(config.out).name, records=records, batch=batch, **how)
    console = make_console(soft_wrap=True)
    folder = export_checkpoint(path, config.out, run["model"], dtype=config.dtype, card=card, **how)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
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
    """Write the policy, or another ``part``, of a checkpoint (a file, or a folder of shards) as a Hugging Face folder.

    ``model`` is the section of the run's configuration: ``policy``, ``lora`` and ``cache_dir`` are read. ``card`` becomes README.md.

    Raises:
        ValueError: for a checkpoint that does not fit the configuration, or adapters that are not there.
        RuntimeError: if the folder, read back, computes other logits than the policy.
    """
    if adapter and not model.get("lora"):
        raise ValueError("`--adapter` needs a run with `model.lora`, this one trained the weights themselves")
    policy, tokenizer = checkpoint_policy(ckpt_path, model, part=part, dtype=dtype)
    texts = None if card is None else {"README.md": card}
    folder = (export_adapter if adapter else export_policy)(policy, tokenizer, out, texts=texts)
    if not adapter:
        expect_same_logits(policy, load_policy(folder, dtype="auto")[0], f"what was written to {folder}")
    return folder
