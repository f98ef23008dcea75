"""Help that a person can read, at any width."""

import re
import textwrap

import pytest

from lightning_focal.cli import COMMANDS, main
from lightning_focal.overview import example
from lightning_focal.parsing import TRAINER_DEFAULTS, RunParser, run_parser_settings
from tests.docs.pages import set_up_program

OWN = ("judge", "judge --agreement gold.json", *sorted({*COMMANDS} - {"judge", "lm-eval", "sft"}))


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


@pytest.fixture(params=[80, 120])
def columns(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    set_up_program(monkeypatch)
    return request.param


@pytest.mark.parametrize("command", ["fit", "validate", "predict", "sft"])
def test_a_run_s_help_reads_well(command, columns, capsys):
    text = said(capsys, command, "--help")
    assert re.match(rf"usage: lightning_focal {command} \[options\]\n\n[A-Z]", text)
    long = [line for line in text.splitlines() if len(line) > columns and " " in line.strip()]
    assert all(line.lstrip().startswith(("--", "{", "[")) for line in long)  # an option's own name is not broken
    for noise in (
        "__main__",
        "INIT_ARG",
        "``",
        ":class:",
        "known subclasses",
        "Runs the full",
        "lightning.pytorch.callbacks",
        "Default: None",
        "Union[",
        "Optional[",
        "Literal[",
        "One or more arguments",
        "customizes",
        "instantiation.Set",
        "default: True",
        "...:",
    ):
        assert noise not in text
    order = ["options:", "model: policy, rollouts, updates:", "data: prompts", "trainer: Lightning's own:"]
    order = [*order[:1], "reward: the strategy", *order[1:]] if command != "sft" else order
    places = [text.index(f"\n{heading}") for heading in order]
    assert places == sorted(places)
    assert "--reward NAME A class by its name" in " ".join(text.split()) or command == "sft"
    assert "--quiet" in text
    assert text.endswith(f"\nexample:\n{textwrap.indent(example(command), '  ')}\n")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", *COMMANDS])
def test_every_command_has_an_example(command):
    first = example(command).splitlines()[0]
    assert first.startswith(f"lightning_focal {command} ")
    assert example(f"{command} --more") == example(command)


def test_nothing_else_has_one():
    assert [example(name) for name in ("", "fi", "fits", "usage:", "options", "COMMAND", "judges --check")] == [""] * 7


@pytest.mark.parametrize("command", OWN)
def test_help_of_the_others(command, columns, capsys):
    text = said(capsys, *command.split(), "--help")
    assert "INIT_ARG" not in text
    assert text.startswith("usage: lightning_focal " + command.split()[0])
    assert "``" not in text
    assert ":data:" not in text
    assert all(len(line) <= columns for line in text.splitlines() if line.startswith(" "))
    assert text.endswith(f"\nexample:\n{textwrap.indent(example(command), '  ')}\n")


def test_help_of_one_class(capsys, monkeypatch):
    set_up_program(monkeypatch)
    text = said(capsys, "fit", "--reward.help", "FocalReward")
    assert "  --reward.gamma GAMMA " in text
    assert "tau, in units of reward" in " ".join(text.split())


def test_help_leaves_the_parser_as_it_was():
    parser = RunParser(prog="x")
    parser.add_argument("--trainer.a", type=int, default=1)
    parser.add_argument("--run_dir", type=str, default="r")
    before = [(group, group.title) for group in parser._action_groups]
    first = parser.format_help()
    assert [(group, group.title) for group in parser._action_groups] == before
    assert parser.format_help() == first


def test_both_commands_that_run_a_trainer_have_the_same_defaults():
    settings = run_parser_settings(RunParser, prog="x")
    assert settings["trainer_defaults"] == TRAINER_DEFAULTS
    assert settings["parser_kwargs"] == {"prog": "x"}
    with pytest.raises(TypeError):
        TRAINER_DEFAULTS["log_every_n_steps"] = 50
