"""What ``lightning_focal`` says of itself: commands, their help, and what is wrong with an option; nothing slow is imported.

The help of every command, and the arguments of every class, lie as files in ``help/``; ``python docs/options.py`` writes them from
the parsers, and the tests compare.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_focal.files import why_unreadable
from lightning_focal.terminal import near

__all__ = ["EXAMPLES", "HELP", "OVERVIEW", "class_arguments", "help_of", "mistakes", "options_of"]

HELP = Path(__file__).parent / "help"
"""Folder of the files of help."""

_IN_FILES = ("config", "model", "data", "reward", "trainer")
"""Options whose value can be a YAML file of keys; a task of the harness, say, is YAML with tags of its own."""

_COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "run": {
        "fit": ("train a policy; after a kill, the same with --ckpt_path=last", "--config configs/focal_tiny.yaml"),
        "validate": ("answer the held-out prompts once", "--config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"),
        "test": ("answer the test prompts once", "--config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"),
        "predict": ("write responses and their scores", "--config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"),
    },
    "prepare": {
        "sft": ("a supervised warm start that ends in a policy folder", "--config configs/sft_chain_sum.yaml"),
        "rephrase": (
            "questions in, pairs with a rephrasing out",
            "questions.jsonl --out pairs.jsonl --server http://localhost:8000/v1 --model NAME",
        ),
    },
    "look": {
        "eval": (
            "tasks of lm-evaluation-harness: checkpoints and exported folders",
            "--ckpt_path RUN/checkpoints/last.ckpt --tasks configs/eval/rubric.yaml --out eval.json",
        ),
        "lm-eval": (
            "the harness's own command line, with a model for checkpoints",
            "run --model lightning_focal --model_args ckpt=RUN/checkpoints/last.ckpt --tasks gsm8k",
        ),
        "judge": (
            "is a judge's server there; --agreement: how good is a judge",
            "--check --url http://localhost:8000/v1 --model NAME",
        ),
        "rubrics": ("what is in a file of rubrics; --generate: write one", "configs/data/everyday/train.jsonl"),
    },
    "scale": {
        "plan": ("parameters and memory of every process, before a run", "--config configs/scale/qwen3_8b_fsdp2.yaml"),
        "export": (
            "a checkpoint, whole or in shards, into a Hugging Face folder",
            "--ckpt_path RUN/checkpoints/last.ckpt --out POLICY",
        ),
    },
    "study": {
        "report": ("what came out of some runs, as one HTML file", "runs/focal_tiny"),
        "replay": (
            "recorded rollouts under another strategy, without a model",
            "--rollouts RUN/rollouts --reward=FocalReward --grid '{gamma: [0, 1, 3]}'",
        ),
        "ablate": ("a grid of runs over seeds: one table, one figure", "--config configs/ablations/gamma.yaml"),
    },
}

EXAMPLES = {name: f"lightning_focal {name} {words}" for group in _COMMANDS.values() for name, (_, words) in group.items()}
"""A command line of every command."""

_LINES = "\n".join(
    f"{title}\n" + "".join(f"  {name:<10} {about}\n" for name, (about, _) in group.items()) for title, group in _COMMANDS.items()
)

OVERVIEW = f"""\
usage: lightning_focal COMMAND [options]

Reinforcement learning on rubrics of many criteria (Focal Reward, static
weights, their neighbours) and without labels (Co-rewarding-I, -II and -III,
majority voting, self-certainty, entropy).

{_LINES}
options
  COMMAND --help                      every option of a command, an example
  fit --reward.help FocalReward       the options of one class
  fit --config FILE --print_config    the whole configuration a run would use
  fit --config FILE --quiet           nothing but warnings and what came out

Any value is overridden on the command line:
  {EXAMPLES["fit"]} \\
      --reward=StaticReward --reward.weights=uniform --model.group_size=16
