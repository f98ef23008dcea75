"""Every Python snippet of README and docs runs, every YAML parses as a configuration, and every command of ours runs.

Commands run on a policy of a few thousand parameters and one batch, everything else as it is typed; those that cannot run here are
parsed, with the reason in `REASONS`."""

import doctest
import json
import shutil
import sys

import pytest
import yaml

from lightning_focal.cli import COMMANDS, main
from lightning_focal.entry import main as entry_main
from lightning_focal.judges import CHECKS
from tests.docs.pages import PAGES, ROOT, arguments, blocks, commands, set_up_program, title

TINY = "random:tiny-llama?hidden=32&layers=1"
FORCED = {
    "model.policy": TINY,
    "model.sampling.max_new_tokens": "4",
    "trainer.limit_train_batches": "1",
    "trainer.max_epochs": "1",
    "trainer.devices": "1",
}
"""Makes a run of any configuration take a second."""
SMALLER = {
    "model.val_group_size": "1",
    "model.group_size": "2",
    "trainer.limit_val_batches": "1",
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
}
"""The same, where the command does not say otherwise."""
FEW_QUESTIONS = {
    "trainer.val_check_interval": "1",
    "data.train": "12",
    "data.val": "2",
    "data.batch_size": "2",
    "data.max_prompt_tokens": "512",
}  # bytes for tokens
WARM_START = {"model.val_questions": "2", "model.val_group_size": "1", "data.train": "8", "data.val": "2", "data.batch_size": "4"}
WARM_START |= {"model.policy": TINY, "trainer.max_steps": "1", "trainer.val_check_interval": "1", "trainer.accelerator": "cpu"}
REASONS = {
    "http://localhost": "asks a server",
    "https://api.example.com": "asks a server",
    "configs/healthbench_judge.yaml": "asks a server",
    "configs/qwen3_8b_focal.yaml": "for GPUs",
    "configs/scale/": "for GPUs",
    "vllm": "needs vLLM; tests/generation has it",
    "--ckpt_path=last": "goes on after a kill; tests/runs kills one",
    "LMEval": "needs lm-evaluation-harness; tests/evaluation has it",
}
"""What in a command keeps it from being run here, and why; it is parsed."""
COMMAND_REASONS = {
    "ablate": "a grid of runs; tests/studies runs one",
    "eval": "needs lm-evaluation-harness; tests/evaluation has it",
    "lm-eval": "the same",
    "plan": "reads the configuration of a large model; tests/test_planning.py has it",
    "rephrase": "asks a model that follows an instruction; tests/rephrasing has a server",
}
"""The same of whole commands."""

DONE = set()
"""Commands that need no file of their page and were tried on another one."""

WITH_PYTHON = [page for page in PAGES if any(block.language in ("python", "pycon") for block in blocks(page))]
WITH_COMMANDS = [page for page in PAGES if any(arguments(command) for command in commands(page))]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A small finished run, for snippets and commands that read one."""
    folder = tmp_path_factory.mktemp("runs") / "focal_tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        set_up_program(patch)
        patch.setenv("LIGHTNING_FOCAL_RUN_FOLDER", str(folder))
        main(["fit", "--config", "configs/focal_tiny.yaml", "--trainer.limit_train_batches=1"])
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, run_folder):
    """A folder like a checkout in which two runs have finished; what a page registers is forgotten afterwards."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "configs/data/everyday/heldout.jsonl", tmp_path / "train.jsonl")
    first = json.loads((tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": first["id"], "response": "Three minutes."}), encoding="utf-8")
    for name in ("focal", "focal_tiny"):
        (tmp_path / "runs").mkdir(exist_ok=True)
        shutil.copytree(run_folder, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    set_up_program(monkeypatch)
    known, modules = dict(CHECKS), set(sys.modules)
    yield tmp_path
    CHECKS.clear()
    CHECKS.update(known)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def save_files(page, folder):
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=title)
def test_python_snippets_run(page, place, capsys):
    save_files(page, place)
    namespace = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            if block.needs is None:
                exec(code, namespace)
        elif block.language == "pycon":
            example = doctest.DocTestParser().get_doctest(block.text, namespace, title(page), str(page), block.line - 1)
            runner = doctest.DocTestRunner(verbose=False)
            failed, tried = runner.run(example, clear_globs=False)
            namespace.update(example.globs)
            assert tried
            assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_json_and_yaml_blocks_are_what_they_say(page):
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_configurations_parse(page, place, capsys):
    """A block of YAML that holds keys of a run is what a run takes."""
    save_files(page, place)
    for block in blocks(page):
        if block.language == "yaml" and yaml.safe_load(block.text).keys() <= {"reward", "model", "data", "trainer", "quiet"}:
            (place / "block.yaml").write_text(block.text, encoding="utf-8")
            with pytest.raises(SystemExit) as ended:
                main(["fit", "--config", "configs/focal_tiny.yaml", "--config", "block.yaml", "--print_config"])
            assert ended.value.code in (0, None), f"{title(page)}:{block.line}\n{capsys.readouterr().err}"


def why_not_run(given):
    typed = " ".join(given)
    return COMMAND_REASONS.get(given[0]) or next((reason for sign, reason in REASONS.items() if sign in typed), None)


def own_commands(page):
    """Commands of ours on a page, each with whether it needs a file of the page; what was tried on another page is left out."""
    files = [block.file.rsplit(".", 1)[0] for block in blocks(page) if block.file]
    for given in filter(None, map(arguments, commands(page))):
        if any(file in word for file in files for word in given) or tuple(given) not in DONE:
            DONE.add(tuple(given))
            yield given


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=title)
def test_commands_that_cannot_run_here_parse(page, place, capsys):
    save_files(page, place)
    for given in filter(None, map(arguments, commands(page))):
        if why_not_run(given):
            parse(given, capsys)


@pytest.mark.slow  # half a hundred short runs
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=title)
def test_commands_run(page, place, monkeypatch, capsys):
    save_files(page, place)
    for given in own_commands(page):
        if why_not_run(given):
            continue
        monkeypatch.delenv("LIGHTNING_FOCAL_RUN_FOLDER", raising=False)
        code = status(smaller(given))
        assert code in (0, None), f"{title(page)}: {' '.join(given)}\n{capsys.readouterr().err}"


