"""Every Python snippet of README and docs runs, and every command of ours parses."""

import doctest
import json
import shutil
import sys

import pytest
import yaml

from lightning_focal.cli import COMMANDS, main
from lightning_focal.judges import CHECKS
from tests.docs.pages import PAGES, ROOT, arguments, blocks, commands, set_up_program, title

FITTED = ("--model.policy=random:tiny-llama?hidden=32&layers=1", "--trainer.limit_train_batches=1", "--trainer.callbacks=null")
"""Makes a run of any configuration take a second."""

PARSED = set()
"""Commands that need no file of their page and were parsed on another one."""

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
        main(
            [
                "fit",
                "--config",
                "configs/focal_tiny.yaml",
                "--trainer.limit_train_batches=1",
                "--trainer.enable_checkpointing=false",
            ]
        )
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, run_folder):
    """A folder like a checkout in which two runs have finished; what a page registers is forgotten afterwards."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "configs/data/everyday/heldout.jsonl", tmp_path / "train.jsonl")
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


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=title)
def test_commands_parse(page, place, capsys):
    save_files(page, place)
    files = [block.file.rsplit(".", 1)[0] for block in blocks(page) if block.file]
    for given in filter(None, map(arguments, commands(page))):
        if any(file in word for file in files for word in given) or tuple(given) not in PARSED:
            parse(given, capsys)
            PARSED.add(tuple(given))


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
        elif given[0] == "rephrase":
            from lightning_focal.rephrasing.command import parser

            parser().parse_args(given[1:])
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


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "docs/howto/judge.md", ROOT / "docs/howto/strategy.md", ROOT / "docs/howto/rubric.md"],
    ids=title,
)
def test_own_classes_and_files_train(page, place, monkeypatch):
    """A command that names a file or a class written on its page is run, on a policy of a few thousand parameters."""
    save_files(page, place)
    names = [block.file.rsplit(".", 1)[0] for block in blocks(page) if block.file]
    ran = 0
    for given in filter(None, map(arguments, commands(page))):
        if given[0] == "fit" and any(name in word for name in names for word in given):
            monkeypatch.delenv("LIGHTNING_FOCAL_RUN_FOLDER", raising=False)
            main(
                [
                    *given,
                    *FITTED,
                    "--model.sampling.max_new_tokens=4",
                    "--trainer.enable_checkpointing=false",
                    "--run_dir=runs/own",
                ]
            )
            ran += 1
    assert ran
