"""The help of every command: an example, no markup; and complaints of one message."""

import re

import pytest

from lightning_focal.cli import COMMANDS, RUNS, main
from lightning_focal.overview import EXAMPLES, OVERVIEW
from tests.docs.pages import set_up_program

HELPFUL = sorted({*COMMANDS, *RUNS} - {"lm-eval"})  # whose help is the harness's own


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code, "".join(capsys.readouterr())


def test_every_command_has_an_example_and_a_line_of_the_overview():
    assert EXAMPLES.keys() == {*COMMANDS, *RUNS}
    assert all(re.search(rf"^  {name} +\S", OVERVIEW, re.MULTILINE) for name in EXAMPLES)
    assert max(map(len, OVERVIEW.splitlines())) <= 80  # fits a narrow terminal


@pytest.mark.parametrize("command", HELPFUL)
def test_help(command, capsys, monkeypatch):
    set_up_program(monkeypatch)
    code, text = said(capsys, command, "--help")
    assert code in (0, None)
    assert text.startswith(f"usage: lightning_focal {command} ")
    assert text.endswith(f"\nexample:\n  {EXAMPLES[command]}\n")
    assert not re.search(r"``|:class:|:data:", text)


def test_help_of_a_run_has_its_own_keys_first_and_lightnings_last(capsys, monkeypatch):
    set_up_program(monkeypatch)
    _, text = said(capsys, "fit", "--help")
    places = [text.index(f"\n  --{key} ") for key in ("run_dir", "reward", "model", "data", "checkpoint", "trainer")]
    assert places == sorted(places)
    assert text.startswith("usage: lightning_focal fit [options]\n")
    _, text = said(capsys, "fit", "--reward.help", "FocalReward")
    assert "tau, in units of reward" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fitt"], ["there is no command 'fitt' (did you mean fit?)", "lightning_focal --help"]),
        (["eval", "--tusks=x"], ["--tusks=x", "options are explained by lightning_focal eval --help"]),
        (["fit", "--model.policy=x", "--model.group_size=many"], ['"model.group_size"', "<class 'int'>", "Got value: many"]),
    ],
)
def test_complaints(arguments, words, capsys, monkeypatch):
    set_up_program(monkeypatch)
    code, text = said(capsys, *arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert len(text.splitlines()) <= 3
    assert all(word in text for word in words)
