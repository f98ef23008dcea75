"""What the parsers of all commands share: help that reads well, complaints of a few lines, the Trainer's defaults."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lightning_focal.overview import example
from lightning_focal.terminal import plain_message
from lightning_focal.trainer import Trainer

__all__ = ["TRAINER_DEFAULTS", "ExampleFormatter", "HelpFormatter", "RunParser", "run_parser_settings"]

TRAINER_DEFAULTS = MappingProxyType(
    {
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
)
"""Of Lightning's Trainer, for every command that runs one."""

_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?(?:[\w.]+\.)?(\w+)`")
_KNOWN = re.compile(r", known subclasses: (?P<names>[\w., ]+)")
_DEFAULT = re.compile(r"\s+Default: ``[^`]*``\.(?= \()")  # said twice: the parser adds its own
_MANY = 5
"""More options than this are not all repeated in the line of usage."""
_SAID = tuple(
    (re.compile(pattern, re.DOTALL), words)
    for pattern, words in (
        (r'One or more arguments specifying "class_path".*?\.', "A class by its name; in a file, class_path and init_args."),
        (r"^Path to a configuration file\.$", "YAML file with these keys."),
        (r"^Path to a configuration file in json or yaml format\.$", "Configuration, YAML or JSON; of several the later wins."),
        (r"^Show the help for the given subclass of .+ and exit\.$", "Explain the options of one of its classes, and exit."),
        (r"^Show the help for \w+ and exit\.$", "Explain its options, and exit."),
        (
            r"^Print the configuration after applying .*$",
            "Print the whole configuration of a run; =skip_default leaves out defaults.",
        ),
        (
            r"^Set to an int to run seed_everything .*? seed\.(?= \()",
            "Seed of the run: weights, dice, order of prompts; true draws one.",
        ),
    )
)
"""Words of the parser's and of Lightning's own, and plainer ones in their place."""


class ExampleFormatter(argparse.HelpFormatter):
    """argparse's, with the example of the command at the end."""

    def format_help(self) -> str:
        """Return the help; a line of usage alone stays alone."""
        text, shown = str(super().format_help()), example(_program(self._prog).removeprefix("lightning_focal "))
        if not shown or "\noptions:" not in text:
            return text
        return f"{text}\nexample:\n{textwrap.indent(shown, '  ')}\n"


class HelpFormatter(ExampleFormatter, DefaultHelpFormatter):  # type: ignore[misc]
    """jsonargparse's, with a short line of usage, words in place of markup, and classes by the names that can be typed.

    >>> formatter = HelpFormatter("lightning_focal fit")
    >>> action = argparse.Action(["--model.x"], "model.x", type=int, default=3, help="``x``, see :class:`~a.b.Update`.")
    >>> formatter._get_help_string(action)
    'x, see Update. (type: %(type)s, default: %(default)s)'
    """

    def _get_help_string(self, action: argparse.Action) -> str:
        text = _DEFAULT.sub("", str(super()._get_help_string(action)))
        text = _KNOWN.sub(lambda found: _known(action.dest, found["names"]), text)
        for pattern, words in _SAID:
            text = pattern.sub(words, text)
        if str(action.metavar or "").strip("[]").startswith("{"):  # the choices stand there already
            text = text.replace("type: %(type)s, ", "").replace("type: %(type)s", "").replace(" ()", "")
        return _plain(text)

    def _get_type_str(self, action: argparse.Action) -> str | None:
        text = super()._get_type_str(action)
        return None if text is None else _short_type(str(text))

    def _expand_help(self, action: argparse.Action) -> str:
        text = str(super()._expand_help(action))
        return re.sub(r"default: (True|False)\b", lambda found: found[0].lower(), text)  # as a file spells them

    def _format_usage(self, usage: Any, actions: Any, *args: Any, **kwargs: Any) -> str:
        kept = list(actions)
        prefix = (args[1] if len(args) > 1 else kwargs.get("prefix")) or "usage: "
        if usage is None and len(kept) > _MANY:
            named = [str(action.metavar or action.dest) for action in kept if not action.option_strings]
            needed = [action for action in kept if action.option_strings and action.required and "." not in action.dest]
            named += [f"{action.option_strings[-1]} {action.metavar or action.dest.upper()}" for action in needed]
            return " ".join([f"{prefix}{_program(self._prog)}", *named, "[options]"]) + "\n\n"
        return _named(str(super()._format_usage(usage, kept, *args, **kwargs)).replace(" [options] ", " "))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return _named(str(super()._format_action_invocation(action)))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = textwrap.wrap(" ".join(text.split()), width - len(indent), break_on_hyphens=False, break_long_words=False)
        return "\n".join(indent + line for line in lines)


def _short_type(text: str) -> str:
    """A type as a file would have its values.

    >>> _short_type("Optional[Union[int, Literal['a', 'b']]]"), _short_type("dict[str, list[Union[int, str]]]")
    ('int | a | b | null', 'dict[str, list[int | str]]')
    >>> _short_type("Optional[Callable[[Optimizer], Union[LRScheduler, ReduceLROnPlateau]]]")
    'LRScheduler | ReduceLROnPlateau | null'
    """
    kind, _, rest = text.partition("[")
    if not rest.endswith("]") or not kind.isidentifier():
        return text
    parts = _split(rest[:-1])
    if kind == "Literal":
        return " | ".join(part.strip("'\"") for part in parts)
    if kind == "Callable":
        return _short_type(parts[-1])
    if kind not in ("Optional", "Union"):
        return f"{kind}[{', '.join(map(_short_type, parts))}]"
    return " | ".join([*map(_short_type, parts), *(["null"] if kind == "Optional" else [])])


def _split(text: str) -> list[str]:
    """Members of a type: split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _known(key: str, names: str) -> str:
    """Classes that a key takes, by name; of Lightning's own keys only what is ours."""
    classes = [name.strip() for name in names.split(",")]
    if key.startswith("trainer."):
        classes = [name for name in classes if name.startswith("lightning_focal.callbacks.")]
    short = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in classes))
    return f", known: {', '.join(short)}" if short else ""


