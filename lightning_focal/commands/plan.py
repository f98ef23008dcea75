"""``lightning_focal plan``: parameters and memory of every process, from the configuration alone."""

from __future__ import annotations

import argparse
import io
import json
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from lightning_focal.cli import main
from lightning_focal.commands.plan_memory import Job, Share, memory, together
from lightning_focal.commands.plan_sharded import Counts, count_parameters
from lightning_focal.models import Lora, Sharding, check_tensor_parallel, policy_config
from lightning_focal.parsing import ExampleFormatter
from lightning_focal.precision import resolved_dtype

__all__ = ["architecture", "job_of", "parser", "plan_command"]

_STATES = {"AdamW": 2, "Adam": 2, "NAdam": 2, "RAdam": 2, "SGD": 1, "RMSprop": 1, "Adagrad": 1, "Adafactor": 0}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's own options; all others are those of ``fit``."""
    made = argparse.ArgumentParser(
        formatter_class=ExampleFormatter,
        prog="lightning_focal plan",
        allow_abbrev=False,
        description="Build the policy of a configuration without memory, split it as in the run, and print what every process will "
        "hold. Takes the options of `fit` too, --model.lora.r=16 say.",
    )
    made.add_argument("--config", type=str, required=True, help="Configuration of a run, as for `fit`.")
    made.add_argument("--devices", type=int, default=None, help="Devices of a node; trainer.devices by default.")
    made.add_argument("--nodes", type=int, default=None, help="Nodes; trainer.num_nodes by default.")
    made.add_argument("--memory", type=float, default=80.0, help="Memory of a device, in GB (10^9 bytes); 80 by default.")
    made.add_argument(
        "--architecture",
        type=str,
        default=None,
        help="The policy's config.json; by default architectures/NAME.json beside the configuration, or the policy's own.",
    )
    return made


def plan_command(args: list[str]) -> None:
    """Run the command.

    Args:
        args: as on the command line, behind ``lightning_focal plan``.
    """
    own, rest = parser().parse_known_args(args)
    settings = _settings(own.config, rest)
    began = time.perf_counter()
    model, trainer = settings["model"], settings["trainer"]
    devices = own.devices or _number(trainer.get("devices"))
    nodes = own.nodes or _number(trainer.get("num_nodes"))
    config = architecture(model["policy"], own.config, own.architecture, model.get("cache_dir"))
    sharding = Sharding(**(model.get("sharding") or {}))
    lora = None if model.get("lora") is None else Lora(**model["lora"])
    kind, tensor_parallel = _strategy(trainer.get("strategy"), devices, nodes)
    check_tensor_parallel(config, tensor_parallel, lora)
    job = job_of(settings, kind != "replicated", devices * nodes, tensor_parallel)
    counts = count_parameters(config, job.dtype, lora, sharding, devices * nodes, job.split, tensor_parallel)
    shares = memory(counts, config, job)
    seconds = time.perf_counter() - began
    console = Console(highlight=False)
    over = f"{nodes} x {devices} devices" if nodes > 1 else f"{devices} device{'s' * (devices > 1)}"
    console.print(
        f"{model['policy']} on {over}, {kind}" + (f", tensor parallel {tensor_parallel}" if tensor_parallel > 1 else "")
    )
    console.print(_parameters(counts, job.split))
    console.print(_table(shares))
    console.print(_verdict(shares, own.memory))
    console.print(f"built without memory in {seconds:.1f} s")


def _settings(config: str, rest: list[str]) -> dict[str, Any]:
    """The whole configuration that `fit` would use."""
    if not Path(config).is_file():
        raise FileNotFoundError(f"`--config` must be an existing file, got {config!r} (looked in {Path.cwd()})")
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            main(["fit", f"--config={config}", *rest, "--print_config"])
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise
    settings: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return settings


def architecture(policy: str, config: str, given: str | None = None, cache_dir: str | None = None) -> Any:
    """Find the transformers configuration of a policy without a hub where possible.

    Args:
        policy: source of the policy.
        config: path of the run's configuration; ``architectures/<last part of policy>.json`` beside it is looked for.
        given: a ``config.json`` named by hand.
        cache_dir: of packaged policies.
    """
    from transformers import AutoConfig

    beside = Path(config).parent / "architectures" / f"{policy.rstrip('/').rsplit('/', 1)[-1]}.json"
    path = Path(given) if given is not None else beside
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        return AutoConfig.for_model(content.pop("model_type"), **content)
    if given is not None:
        raise FileNotFoundError(f"`--architecture` must be an existing config.json, got {given!r}")
    return policy_config(policy, cache_dir=cache_dir)[0]


