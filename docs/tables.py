"""Write docs/reference/configuration.md from the code: signatures and docstrings.

    python docs/tables.py [FILE]

Every class that a configuration can name is found through the ``__all__`` of its package. A page may also hold single tables,
between ``<!-- arguments: CLASS, at KEY -->`` and ``<!-- end -->`` (``at KEY, only NAME NAME`` for some of its arguments); those of
all pages are written, too, as are the tables of check kinds and rubric formats in docs/rubrics.md.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

from docstring_parser import parse
from jsonargparse import capture_parser

REFERENCE = Path(__file__).parent / "reference"
_BLOCK = re.compile(
    r"(?P<head><!-- arguments: (?P<target>[\w.]+), at (?P<key>[\w.]+)(?:, only (?P<only>[\w ]+))? -->\n).*?(?P<foot><!-- end -->)",
    re.DOTALL,
)
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?(?:[\w.]+\.)?(\w+)`")
Row = tuple[str, str, str, str]

HEAD = """\
# Configuration

Every key of `fit` and `sft` with its type, default and meaning, made from the code by `python docs/tables.py`. In a file, a class
stands as `class_path` (its name alone, where it is one of this package) and `init_args`; on the command line `--reward=FocalReward
--reward.gamma=1`. A key that ends in a class of its own opens a section further down.

```yaml
reward:
  class_path: FocalReward
  init_args:
    gamma: 1.0
    judge:
      class_path: RuleJudge
```

"""
TRAINER = """\
## Trainer: `trainer`

Lightning's own keys (`lightning_focal fit --help` ends with them), with these defaults: {defaults}.

`limit_train_batches`, `limit_val_batches` and `overfit_batches` take a count or a share: `1` is one batch, `1.0` are all of them.
Held-out scores before and after training keep to `limit_val_batches`, too. `overfit_batches` meets the same batches every epoch.
`fast_dev_run` tries a run out: it writes nothing, and leaves a run that `ckpt_path` names as it is.

What Lightning would do to a policy in another way than it says is refused in a sentence, before a weight is read:

| | in its place |
|---|---|
| `gradient_clip_val`, `gradient_clip_algorithm` | `model.update.gradient_clip_val`; in `sft` Lightning's own work |
| `accumulate_grad_batches`, `GradientAccumulationScheduler` | `model.update.micro_batch_size`; in `sft` Lightning's own work |
| `default_root_dir` | `run_dir` |
| `barebones` | `trainer.logger: false`, `trainer.enable_checkpointing: false` |
| `model_registry` | `ckpt_path` is a file |
| `AsyncCheckpointIO` | a checkpoint gets its name when it is whole |
| `OnExceptionCheckpoint` | `checkpoint.every_minutes` |
| `BatchSizeFinder` | `model.gradient_checkpointing`, `model.update.micro_batch_size` |
| `LearningRateFinder` | runs of their own, `model.optimizer.init_args.lr` |
| `StochasticWeightAveraging`, `WeightAveraging`, `EMAWeightAveraging` | `lightning_focal.callbacks.EMATeacher` |
| `BaseFinetuning`, `BackboneFinetuning` | `model.lora` |
| `ModelPruning` | nothing |
| `SpikeDetection` | `model.update.max_bad_steps` |

