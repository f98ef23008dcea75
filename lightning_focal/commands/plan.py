"""``lightning_focal plan``: parameters and memory of every process, from the configuration alone."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, capture_parser
from lightning.pytorch.cli import LightningArgumentParser

from lightning_focal.cli import FocalCLI
from lightning_focal.commands.plan_memory import Counts, Job, Share, count_parameters, memory, together
from lightning_focal.models import Lora, Sharding, policy_config
from lightning_focal.precision import resolved_dtype
from lightning_focal.terminal import Cells, make_console

__all__ = ["architecture", "job_of", "parser", "plan_command"]

_STATES = {"AdamW": 2, "Adam": 2, "NAdam": 2, "RAdam": 2, "SGD": 1, "RMSprop": 1, "Adagrad": 1, "Adafactor": 0}
_ABOUT = (
    "Build the policy of a configuration without memory, split it as in the run, and print what every process will hold. Takes the "
    "options of `fit` too, --model.lora.r=16 say."
)


class _PlanCLI(FocalCLI):
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        add("--devices", type=int | None, default=None, help="Devices of a node; trainer.devices by default.")
        add("--nodes", type=int | None, default=None, help="Nodes; trainer.num_nodes by default.")
        add("--memory", type=float, default=80.0, help="Memory of a device, in GB (10^9 bytes).")
        shape = "The policy's config.json; by default architectures/NAME.json beside the configuration, or the policy's own."
        add("--architecture", type=str | None, default=None, help=shape)
        super().add_default_arguments_to_parser(parser)


def parser() -> ArgumentParser:
    """Return the parser of the command: that of ``fit``, with options of its own."""
    return capture_parser(_PlanCLI, "plan", description=_ABOUT)


def plan_command(args: list[str]) -> None:
    """Run the command."""
    made = parser()
    given = made.parse_args(args)
    settings: dict[str, Any] = yaml.safe_load(made.dump(given, skip_none=False))
    began = time.perf_counter()
    model, trainer = settings["model"], settings["trainer"]
    devices = given.devices or _number(trainer.get("devices"))
    nodes = given.nodes or _number(trainer.get("num_nodes"))
    folders = [Path(str(path)).parent for path in given.config or []]
    config = architecture(model["policy"], folders, given.architecture, model.get("cache_dir"))
    lora = None if model.get("lora") is None else Lora(**model["lora"])
    kind = _strategy(trainer.get("strategy"), devices)
    job = job_of(settings, kind != "replicated", devices * nodes)
    sharding = Sharding(**(model.get("sharding") or {}))
    counts = count_parameters(config, job.dtype, lora, sharding, devices * nodes if job.split else 1)
    shares = memory(counts, config, job)
    seconds = time.perf_counter() - began
    console = make_console()
    over = f"{nodes} x {devices} devices" if nodes > 1 else f"{devices} device{'s' * (devices > 1)}"
    console.print(f"{model['policy']} on {over}, {kind}")
    console.print(_parameters(counts, job.split))
    console.print(_table(shares))
    console.print(_verdict(shares, given.memory))
    console.print(f"built without memory in {seconds:.1f} s")


def architecture(policy: str, folders: Sequence[Path] = (), given: str | None = None, cache_dir: str | None = None) -> Any:
    """Find the transformers configuration of a policy without a hub where possible."""
    from transformers import AutoConfig

    if given is not None and not Path(given).is_file():
        raise FileNotFoundError(f"`--architecture` must be an existing config.json, got {given!r}")
    name = f"{policy.rstrip('/').rsplit('/', 1)[-1]}.json"
    beside = [Path(given)] if given is not None else [folder / "architectures" / name for folder in folders]
    path = next((path for path in beside if path.is_file()), None)
    if path is None:
        return policy_config(policy, cache_dir=cache_dir)[0]
    content = json.loads(path.read_text(encoding="utf-8"))
    return AutoConfig.for_model(content.pop("model_type"), **content)


def job_of(settings: dict[str, Any], split: bool, processes: int) -> Job:
    """Read what decides on memory from a whole configuration."""
    model, trainer = settings["model"], settings["trainer"]
    auto = str(resolved_dtype("auto", "cpu")) if trainer.get("accelerator") == "cpu" else "bfloat16"  # as on a GPU

    def named(dtype: str | None) -> str | None:
        return auto if dtype == "auto" else dtype

    data = settings["data"].get("init_args", {})
    update, sampling, sharding, dtype = model["update"], model["sampling"], model.get("sharding") or {}, model["dtype"]
    precision = str(trainer.get("precision"))
    mixed = "bfloat16" if precision.startswith("bf16") or (precision, auto) == ("auto", "bfloat16") else dtype
    prompt, new = int(data.get("max_prompt_tokens") or 512), int(sampling["max_new_tokens"])
    name, arguments = _class(model.get("generator"))
    rollout, server = named(arguments.get("dtype")) or dtype, "server" in name.lower()
    copied = not server and (split or rollout != dtype or (model.get("lora") is not None and arguments.get("dtype") is not None))
    share = -(-int(data.get("batch_size") or 1) * int(model["group_size"]) // processes)
    reference, reference_arguments = _class(model.get("reference"))
    frozen = reference == "FrozenReference" and model.get("lora") is None
    optimizer, optimizer_arguments = _class(model.get("optimizer"))
    plain = optimizer == "SGD" and not optimizer_arguments.get("momentum")
    teachers = [arguments for name, arguments in map(_class, trainer.get("callbacks") or []) if name == "EMATeacher"]
    return Job(
        dtype=dtype,
        compute_dtype=str(named(sharding.get("param_dtype")) or mixed) if split else mixed,
        states=0 if plain else _STATES.get(optimizer or "AdamW", 2),
        split=split,
        offload=bool(split and sharding.get("cpu_offload")),
        teacher=None if not teachers else "host" if teachers[0].get("offload") else "device",
        reference_dtype=(named(reference_arguments.get("dtype")) or dtype) if frozen else None,
        rollout_dtype=rollout if copied else None,
        rollouts=0 if server else min(int(arguments.get("batch_size") or 64), share),
        prompt_tokens=prompt,
        new_tokens=new,
        micro_tokens=int(update.get("micro_batch_tokens") or int(update["micro_batch_size"]) * (prompt + new)),
        checkpointing=bool(model.get("gradient_checkpointing")),
    )


def _class(entry: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a ``class_path`` entry."""
    if not isinstance(entry, dict):
        return str(entry or ""), {}
    return str(entry.get("class_path", "")).rsplit(".", 1)[-1], entry.get("init_args") or {}