"""


def help_of(command: str, args: Sequence[str] = ()) -> str:
    """Return the help of a command; ``judge --agreement`` and ``rubrics --generate`` have their own.

    >>> help_of("report").splitlines()[0]
    'usage: lightning_focal report [--out OUT] [--rollouts ROLLOUTS]'
    """
    part = {"judge": "agreement", "rubrics": "generate"}.get(command)
    page = f"{command}-{part}" if part and any(arg.partition("=")[0] == f"--{part}" for arg in args) else command
    body, _, shared = (
        (HELP / f"{page}.txt").read_text(encoding="utf-8").rstrip().partition("\n@fit ")
    )  # the last paragraphs of fit
    if shared:
        body = "\n\n".join([body, *(HELP / "fit.txt").read_text(encoding="utf-8").rstrip().split("\n\n")[-int(shared) :]])
    return f"{body}\n\nexample:\n  {EXAMPLES[command]}\n"


def options_of(command: str, args: Sequence[str] = ()) -> dict[str, str]:
    """Return the options of a command without their dashes, each with what its line of help says next.

    >>> options_of("report")["out"]
    'OUT File; report.html in the first run folder by default.'
    """
    found = re.findall(r"^  (?:-\w(?: \w+)?, )?--([\w.-]+) ?(.*(?:\n {24}.*)*)", help_of(command, args), re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


@functools.cache
def class_arguments() -> dict[str, list[str] | None]:
    """Return the arguments of every class that a configuration can name, by the last part of its path; None = it takes any.

    >>> class_arguments()["TeacherReference"]
    []
    """
    known: dict[str, list[str] | None] = json.loads((HELP / "classes.json").read_text(encoding="utf-8"))
    return known


def mistakes(command: str, args: Sequence[str]) -> Iterator[str]:
    """Yield what is certainly wrong with options and keys: unknown ones, ones without their value, files and classes that are not there.

    Other values are left to the parser, and so is everything below a class of somebody else.

    Args:
        command: its name.
        args: as on the command line, behind the name.

    >>> next(mistakes("report", ["--otu=x", "runs/a"]))
    'there is no option --otu (did you mean --out?)'
    """
    keys = _Keys(options_of(command, args))
    ours = args[: args.index("--")] if "--" in args else args
    split = [("--config" if arg == "-c" else arg).partition("=") for arg in ours]
    given = [
        (key[2:].rstrip("+"), value if equals else following)
        for (key, equals, value), following in zip(split, [*ours[1:], ""], strict=True)
        if re.match(r"--[A-Za-z]", key)
    ]
    if "\npositional arguments:" not in help_of(command, args):
        before = ["--x=", *ours]
        alone = [
            word for word, last in zip(ours, before, strict=False) if not word.startswith("-") and last[:1] == "-" and "=" in last
        ]
        yield from (f"`{command}` takes options alone, got {word!r}{keys.meant(word)}" for word in alone)
    for (option, equals, _), following in zip(split, [*ours[1:], "--"], strict=True):
        if not equals and following.startswith("--") and keys.needs_value(option[2:]):
            yield f"{option} must have a value"
    for key, file in given:
        if key == "config" and key in keys.options and not file.startswith("{") and not Path(file).is_file():
            there = [str(path) for path in Path(file).parent.glob("*.y*ml")]
            yield f"`--config` must be an existing file, got {file!r}{near(file, there, 0.6)} (looked in {Path.cwd()})"
        elif key.partition(".")[0] in _IN_FILES and file.endswith((".yaml", ".yml")) and Path(file).is_file():
            if (why := why_unreadable(Path(file), keys=key == "config")) is not None:
                yield f"`--{key}`: {why}"
            elif key == "config" and "trainer" in keys.options:  # a configuration of this very command
                yield from (f"{file}: {words}" for words in keys.wrong_in(yaml.safe_load(Path(file).read_text(encoding="utf-8"))))
    for key, value in given:
        owner = key.removesuffix(".class_path").replace(".init_args", "")
        if re.fullmatch(r"[A-Za-z][\w.]*", value) and (owner in keys.chosen or _arguments_of(value) is not None):
            keys.chosen[owner] = value
            yield from keys.wrong_class(owner, value)
        if (hint := keys.unknown(key, "--")) is not None:
            yield f"there is no option --{key}{hint}"


class _Keys:
    """Which keys a command takes.

    Args:
        options: see :func:`options_of`.
    """

    def __init__(self, options: dict[str, str]) -> None:
        self.options = options
        shown = {name.removesuffix(".help"): words for name, words in options.items() if name.endswith(".help")}
        fixed = {name: re.search(r"Show the help for (\w+) and exit", words) for name, words in shown.items()}
        self.chosen = {name: found[1] if found else "" for name, found in fixed.items()}
        """The class at each key that takes one; empty where none is known."""

    def needs_value(self, key: str) -> bool:
        """Say whether a key is one that its help shows with a value: ``--out OUT``, ``--ask {ranking,scores}``."""
        shown = self.options.get(key, "").partition(" ")[0]
        return shown.startswith("{") or (shown != "" and shown == key.rpartition(".")[2].upper())

    def unknown(self, key: str, dashes: str = "") -> str | None:
        """Return a hint, maybe an empty one, where a key is not there; None where it is, or may be."""
        key = key.replace(".init_args.", ".")
        above = [key[: found.start()] for found in re.finditer(r"\.", key)]
        if key in self.options or any(name.startswith(f"{key}.") for name in self.options):
            return None
        if owner := next((name for name in reversed(above) if name in self.chosen), None):
            known = _arguments_of(self.chosen[owner])
            name = key.removeprefix(f"{owner}.").partition(".")[0]
            if known is None or name in (*known, "class_path", "init_args", "dict_kwargs", "help"):
                return None
            key, names = f"{owner}.{name}", [f"{owner}.{name}" for name in known]
        elif any(name in self.options and not self.options[name].startswith("CONFIG ") for name in above):
            return None  # a mapping
        else:
            more = {name: _arguments_of(path) or () for name, path in self.chosen.items()}
            names = [*self.options, *(f"{name}.{argument}" for name in more for argument in more[name])]
            begun = [name for name in names if name.startswith(key) and "." not in name[len(key) :]]
            names = begun or [name for name in names if name.rpartition(".")[2] == key.rpartition(".")[2]] or names
        alike = 0.0 if any(name.startswith(key) for name in names) else 0.5
        return near(key, [name for name in names if not name.endswith("help")], alike).replace("mean ", f"mean {dashes}")

    def meant(self, word: str) -> str:
        """Return a hint at the option that a word without dashes was meant for."""
        if word.partition("=")[0] in self.options:
            return f" (did you mean --{word}?)"
        return f" (did you mean --config {word}?)" if "config" in self.options and Path(word).is_file() else ""

    def wrong_in(self, node: Any, path: str = "", inside: bool = False) -> Iterator[str]:
        """Yield what is wrong in a part of a configuration; inside of a class keys are those of its arguments."""
        if isinstance(node, list):
            for entry in node:
                yield from self.wrong_in(entry, path, True)
        if isinstance(node, str) and path in self.chosen and re.fullmatch(r"[A-Za-z][\w.]*", node) and not node.endswith("ml"):
            node = {"class_path": node}
        if not isinstance(node, Mapping):
            return
        if isinstance(named := node.get("class_path"), str):
            self.chosen[path.replace(".init_args", "")] = named
            yield from self.wrong_class(path, named)
            node = node.get("init_args")
            for name, value in node.items() if isinstance(node, Mapping) else ():
                here = f"{path}.init_args.{name}"
                if (known := _arguments_of(named)) is not None and name not in known:
                    yield f"there is no key `{here}`{near(str(name), known)}"
                yield from self.wrong_in(value, here, True)
            return
        for name, value in node.items():
            here = f"{path}.{name}" if path else str(name)
            if not inside and (hint := self.unknown(here)) is not None:
                yield f"there is no key `{here}`{hint}"
            else:
                yield from self.wrong_in(value, here, inside)

    def wrong_class(self, key: str, path: str) -> Iterator[str]:
        """Yield the class that is not there, where it is like one of this package."""
        _, _, shown = self.options.get(key, "").partition("known subclasses:")
        known = shown.replace(" ", "").rstrip(")").split(",")  # a long path is broken over lines
        name, names = path.rpartition(".")[2], [*class_arguments(), *(each.rpartition(".")[2] for each in known)]
        if not _is_ours(path) or name in names or not (hint := near(name, names, 0.8)) or _is_there(path):
            return
        kind = re.search(r"subclass of (\w+) ", self.options.get(f"{key}.help", ""))
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind[1]).lower() if kind else "class"
        ours = ", ".join(each.rpartition(".")[2] for each in known if each.startswith("lightning_focal."))
        more = f"; known are {ours}, and the path of any other" if ours and not key.startswith("trainer.") else ""
        yield f"`{key}` must be a {words}, got {path!r}{hint}{more}"


def _arguments_of(path: str) -> list[str] | None:
    """Those of a class of this package; None = they are not known, or it takes any."""
    return class_arguments().get(path.rpartition(".")[2]) if _is_ours(path) else None


def _is_there(path: str) -> bool:
    """Whether a module of this package holds a class; it is read, not imported."""
    module, _, name = path.rpartition(".")
    file = HELP.parents[1].joinpath(*module.split(".")).with_suffix(".py")
    return file.is_file() and re.search(rf"^class {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _is_ours(path: str) -> bool:
    return path.startswith("lightning_focal.") or "." not in path
