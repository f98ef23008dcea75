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

_PAPERS = {"FocalReward": "2605.26579", "CoRewardingI": "2508.00410", "CoRewardingII": "2508.00410"}
"""On arXiv, by strategy."""
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
    """Read ``held_out`` and ``lm_eval`` of a run folder, None where there is none; evaluations after ``batch`` are left out."""
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
    """Write the card."""
    records, strategy = records or {}, _strategy(config)
    blocks = [
        _header(config, strategy, adapter),
        f"# {escaped(name)}",
        _opening(config, strategy, adapter, part),
        _facts(config, strategy, batch),
        _held_out(records.get("held_out")),
        _tasks(records.get("lm_eval")),
        f"## Load it\n\n{_LOAD_ADAPTER if adapter else _LOAD}",
        "The licence is that of the base policy and of the data; this card claims none.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


Strategy = tuple[str, Mapping[str, Any]] | None
"""Short name and arguments of a run's reward strategy."""


def _strategy(config: Mapping[str, Any]) -> Strategy:
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    for entry in [config.get("reward"), *(callbacks if isinstance(callbacks, list) else [callbacks])]:
        path, arguments = (entry.get("class_path"), entry.get("init_args")) if isinstance(entry, Mapping) else (entry, None)
        if isinstance(path, str) and (entry is config.get("reward") or ".rewards." in path):
            return path.rpartition(".")[2], arguments or {}
    return None


def _header(config: Mapping[str, Any], strategy: Strategy, adapter: bool) -> str:
    base = str(config["model"]["policy"])
    content: dict[str, Any] = {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        content["base_model"] = base
    content["tags"] = ["lightning-focal", "reinforcement-learning" if strategy else "sft"]
    if strategy and re.fullmatch(r"\w+", strategy[0]):
        content["tags"].append(re.sub(r"(?<=[a-z])(?=[A-Z])", "-", strategy[0]).lower())
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _opening(config: Mapping[str, Any], strategy: Strategy, adapter: bool, part: str) -> str:
    what = "The slow teacher of a policy that started from" if part == "teacher" else "A policy that started from"
    what = f"{'Low-rank adapters for' if adapter else what} {code(config['model']['policy'])}, trained"
    if strategy is None:
        return f"{what} with lightning-focal."
    paper = _PAPERS.get(strategy[0])
    source = f" ([arXiv:{paper}](https://arxiv.org/abs/{paper}))" if paper else ""
    return f"{what} by reinforcement learning with {code(strategy[0])}{source} of lightning-focal."


def _facts(config: Mapping[str, Any], strategy: Strategy, batch: int | None) -> str:
    model, data = config["model"], config.get("data") or {}
    data = data if isinstance(data, Mapping) else {}
    inside, optimizer = data.get("init_args", data), model.get("optimizer") or {}
    rows: list[tuple[str, str]] = [("base policy", code(model["policy"]))]
    if strategy is not None:
        rows.append(("method", code(strategy[0]) + _arguments(strategy[1])))
    if model.get("lora"):
        rows.append(("trained", "low-rank adapters" + _arguments(model["lora"])))
    if data.get("class_path"):
        rows.append(("data", code(str(data["class_path"]).rpartition(".")[2])))
    rows += [(f"data: {key}", code(inside[key])) for key in ("train", "val", "task") if inside.get(key) is not None]
    if model.get("group_size") is not None:
        rows.append(("rollouts a prompt", code(model["group_size"])))
    if isinstance(optimizer, Mapping) and optimizer.get("class_path"):
        name = code(str(optimizer["class_path"]).rpartition(".")[2])
        rows.append(("optimiser", name + _arguments(optimizer.get("init_args"))))
    rows.append(("seed", code(config.get("seed_everything", "not set"))))
    if batch is not None:
        rows.append(("batches", code(batch)))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("lightning-focal", "torch", "transformers")]
    return _table(["", ""], [*rows, ("versions, at export", code(", ".join(versions)))])


def _arguments(arguments: Any) -> str:
    items = arguments.items() if isinstance(arguments, Mapping) else ()
    plain = [f"{key}={value}" for key, value in items if isinstance(value, (int, float, str)) and not key.startswith("_")]
    return f" {code(', '.join(plain))}" if plain else ""


def _held_out(content: Mapping[str, Any] | None) -> str:
    evaluations = (content or {}).get("evaluations") or []
    if not evaluations:
        return ""
    first, last, level = evaluations[0], evaluations[-1], (content or {}).get("level", 0.95)
    before, after = ({key: score for key, score in entry["scores"].items() if score is not None} for entry in (first, last))
    head, row = ["", f"after {first['batch']} batches"], ["held-out score", _interval(list(before.values()), level)]
    rows = [row]
    if first is not last:
        head += [f"after {last['batch']} batches", "change"]
        changes = [after[key] - before[key] for key in before if key in after]
        row += [_interval(list(after.values()), level), _interval(changes, level, "+")]
        old, new = first.get("measures") or {}, last.get("measures") or {}
        for key in [*_OVERALL, *sorted(key for key in new if _CRITERION.fullmatch(key))]:
            if old.get(key) is not None and new.get(key) is not None:
                found, digits = _CRITERION.fullmatch(key), 1 if key.endswith("length") else 3
                values = [f"{old[key]:.{digits}f}", f"{new[key]:.{digits}f}", f"{new[key] - old[key]:+.{digits}f}"]
                rows.append([code(found[1]) if found else _OVERALL[key], *values])
    said = (
        f"Held-out scores, in [0, 1]: the mean over {len(after)} prompts of the criteria met, weighted by the rubric's own points; "
        f"in brackets {level:.0%} bootstrap intervals over prompts{'' if first is last else ', of the change over pairs'}."
    )
    return f"## Scores\n\n{said}\n\n{_table(head, rows)}"


def _interval(values: Sequence[float], level: float, sign: str = "") -> str:
    if not values:
        return "not known"
    mean, low, high = bootstrap_interval(torch.tensor(values, dtype=torch.float64), level)
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _tasks(content: Mapping[str, Any] | None) -> str:
    evaluations = (content or {}).get("evaluations") or []
    if not evaluations:
        return ""
    shown, limit = evaluations[:: len(evaluations) - 1 or 1], ((content or {}).get("settings") or {}).get("limit")
    rows = []
    for name in [name for name in evaluations[-1]["scores"] if "_stderr" not in name]:
        values = [entry["scores"].get(name) for entry in shown]
        rows.append([code(name), *("not known" if value is None else f"{value:.4f}" for value in values)])
    said = "Tasks of lm-evaluation-harness" + (f", at most {escaped(limit)} questions a task:" if limit else ":")
    head = ["", *(f"after {entry['batch']} batches" for entry in shown)]
    return f"{said}\n\n{_table(head, rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


_LOAD_ADAPTER = """\
```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)  # needs the base policy, too
```"""
_LOAD = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
chat = [{"role": "user", "content": "How long should green tea steep?"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=72)[0]))
```

```sh
vllm serve FOLDER
lightning_focal eval --ckpt_path FOLDER --tasks my_task.yaml
```"""