def status(given):
    try:
        entry_main(given)
    except SystemExit as ended:
        return ended.code
    return 0


def smaller(given):
    """The command with what makes it short."""
    if any(word.endswith("help") or word in ("--print_config", "--reward.help") for word in given) or "--ckpt_path" in given:
        return given
    named = {word.removeprefix("--").split("=")[0] for word in given}
    if given[0] == "sft":
        return [*given, *(f"--{key}={value}" for key, value in WARM_START.items())]
    if given[0] == "fit":
        added = {**FORCED, **{key: value for key, value in SMALLER.items() if key not in named}}
        if "co_rewarding" in " ".join(given):
            added |= {key: value for key, value in FEW_QUESTIONS.items() if key not in named}
        if "LocalJudge" in " ".join(given):
            added["reward.judge.other.source"] = TINY
        return [*given, *(f"--{key}={value}" for key, value in added.items())]
    if given[0] == "judge" and "--judge=LocalJudge" in given:
        return [*given, f"--judge.source={TINY}"]
    return given


def test_reasons_are_needed():
    typed = [" ".join(given) for page in PAGES for given in filter(None, map(arguments, commands(page)))]
    assert all(any(sign in command for command in typed) for sign in REASONS)
    assert {command.split()[0] for command in typed} >= set(COMMAND_REASONS)


def parse(given, capsys):
    """Put a command to its own parser; one that runs the Trainer prints its configuration in place of running."""
    asks_for_help = any(word.endswith("help") for word in given)
    if given[0] in COMMANDS and given[0] != "sft":
        if given[0] == "replay":
            from lightning_focal.studies.replay_command import parser

            parser().parse_args(given[1:])
        elif given[0] == "judge":
            from lightning_focal.judging import agreement, command

            measured = any(word.split("=")[0] == "--agreement" for word in given)
            (agreement if measured else command).parser().parse_args(given[1:])
        elif given[0] == "report":
            from lightning_focal.report.command import parser

            parser().parse_args(given[1:])
        elif given[0] == "rubrics":
            from lightning_focal.studies.rubrics_command import parser

            parser().parse_args(given[1:])
        elif given[0] in ("eval", "export"):
            from importlib import import_module

            import_module(COMMANDS[given[0]][0]).parser().parse_args(given[1:])
        elif given[0] == "lm-eval":
            from lm_eval._cli import HarnessCLI

            HarnessCLI()._parser.parse_args(given[1:])
        elif given[0] == "rephrase":
            from lightning_focal.rephrasing.command import parser

            parser().parse_args(given[1:])
        elif given[0] == "export":
            from lightning_focal.exporting import parser

            parser().parse_args(given[1:])
        elif given[0] == "plan":
            from lightning_focal.planning.command import parser

            own, rest = parser().parse_known_args(given[1:])
            parse(["fit", f"--config={own.config}", *rest], capsys)
        else:
            assert given[0] == "ablate", f"say here how `{given[0]}` is checked"
            check_ablation(given[1:])
        return
    with pytest.raises(SystemExit) as ended:
        main(given if asks_for_help else [*given, "--print_config"])
    said = capsys.readouterr()
    assert ended.value.code in (0, None), f"{' '.join(given)}\n{said.err}"


def check_ablation(given):
    """The file is read, and what every run gets besides is parsed with its configuration."""
    from lightning_focal.studies.ablate import read_ablation

    own, rest = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    grid = read_ablation(own[own.index("--config") + 1])
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(grid.config), *rest, "--print_config"])
    assert ended.value.code in (0, None)