Every other argument and callback of Lightning works; `tests/test_switches.py` goes through all of them. `Timer` wants
`interval: step` in its `init_args` written out.
"""


def arguments(target: str | type) -> list[Row]:
    """Name, type, default and meaning of each argument of a class, given as such or by its import path."""
    cls: Any = getattr(import_module(target.rsplit(".", 1)[0]), target.rsplit(".", 1)[1]) if isinstance(target, str) else target
    docs = [inspect.cleandoc(vars(part).get("__doc__") or "") for part in reversed(cls.__mro__)]  # an argument may be inherited
    said = {parameter.arg_name: parameter.description or "" for doc in docs for parameter in parse(doc).params}
    rows = []
    for parameter, names in _parameters(cls):
        if parameter.name not in said:
            raise ValueError(f"{cls.__name__}: argument {parameter.name!r} is not documented")
        kind = _type(parameter.annotation, names)
        rows.append((parameter.name, kind, _default(parameter.default), _markdown(said[parameter.name])))
    return rows


def _parameters(cls: type) -> list[tuple[inspect.Parameter, dict[str, Any]]]:
    """Arguments of a class, those that it hands on to its parent as ``**kwargs`` included, with the names around each."""
    makers = [part for part in cls.__mro__ if "__init__" in vars(part) and part is not object]
    found: dict[str, tuple[inspect.Parameter, dict[str, Any]]] = {}
    for part in makers:
        parameters = list(inspect.signature(part.__init__).parameters.values())[1:]
        names = vars(import_module(part.__module__))
        kept = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        found.update({p.name: (p, names) for p in kept if p.name not in found})
        if len(kept) == len(parameters) or not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return list(found.values())


def _type(annotation: Any, names: Mapping[str, Any] = MappingProxyType({})) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    for word in set(re.findall(r"\b[A-Z]\w+\b", text)):
        alias = names.get(word)
        if alias is not None and not isinstance(alias, type) and str(alias).startswith(("typing.Literal", "typing.Union")):
            spelt = str(alias).replace("typing.", "")
            spelt = " | ".join(_split(spelt[6:-1])) if spelt.startswith("Union[") else spelt
            text = re.sub(rf"\b{word}\b", lambda _, spelt=spelt: spelt, text)
        elif alias is not None and type(alias).__name__ == "UnionType":
            text = re.sub(rf"\b{word}\b", lambda _, alias=alias: str(alias).replace("typing.", ""), text)
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace('"', "").replace("'", "")
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: " | ".join(word.strip() for word in found[1].split(",")), text)
    return f"`{text}`".replace("|", "\\|").replace("None", "null") if text != "_empty" else ""


def _split(text: str) -> list[str]:
    """Members of a union: split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _default(value: object) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[value]
    if type(value).__module__ == "builtins":
        return f"`{value}`".replace("|", "\\|")
    return f"`{type(value).__name__}()`"


def _markdown(text: str) -> str:
    text = _ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")
    return text.replace("|", "\\|")


def table(target: str | type, key: str, only: Sequence[str] = ()) -> str:
    """The table of one class, its arguments spelt as keys of a config; all of them, or those named alone."""
    rows = arguments(target)
    unknown = set(only) - {name for name, *_ in rows}
    if unknown:
        raise ValueError(f"{target} has no argument {sorted(unknown)[0]!r}")
    return _table([(f"{key}.{name}", *rest) for name, *rest in rows if not only or name in only])


def _table(rows: list[Any]) -> str:
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in rows]) + "\n"


def filled(page: str) -> str:
    """A page with every single table as the code has it."""

    def fill(found: re.Match[str]) -> str:
        return found["head"] + table(found["target"], found["key"], (found["only"] or "").split()) + found["foot"]

    page = _BLOCK.sub(fill, page)
    for name, made in (("checks", checks), ("formats", formats)):
        if f"<!-- {name}:begin -->" in page:
            head, _, rest = page.partition(f"<!-- {name}:begin -->")
            page = f"{head}<!-- {name}:begin -->\n{made()}\n<!-- {name}:end -->{rest.partition(f'<!-- {name}:end -->')[2]}"
    return page


def checks() -> str:
    """The kinds of rule checks: kind, arguments, an example, when it is met."""
    from lightning_focal.judges.rules.registry import CHECKS, described

    rows = ["| kind | arguments | example | met when |", "|---|---|---|---|"]
    for name, kind in CHECKS.items():
        told = []
        for argument, (annotation, default) in kind.parameters.items():
            given = "required" if default is ... else f"default {json.dumps(default)}"
            told.append(f"`{argument}`: {described(annotation)}, {given}")
        example = json.dumps(kind.example).replace("|", "\\|")
        rows.append(f"| `{name}` | {'; '.join(told)} | `{example}` | {kind.summary} |")
    return "\n".join(rows)