def _plain(text: str) -> str:
    return re.sub(r"\bNone\b", "null", _ROLE.sub(r"\1", text).replace("``", ""))


def _named(text: str) -> str:
    return text.replace("CONFIG | CLASS_PATH_OR_NAME | .INIT_ARG_NAME VALUE", "NAME").replace("CLASS_PATH_OR_NAME", "NAME")


def _program(prog: str) -> str:
    return prog.replace(" [options]", "")


class RunParser(LightningArgumentParser):
    """A parser of a command that runs the Trainer: what a person changes most comes first, Lightning's own keys last."""

    titles: ClassVar[dict[str, str]] = {
        "reward": "reward: the strategy (--reward.help NAME lists the options of one)",
        "model": "model: policy, rollouts, updates",
        "model.sampling": "model.sampling: how training rollouts are drawn",
        "model.update": "model.update: how a batch becomes optimiser steps",
        "model.sharding": "model.sharding: how the policy is split over processes",
        "data": "data: prompts (--data.help NAME lists the options of one)",
        "checkpoint": "checkpoint: what a run goes on from",
        "trainer": "trainer: Lightning's own",
    }
    """Keys in their order, and the headings of their options."""
    strategies: ClassVar[Callable[[], list[str]]] = list
    """Names of known strategies, for a complaint about an unknown one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)

    def format_help(self) -> str:
        """Return the help, its groups in order and under headings of our own."""
        given: list[Any] = list(self._action_groups)  # type: ignore[has-type]
        names = list(self.titles)
        titles = [(group, group.title, group.description) for group in given]
        try:
            ranked = []
            for group in given:
                options = [action.dest for action in group._group_actions if not action.dest.endswith(".help")]
                shared = _shared(options)
                key = max((name for name in names if _within(shared, name)), key=len, default="")
                if key:
                    said = str(group.title).rstrip(":").splitlines()[0]
                    title = self.titles[key] if key == shared else f"{shared}: {_plain(said)}"
                    group.title, group.description = textwrap.shorten(title, 78, placeholder=" ..."), None
                elif "ckpt_path" in options and group.title != "options":
                    group.title, group.description = "start", None
                ranked.append((names.index(key) if key else -1, group))
            self._action_groups = [group for _, group in sorted(ranked, key=lambda pair: pair[0])]
            return str(super().format_help())
        finally:
            self._action_groups = given
            for group, title, description in titles:
                group.title, group.description = title, description

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and where options are explained; exit status 2."""
        prog = _program(str(getattr(getattr(ex, "subcommand_parser", None) or self, "prog", "")))
        known = type(self).strategies()
        sys.stderr.write(f"error: {plain_message(message, known)}\ntip: options are explained by {prog} --help\n")
        raise SystemExit(2)


def _shared(options: list[str]) -> str:
    """The key that all options stand under: ``model`` of ``model.policy`` and ``model.seed``; "" = none.

    >>> _shared(["model.update.epochs", "model.update"]), _shared(["run_dir", "quiet"]), _shared([])
    ('model.update', '', '')
    """
    parts = [option.split(".") for option in options]
    if len(options) == 1 and len(parts[0]) == 1:
        return options[0]
    depth = next((i for i, level in enumerate(zip_longest(*parts)) if len(set(level)) > 1), 0) if parts else 0
    return ".".join(parts[0][:depth]) if depth else ""


def _within(option: str, key: str) -> bool:
    return option == key or option.startswith(f"{key}.")


def run_parser_settings(parser: type[RunParser], **parser_kwargs: Any) -> dict[str, Any]:
    """Return what every command that runs the Trainer gives to its LightningCLI.

    Args:
        parser: class of its parser.
        **parser_kwargs: of the parser: ``prog``, ``description``.
    """
    return {
        "trainer_class": Trainer,
        "subclass_mode_data": True,
        "parser_class": parser,
        "save_config_kwargs": {"overwrite": True},
        "seed_everything_default": 0,
        "auto_configure_optimizers": False,
        "load_from_checkpoint_support": False,
        "trainer_defaults": dict(TRAINER_DEFAULTS),
        "parser_kwargs": parser_kwargs,
    }