def job_of(settings: dict[str, Any], split: bool, processes: int, tensor_parallel: int = 1) -> Job:
    """Read what decides on memory from a whole configuration.

    Args:
        settings: as ``--print_config`` prints them.
        split: the policy is split over processes.
        processes: that share the prompts.
        tensor_parallel: of these, those that compute a layer together.
    """
    model, trainer = settings["model"], settings["trainer"]
    auto = str(resolved_dtype("auto", "cpu")) if trainer.get("accelerator") == "cpu" else "bfloat16"  # as on a GPU
    data = settings["data"].get("init_args", {})
    update, sampling, sharding = model["update"], model["sampling"], model.get("sharding") or {}
    generator, dtype = model.get("generator") or {}, model["dtype"]
    precision = str(trainer.get("precision"))
    mixed = "bfloat16" if precision.startswith("bf16") or (precision, auto) == ("auto", "bfloat16") else dtype
    length = int(data.get("max_prompt_tokens") or 512) + int(sampling["max_new_tokens"])
    name, arguments = _class(generator)
    rollout = _named_or(arguments.get("dtype"), auto) or dtype
    server = "server" in name.lower()
    copied = not server and (split or rollout != dtype or (model.get("lora") is not None and arguments.get("dtype") is not None))
    at_once = min(
        int(arguments.get("batch_size") or 64), -(-int(data.get("batch_size") or 1) * int(model["group_size"]) // processes)
    )
    reference, reference_arguments = _class(model.get("reference"))
    frozen = reference == "FrozenReference" and model.get("lora") is None
    optimizer, optimizer_arguments = _class(model.get("optimizer"))
    states = _STATES.get(optimizer or "AdamW", 2)
    if optimizer == "SGD" and not optimizer_arguments.get("momentum"):
        states = 0
    teachers = [arguments for name, arguments in map(_class, trainer.get("callbacks") or []) if name == "EMATeacher"]
    return Job(
        dtype=dtype,
        compute_dtype=str(_named_or(sharding.get("param_dtype"), auto) or mixed) if split else mixed,
        states=states,
        split=split,
        offload=bool(split and sharding.get("cpu_offload")),
        teacher=None if not teachers else "host" if teachers[0].get("offload") else "device",
        reference_dtype=(_named_or(reference_arguments.get("dtype"), auto) or dtype) if frozen else None,
        rollout_dtype=rollout if copied else None,
        rollouts=0 if server else at_once,
        prompt_tokens=int(data.get("max_prompt_tokens") or 512),
        new_tokens=int(sampling["max_new_tokens"]),
        micro_tokens=int(update.get("micro_batch_tokens") or int(update["micro_batch_size"]) * length),
        checkpointing=bool(model.get("gradient_checkpointing")),
        tensor_parallel=tensor_parallel,
        reference_filed=bool(frozen and reference_arguments.get("offload")),
    )


def _named_or(dtype: str | None, auto: str) -> str | None:
    return auto if dtype == "auto" else dtype


def _class(entry: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a ``class_path`` entry."""
    if not isinstance(entry, dict):
        return "", {}
    return str(entry.get("class_path", "")).rsplit(".", 1)[-1], entry.get("init_args") or {}


def _strategy(entry: Any, devices: int, nodes: int) -> tuple[str, int]:
    """How the policy is laid out, and how many processes compute a layer together."""
    name, arguments = _class(entry) if isinstance(entry, dict) else (str(entry or ""), {})
    if name == "ModelParallelStrategy":
        size = arguments.get("tensor_parallel_size", "auto")
        tensor = devices if size == "auto" else int(size)
        if devices * nodes % tensor:
            raise ValueError(
                f"`trainer.strategy.tensor_parallel_size` must divide the number of devices, {devices * nodes}, got {tensor}"
            )
        return "split by FSDP2", tensor
    if "fsdp" in name.lower():
        return "split by FSDP", 1
    return "replicated", 1


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int) or str(value).isdigit() else 1


def _parameters(counts: Counts, split: bool) -> str:
    trained = "all trained" if counts.trained == counts.total else f"{counts.trained:,} trained"
    held = f"{counts.held:,} on each process" if split else "all of them on each process"
    return f"{counts.total:,} parameters in {counts.blocks} blocks ({trained}); {held}"


def _table(shares: list[Share]) -> Table:
    table = Table(caption="~ is an estimate; 1 GB is 10^9 bytes")
    table.add_column("each process")
    table.add_column("while it")
    table.add_column("bytes", overflow="fold")
    table.add_column("device GB", justify="right")
    if any(share.host for share in shares):
        table.add_column("main memory GB", justify="right")
    for share in shares:
        sizes = [f"{'~' * share.rough}{value / 1e9:.2f}" for value in (share.device, share.host)]
        table.add_row(share.name, share.phase.replace("always", ""), share.how, *sizes[: len(table.columns) - 3])
    table.add_section()
    for phase in ("samples", "learns"):
        sums = [f"{value / 1e9:.2f}" for value in together(shares, phase)]
        table.add_row("together", phase, "", *sums[: len(table.columns) - 3], style="bold")
    return table


def _verdict(shares: list[Share], limit: float) -> str:
    needed = max(together(shares, phase)[0] for phase in ("samples", "learns")) / 1e9
    if needed <= 0.9 * limit:
        return f"fits a device of {limit:g} GB"
    if needed <= limit:
        return f"tight on a device of {limit:g} GB: less than a tenth is left for fragments and libraries"
    return f"does not fit a device of {limit:g} GB"