def _strategy(entry: Any, devices: int) -> str:
    """How the policy is laid out."""
    name, arguments = _class(entry)
    if name == "ModelParallelStrategy":
        size = arguments.get("tensor_parallel_size", "auto")
        if (devices if size == "auto" else int(size)) > 1:
            raise ValueError(f"`trainer.strategy.tensor_parallel_size` must be 1, got {size}: a policy is split block by block")
        return "split by FSDP2"
    return "split by FSDP" if "fsdp" in name.lower() else "replicated"


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int) or str(value).isdigit() else 1


def _parameters(counts: Counts, split: bool) -> str:
    trained = "all trained" if counts.trained == counts.total else f"{counts.trained:,} trained"
    held = f"{counts.held:,} on each process" if split else "all of them on each process"
    return f"{counts.total:,} parameters in {counts.blocks} blocks ({trained}); {held}"


def _table(shares: list[Share]) -> Cells:
    table = Cells(caption="~ is an estimate; 1 GB is 10^9 bytes")
    table.add_column("each process")
    table.add_column("while it")
    table.add_column("bytes", overflow="fold")
    table.add_column("device GB", justify="right")
    if any(share.host for share in shares):
        table.add_column("main memory GB", justify="right")
    shown = len(table.columns) - 3
    for share in shares:
        sizes = [f"{'~' * share.rough}{value / 1e9:.2f}" for value in (share.device, share.host)]
        table.add_row(share.name, share.phase.replace("always", ""), share.how, *sizes[:shown])
    table.add_section()
    for phase in ("samples", "learns"):
        table.add_row("together", phase, "", *[f"{value / 1e9:.2f}" for value in together(shares, phase)][:shown], style="bold")
    return table


def _verdict(shares: list[Share], limit: float) -> str:
    needed = max(together(shares, phase)[0] for phase in ("samples", "learns")) / 1e9
    if needed <= 0.9 * limit:
        return f"fits a device of {limit:g} GB"
    if needed <= limit:
        return f"tight on a device of {limit:g} GB: less than a tenth is left for fragments and libraries"
    return f"does not fit a device of {limit:g} GB"