def formats() -> str:
    """The rubric formats: what a row holds, and the score in its own terms."""
    from lightning_focal.rubrics import FORMATS

    rows = ["| format | fields of a row | score in its own terms |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| `{name}` | {known.fields} | {known.terms} |" for name, known in sorted(FORMATS.items()))])


def classes(package: str, base: type, itself: bool = False) -> list[type]:
    """Concrete classes of a kind that a package names in ``__all__``, in its order; of several packages for ``"*"``."""
    names = [package] if package != "*" else packages()
    found = [getattr(module, name) for module in map(import_module, names) for name in getattr(module, "__all__", ())]
    kinds = [c for c in found if isinstance(c, type) and issubclass(c, base) and (itself or c is not base)]
    return [c for c in dict.fromkeys(kinds) if not inspect.isabstract(c)]


def packages() -> list[str]:
    """Names of the packages within this one."""
    import lightning_focal

    return [f"lightning_focal.{module.name}" for module in pkgutil.iter_modules(lightning_focal.__path__) if module.ispkg]


def section(title: str, said: str, key: str, kinds: list[type], option: str | None = None) -> str:
    """Tables of classes that one key takes; those with the same arguments share one."""
    tables: dict[str, list[type]] = {}
    for kind in kinds:
        tables.setdefault(table(kind, key), []).append(kind)
    parts = [f"## {title}\n", f"{said}\n"]
    for text, sharing in tables.items():
        parts.append(f"### {', '.join(kind.__name__ for kind in sharing)}\n")
        for kind in sharing:
            line = _markdown(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0])
            parts.append((f"`--{option}={kind.__name__}`. " if option else "") + line + "\n")
        parts.append(text if text.count("\n") > 2 else "No arguments.\n")
    return "\n".join(parts)


def run_keys(command: str) -> list[Row]:
    """Keys of a run that belong to no class, as the help of the command's own parser has them, then those of its checkpoints."""
    from lightning_focal.cli import FocalCLI
    from lightning_focal.commands.sft import WarmStartCLI
    from lightning_focal.runs import RunCheckpoint

    with mock.patch.dict(os.environ, COLUMNS="10000"):
        text = capture_parser(WarmStartCLI if command == "sft" else FocalCLI, command).format_help()
    found = re.findall(r"^  --(\w+) \S+\s+(\S.*) \(type: (.*), default: (.*)\)$", text, re.MULTILINE)
    spelt = {"True": "true", "False": "false"}
    rows = [(key, _type(kind), f"`{spelt.get(default, default)}`", _markdown(said)) for key, said, kind, default in found]
    return [*rows, *((f"checkpoint.{name}", *rest) for name, *rest in arguments(RunCheckpoint))]


