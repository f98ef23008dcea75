"""``lightning_focal eval``: a checkpoint or a policy on tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from lightning_focal.evaluation import evaluate_tasks, flat_scores, load_evaluated, load_tasks, policy_lm, task_names, vllm_lm
from lightning_focal.evaluation.model import is_checkpoint
from lightning_focal.files import write_json
from lightning_focal.models import export_policy
from lightning_focal.parsing import CommandParser
from lightning_focal.terminal import Cells, make_console, shortened

__all__ = ["eval_command", "parser"]


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal eval",
        description="Put tasks of lm-evaluation-harness to a policy. The scores are those of `lm-eval run --model hf "
        "--apply_chat_template` on the exported folder.",
    )
    add = made.add_argument
    add("--ckpt_path", type=str, required=True, help="A Trainer's checkpoint, an exported folder, or any source of a policy.")
    add("--tasks", type=str, required=True, help="Names and YAML files, with commas: gsm8k,ifeval,my_task.yaml.")
    add("--config", type=str | None, default=None, help="Configuration of the run; config.yaml of its run folder by default.")
    add("--part", type=Literal["policy", "teacher"], default="policy", help="Of a checkpoint: the policy, or its slow teacher.")
    add("--backend", type=Literal["hf", "vllm"], default="hf", help="Who answers: transformers, or vLLM.")
    add("--limit", type=float | None, default=None, help="Questions a task; below 1 a share of them.")
    add("--batch_size", type=int, default=16, help="Questions at once; vLLM decides by itself.")
    add("--num_fewshot", type=int | None, default=None, help="Worked examples before each question; as the task says by default.")
    add("--apply_chat_template", type=bool, default=True, help="Put questions as chats.")
    add("--system_instruction", type=str | None, default=None, help="Before every chat.")
    add("--max_length", type=int | None, default=None, help="Context in tokens; the policy's own by default.")
    dtypes = Literal["float32", "bfloat16", "float16"] | None
    add("--dtype", type=dtypes, default=None, help="Of the weights; as stored by default.")
    add("--device", type=str | None, default=None, help="cuda, cuda:1, cpu, ...; a GPU where there is one by default.")
    add("--vllm_args", type=dict[str, Any], default={}, help="Arguments of vLLM's engine, as a mapping.")
    add("--include_path", type=str | None, default=None, help="A folder whose YAML files are added to the names.")
    add("--allow_code", action="store_true", help="Run tasks that execute what the policy writes (CRUXEval, HumanEval, MBPP).")
    add("--out", type=str | None, default=None, help="JSON file to write.")
    return made


def eval_command(args: list[str]) -> None:
    """Run the command: ``ValueError`` for arguments out of range, and for tasks that cannot be run, before any weight is read."""
    config = parser().parse_args(args)
    if config.batch_size < 1 or (config.limit is not None and config.limit <= 0):
        raise ValueError(f"`--batch_size` must be >= 1 and `--limit` > 0, got {config.batch_size} and {config.limit}")
    console = make_console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 140  # a file has room for whole names
    tasks = load_tasks(config.tasks, include_path=config.include_path, allow_code=config.allow_code)
    for name, reason in tasks.missing.items():
        console.print(f"not evaluated: {shortened(name)}: {reason}")
    with _model(config) as lm:
        names = ("limit", "num_fewshot", "apply_chat_template", "system_instruction", "allow_code")
        results = evaluate_tasks(lm, tasks, **{name: config[name] for name in names}, quiet=not console.is_terminal)
    console.print(_table(results))
    if config.out is not None:
        plain: dict[str, Any] = json.loads(json.dumps(results, default=str))
        options = {key: value for key, value in config.as_dict().items() if key != "out"} | {"tasks": task_names(config.tasks)}
        mine = {"options": options, "scores": flat_scores(results), "missing": dict(tasks.missing)}
        write_json(Path(config.out), plain | {"lightning_focal": mine})
        console.print(f"written: {config.out}")


@contextmanager
def _model(config: Namespace) -> Iterator[Any]:
    if config.backend == "hf":
        import torch

        model, tokenizer = load_evaluated(config.ckpt_path, config=config.config, part=config.part, dtype=config.dtype)
        model = model.to(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        yield policy_lm(model, tokenizer, batch_size=config.batch_size, max_length=config.max_length)
        return
    with tempfile.TemporaryDirectory(prefix="lightning_focal_") as place:
        folder = Path(config.ckpt_path)
        if is_checkpoint(folder) or not folder.is_dir():  # vLLM reads folders
            model, tokenizer = load_evaluated(config.ckpt_path, config=config.config, part=config.part)
            folder = export_policy(model, tokenizer, Path(place) / "policy")
            del model
        yield vllm_lm(folder, dtype=config.dtype, max_length=config.max_length, **config.vllm_args)


def _table(results: Mapping[str, Any]) -> Cells:
    table = Cells("task", "version", "filter", "n-shot", "metric", "value", "stderr", "questions")
    for task, measured in results["results"].items():
        kept = [results.get(kind, {}).get(task, "") for kind in ("versions", "n-shot")]
        questions = results.get("n-samples", {}).get(task, {}).get("effective", "")
        for name, value in sorted(measured.items()):
            metric, comma, chosen = name.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = measured.get(f"{metric}_stderr,{chosen}", "")
                numbers = [f"{number:.4f}" if isinstance(number, float) else number for number in (value, error)]
                cells = (task, kept[0], chosen, kept[1], metric, *numbers, questions)
                table.add_row(*map(str, cells))
    return table
