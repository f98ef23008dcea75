"""The model card of an exported policy: method, data, seed, scores before and after, how to load it."""

from __future__ import annotations

import html
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_focal.functional import bootstrap_interval

__all__ = ["code", "escaped", "model_card", "run_records"]

_PAPERS = {
    "FocalReward": "arXiv:2605.26579",
    "CoRewardingI": "arXiv:2508.00410",
    "CoRewardingII": "arXiv:2508.00410",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
_OVERALL = {
    "val/balance/worst": "worst criterion",
    "val/balance/mean": "mean over criteria",
    "val/balance/strict_completion": "every criterion met",
    "val/rollout/length": "response tokens",
}
_CRITERION = re.compile(r"val/criterion/(.+)/score")


def escaped(text: object) -> str:
    r"""Return a text as Markdown shows it: on one line, nothing in it is markup.

    >>> escaped("a|b <script> *c*\nd")
    'a\\|b &lt;script&gt; \\*c\\* d'
    """
    return _MARKS.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def code(text: object) -> str:
    """Return a text as inline code, whatever back ticks it holds; also within a table.

    >>> code("runs/`x`|y")
    '<code>runs/&#96;x&#96;&#124;y</code>'
    """
    shown = html.escape(" ".join(str(text).split()))
    for mark in "`|*_[]~$\\":
        shown = shown.replace(mark, f"&#{ord(mark)};")
    return f"<code>{shown}</code>"


def run_records(folder: str | Path, batch: int | None = None) -> dict[str, Any]:
    """Read what a run folder says of a policy's scores.

    Args:
        folder: of the run.
        batch: batches the policy was trained on; evaluations after it are left out. None = all.

    Returns:
        ``held_out`` and ``lm_eval``, each the content of its file or None.
    """
    found: dict[str, Any] = {}
    for name in ("held_out", "lm_eval"):
        path = Path(folder) / f"{name}.json"
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if content is not None and batch is not None:
            content["evaluations"] = [entry for entry in content["evaluations"] if entry["batch"] <= batch]
        found[name] = content
    return found


def model_card(
    config: Mapping[str, Any],
    *,
    name: str,
    records: Mapping[str, Any] | None = None,
    batch: int | None = None,
    adapter: bool = False,
    part: str = "policy",
) -> str:
    """Write the card.

    Args:
        config: of the run; ``model`` as a mapping.
        name: what the policy is called.
        records: see :func:`run_records`.
        batch: batches it was trained on, where known.
        adapter: the folder holds LoRA adapters alone.
        part: ``policy`` or ``teacher``.

    Returns:
        Markdown with a YAML header; everything from the run's files is escaped.
    """
    records = records or {}
    blocks = [
        _header(config, adapter),
        f"# {escaped(name)}",
        _opening(config, adapter, part),
        _facts(config, batch),
        _held_out(records.get("held_out")),
        _tasks(records.get("lm_eval")),
        _loading(config, adapter),
        "The licence is that of the base policy and of the data; this card claims none.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _header(config: Mapping[str, Any], adapter: bool) -> str:
    base = str(config["model"]["policy"])
    content: dict[str, Any] = {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        content["base_model"] = base
    strategy = _strategy(config)
    content["tags"] = ["lightning-focal", "reinforcement-learning" if strategy else "sft"]
    if strategy and re.fullmatch(r"\w+", strategy[0]):
        content["tags"].append(re.sub(r"(?<=[a-z])(?=[A-Z])", "-", strategy[0]).lower())
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _strategy(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Short name and arguments of the run's reward strategy."""
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    for entry in [config.get("reward"), *(callbacks if isinstance(callbacks, list) else [callbacks])]:
        path = entry.get("class_path") if isinstance(entry, Mapping) else entry
        if isinstance(path, str) and (entry is config.get("reward") or ".rewards." in path):
            arguments = entry.get("init_args") if isinstance(entry, Mapping) else None
            return path.rpartition(".")[2], arguments or {}
    return None


def _opening(config: Mapping[str, Any], adapter: bool, part: str) -> str:
    base, strategy = code(config["model"]["policy"]), _strategy(config)
    what = (
        "Low-rank adapters for"
        if adapter
        else "The slow teacher of a policy that started from"
        if part == "teacher"
        else "A policy that started from"
    )
    if strategy is None:
        return f"{what} {base}, trained with lightning-focal."
    paper = _PAPERS.get(strategy[0])
    source = f" ([{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')}))" if paper else ""
    return f"{what} {base}, trained by reinforcement learning with {code(strategy[0])}{source} of lightning-focal."


def _facts(config: Mapping[str, Any], batch: int | None) -> str:
    model, data, strategy = config["model"], config.get("data") or {}, _strategy(config)
    inside = data.get("init_args", data) if isinstance(data, Mapping) else {}
    optimizer = model.get("optimizer") or {}
    rows: list[tuple[str, str]] = [("base policy", code(model["policy"]))]
    if strategy is not None:
        rows.append(("method", code(strategy[0]) + _arguments(strategy[1])))
    if model.get("lora"):
        rows.append(("trained", "low-rank adapters" + _arguments(model["lora"] if isinstance(model["lora"], Mapping) else {})))
    if isinstance(data, Mapping) and data.get("class_path"):
        rows.append(("data", code(str(data["class_path"]).rpartition(".")[2])))
    rows += [(f"data: {key}", code(inside[key])) for key in ("train", "val", "task") if inside.get(key) is not None]
    if model.get("group_size") is not None:
        rows.append(("rollouts a prompt", code(model["group_size"])))
    if isinstance(optimizer, Mapping) and optimizer.get("class_path"):
        rows.append(
            ("optimiser", code(str(optimizer["class_path"]).rpartition(".")[2]) + _arguments(optimizer.get("init_args") or {}))
        )
    rows.append(("seed", code(config.get("seed_everything", "not set"))))
    if batch is not None:
        rows.append(("batches", code(batch)))
    versions = ", ".join(f"{name} {_version(name)}" for name in ("lightning-focal", "torch", "transformers"))
    rows.append(("versions, at export", code(versions)))
    return "| | |\n|---|---|\n" + "\n".join(f"| {label} | {value} |" for label, value in rows)


def _arguments(arguments: Mapping[str, Any]) -> str:
    plain = [
        f"{key}={value}" for key, value in arguments.items() if isinstance(value, (int, float, str)) and not key.startswith("_")
    ]
    return f" {code(', '.join(plain))}" if plain else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _held_out(content: Mapping[str, Any] | None) -> str:
    evaluations = (content or {}).get("evaluations") or []
    if not evaluations:
        return ""
    first, last = evaluations[0], evaluations[-1]
    level = (content or {}).get("level", 0.95)
    before, after = _known(first["scores"]), _known(last["scores"])
    if first is last:
        head, rows = ["", f"after {first['batch']} batches"], [["held-out score", _interval(list(after.values()), level)]]
    else:
        head = ["", f"after {first['batch']} batches", f"after {last['batch']} batches", "change"]
        pairs = [after[key] - before[key] for key in before if key in after]
        rows = [
            [
                "held-out score",
                *(_interval(list(scores.values()), level) for scores in (before, after)),
                _interval(pairs, level, "+"),
            ]
        ]
        old, new = first.get("measures") or {}, last.get("measures") or {}
        for key in [*_OVERALL, *sorted(key for key in new if _CRITERION.fullmatch(key))]:
            if old.get(key) is not None and new.get(key) is not None:
                found = _CRITERION.fullmatch(key)
                label = code(found[1]) if found else _OVERALL[key]
                digits = 1 if key.endswith("length") else 3
                rows.append(
                    [label, *(f"{value:.{digits}f}" for value in (old[key], new[key])), f"{new[key] - old[key]:+.{digits}f}"]
                )
    said = (
        f"Held-out scores, in [0, 1]: the mean over {len(after)} prompts of the criteria met, weighted by the rubric's own points; "
        f"in brackets {level:.0%} bootstrap intervals over prompts{'' if first is last else ', of the change over pairs'}."
    )
    return "## Scores\n\n" + said + "\n\n" + _table(head, rows)


def _known(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in scores.items() if value is not None}


def _interval(values: Sequence[float], level: float, sign: str = "") -> str:
    if not values:
        return "not known"
    mean, low, high = bootstrap_interval(torch.tensor(values, dtype=torch.float64), level)
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _tasks(content: Mapping[str, Any] | None) -> str:
    evaluations = (content or {}).get("evaluations") or []
    if not evaluations:
        return ""
    first, last = evaluations[0], evaluations[-1]
    shown = [first] if first is last else [first, last]
    names = [name for name in last["scores"] if "_stderr" not in name]
    rows = [[code(name), *(_number(entry["scores"].get(name)) for entry in shown)] for name in names]
    settings = (content or {}).get("settings") or {}
    limit = f", at most {escaped(settings['limit'])} questions a task" if settings.get("limit") else ""
    said = f"Tasks of lm-evaluation-harness{limit}:"
    return said + "\n\n" + _table(["", *(f"after {entry['batch']} batches" for entry in shown)], rows)


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _loading(config: Mapping[str, Any], adapter: bool) -> str:
    if adapter:
        loading = (
            "from peft import AutoPeftModelForCausalLM\n\n"
            "model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)  # needs the base policy, too\n"
        )
        return f"## Load it\n\n```python\n{loading}```"
    return (
        "## Load it\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)\ntokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
        'chat = [{"role": "user", "content": "How long should green tea steep?"}]\n'
        'inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=72)[0]))\n```\n\n"
        "```sh\nvllm serve FOLDER\nlightning_focal eval --ckpt_path FOLDER --tasks my_task.yaml\n```"
    )