def page() -> str:
    """The whole page."""
    from lightning.pytorch import Callback, LightningDataModule

    from lightning_focal import data, generation, judges, modules, rewards
    from lightning_focal.models import Chat, Lora
    from lightning_focal.trainer import TRAINER_DEFAULTS

    del data, judges
    module = importlib.import_module
    said = "One of the sections below; exactly one strategy a run."
    parts = [HEAD + "## Run\n\nOf `fit`, `validate`, `test` and `predict`:\n\n" + _table(run_keys("fit"))]
    parts.append("Of `sft`:\n\n" + _table(run_keys("sft")))
    first = [rewards.FocalReward, rewards.StaticReward]
    strategies = [*first, *(c for c in classes("lightning_focal.rewards", rewards.RewardStrategy, itself=True) if c not in first)]
    parts.append(section("Strategy: `reward`", said, "reward", strategies, "reward"))
    for title, base, key in (
        ("Weighting: `reward.weighting`", rewards.Weighting, "reward.weighting"),
        ("Reward rule: `reward.reward`", rewards.RewardRule, "reward.reward"),
        ("Advantage: `reward.advantage`", rewards.Advantage, "reward.advantage"),
        ("Source of scores: `reward.source`", rewards.ScoreSource, "reward.source"),
    ):
        said = "A [part](../concepts/advantages.md) of a strategy."
        parts.append(section(title, said, key, classes("lightning_focal.rewards", base), key))
    judge = module("lightning_focal.judges").Judge
    said = "Who judges the criteria, see [your own judge](../howto/judge.md)."
    parts.append(section("Judge: `reward.judge`", said, "reward.judge", classes("lightning_focal.judges", judge), "reward.judge"))
    parts.append(section("Module: `model`", "Of `fit`.", "model", [modules.GRPOModule]))
    parts.append(section("Sampling: `model.sampling`", "And `model.val_sampling`.", "model.sampling", [generation.Sampling]))
    parts.append(section("Update: `model.update`", "How a batch becomes optimiser steps.", "model.update", [modules.Update]))
    key, to_learn = "model.dynamic_sampling", "See [where there is something to learn](../howto/dynamic_sampling.md)."
    parts.append(section(f"Dynamic sampling: `{key}`", to_learn, key, [modules.DynamicSampling]))
    sharding = type(inspect.signature(modules.policy_module.PolicyModule).parameters["sharding"].default)
    parts.append(section("Sharding: `model.sharding`", "See [eight GPUs](../howto/eight_gpus.md).", "model.sharding", [sharding]))
    said = "See [policies that think](../howto/policy.md#policies-that-think)."
    parts.append(section("Chat: `model.chat`", said, "model.chat", [Chat]))
    parts.append(section("Adapters: `model.lora`", "Needs `pip install -e '.[lora]'`.", "model.lora", [Lora]))
    kinds = classes("lightning_focal.generation", generation.Generator)
    parts.append(section("Generator: `model.generator`", "Who rolls out.", "model.generator", kinds, "model.generator"))
    kinds = classes("lightning_focal.environments", module("lightning_focal.environments").Environment)
    said, key = "See [more than one turn](../howto/environments.md).", "model.environment"
    parts.append(section(f"Environment: `{key}`", said, key, kinds, key))
    kinds = classes("lightning_focal.modules", modules.Reference)
    parts.append(
        section("Reference: `model.reference`", "What the KL term compares with.", "model.reference", kinds, "model.reference")
    )
    said = "Any scheduler of torch, or this one."
    parts.append(
        section("Learning rate: `model.lr_scheduler`", said, "model.lr_scheduler", [modules.WarmupCosine], "model.lr_scheduler")
    )
    parts.append(section("Warm start: `model` of `sft`", "The rest of `sft` is Lightning's.", "model", [modules.SFTModule]))
    kinds = classes("lightning_focal.data", LightningDataModule)
    parts.append(section("Data: `data`", "Where prompts come from.", "data", kinds, "data"))
    parts.append(
        section("Curriculum: `data.curriculum`", to_learn, "data.curriculum", [module("lightning_focal.data").Curriculum])
    )
    kinds = [c for c in classes("*", Callback) if not issubclass(c, rewards.RewardStrategy) and arguments(c)]
    said = "Entries of `trainer.callbacks`, beside Lightning's own. `HeldOut`, `RolloutTable`, `ConsoleReport` and `JudgeWatch` are in\n"
    said += "every run unless the configuration brings its own."
    parts.append(section("Callbacks: `trainer.callbacks`", said, "init_args", kinds))
    defaults = ", ".join(f"`{key}: {_default(value).strip('`')}`" for key, value in TRAINER_DEFAULTS.items())
    parts.append(TRAINER.format(defaults=defaults))
    return "\n".join(parts)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE / "configuration.md"
    path.write_text(page(), encoding="utf-8")
    for other in REFERENCE.parent.rglob("*.md") if len(sys.argv) == 1 else ():
        text = other.read_text(encoding="utf-8")
        if (there := filled(text)) != text:
            other.write_text(there, encoding="utf-8")
