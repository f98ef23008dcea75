"""Every Python snippet of README and docs runs, every YAML parses as a configuration, and every command of ours runs.

Commands run on a policy of a few thousand parameters and one batch, against a server on this machine, everything else as it is typed
(`short.py`); those that cannot run here are parsed, with the reason in `REASONS`."""

import doctest
import json
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch.distributed as dist
import yaml

from lightning_focal.cli import COMMANDS, main
from lightning_focal.entry import main as entry_main
from lightning_focal.judges import CHECKS
from lightning_focal.models import export_policy, load_policy
from tests.conftest import GROUP
from tests.docs.pages import PAGES, ROOT, arguments, blocks, commands, set_up_program, title
from tests.docs.short import MODELS, TINY, asks_a_server, reply, save_files, smaller
from tests.servers.fake import serving

REASONS = {
    "configs/qwen3_8b_focal.yaml": "for GPUs",
    "fit --config configs/scale/": "for GPUs",
    "vllm": "needs vLLM; tests/generation and tests/evaluation have it",
    "--ckpt_path=last": "goes on after a kill; tests/runs kills one",
    "--run_dir=runs/branch": "branches off a run; tests/runs/test_branching.py does in every way",
    "runs/base": "records and reads questions of one's own; tests/rewards/test_answers.py does",
    "WandbLogger": "needs wandb; tests/runs/test_own_folder.py has it",
    "configs/eval/co_rewarding.yaml": "the questions lie on a hub",
}
"""What in a command keeps it from being run here, and why; it is parsed."""
NO_PAIR = "no pair was made"
"""What `rephrase` may say of a policy with random weights: it follows no instruction."""

DONE = set()
"""Commands that need no file of their page and were tried on another one."""


def own(page):
    """Commands of ours on a page: what follows the name of the program."""
    return [given for given in map(arguments, commands(page)) if given]


def why_not_run(given):
    typed = " ".join(given)
    return next((reason for sign, reason in REASONS.items() if sign in typed), None)


def configurations(page):
    """Blocks of YAML that hold keys of a run, of which nothing is missing here."""
    held = [block for block in blocks(page) if block.language == "yaml" and (not block.needs or find_spec(block.needs))]
    return [block for block in held if yaml.safe_load(block.text).keys() <= {"reward", "model", "data", "trainer", "quiet"}]


WITH_PYTHON = [page for page in PAGES if any(block.language in ("python", "pycon") for block in blocks(page))]
WITH_COMMANDS = [page for page in PAGES if own(page)]
PARSED = [page for page in PAGES if configurations(page) or any(map(why_not_run, own(page)))]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    """An exported policy."""
    return export_policy(*load_policy(TINY), tmp_path_factory.mktemp("policies") / "policy")


@pytest.fixture
def place(tmp_path, monkeypatch, run_folder, policy_folder):
    """A folder like a checkout in which two runs have finished; what a page registers is forgotten afterwards."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "configs/data/everyday/heldout.jsonl", tmp_path / "train.jsonl")
    first = json.loads((tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": first["id"], "response": "Three minutes."}), encoding="utf-8")
    copies = {"runs/focal": run_folder, "runs/focal_tiny": run_folder, "POLICY": policy_folder, "my-model": policy_folder}
    for name, folder in copies.items():
        shutil.copytree(folder, tmp_path / name)
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


def test_the_script_of_ten_lines_trains(place):
    """README and the quick start open with the same one, beside the command line."""
    script, again = (
        next(b.text for b in blocks(ROOT / page) if b.language == "python") for page in ("README.md", "docs/quickstart.md")
    )
    assert script == again
    assert len([line for line in script.splitlines() if line]) <= 10
    exec(script, {"__name__": "page"})
    made = {path.name for path in (place / "runs/python").iterdir()}
    assert made >= {"config.yaml", "run.json", "metrics.csv", "held_out.json", "checkpoints", "rollouts"}
    status(["report", "runs/python"])
    assert (place / "runs/python/report.html").is_file()


def test_json_and_yaml_blocks_are_what_they_say():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "json":
                json.loads(block.text)
            elif block.language == "yaml":
                assert isinstance(yaml.safe_load(block.text), dict), f"{title(page)}:{block.line}"


@pytest.mark.parametrize("page", PARSED, ids=title)
def test_configurations_and_commands_that_cannot_run_here_parse(page, place, capsys):
    """A block of YAML that holds keys of a run is what a run takes."""
    save_files(page, place)
    for block in configurations(page):
        (place / "block.yaml").write_text(block.text, encoding="utf-8")
        parse(["fit", "--config", "configs/focal_tiny.yaml", "--config", "block.yaml"], capsys, f"{title(page)}:{block.line}")
    for given in filter(why_not_run, own(page)):
        parse(given, capsys, title(page))


def own_commands(page):
    """Commands of ours on a page, each with whether it needs a file of the page; what was tried on another page is left out."""
    files = [block.file.rsplit(".", 1)[0] for block in blocks(page) if block.file]
    for given in own(page):
        if any(file in word for file in files for word in given) or tuple(given) not in DONE:
            DONE.add(tuple(given))
            yield given


@pytest.mark.slow  # a hundred short runs
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=title)
def test_commands_run(page, place, server, monkeypatch, capsys):
    save_files(page, place)
    monkeypatch.setenv("MY_API_KEY", "secret")
    for given in own_commands(page):
        if why_not_run(given):
            continue
        for name in ("LIGHTNING_FOCAL_RUN_FOLDER", *GROUP):  # each command is a process of its own to a person
            monkeypatch.delenv(name, raising=False)
        before = len(server.requests)
        code = status(smaller(given, server.url))
        said = capsys.readouterr()
        assert (len(server.requests) > before) == asks_a_server(given), " ".join(given)
        unfit = given[0] == "rephrase" and "--policy" in given and NO_PAIR in said.out
        assert code in (0, None) or unfit, f"{title(page)}: {' '.join(given)}\n{said.err}"


@pytest.mark.slow
def test_commands_of_the_harness_run(place):
    """A plain ``lm-eval`` of the pages, beside ours."""
    typed = [command for page in PAGES for command in commands(page) if command[0] == "lm-eval"]
    assert typed
    for command in typed:
        given = [*command[1:], "--limit", "2", "--device", "cpu"]
        done = subprocess.run([sys.executable, "-m", "lm_eval", *given], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def server():
    """A server on this machine that stands in for every server of the pages."""
    with serving(reply, models=MODELS) as fake:
        yield fake


def status(given):
    try:
        entry_main(given)
    except SystemExit as ended:
        return ended.code
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def test_most_commands_run():
    """What is parsed alone needs a GPU, vLLM, a hub, a run that was killed, or data of one's own; no reason is there for nothing."""
    typed = {tuple(given) for page in PAGES for given in own(page)}
    parsed = {given for given in typed if why_not_run(given)}
    assert {given[0] for given in parsed} <= {"fit", "eval", "predict"}
    assert len(parsed) < len(typed) / 8
    assert all(any(sign in " ".join(given) for given in typed) for sign in REASONS)


def parse(given, capsys, where):
    """Put a command to its own parser; one that runs the Trainer prints its configuration in place of running."""
    if given[0] in COMMANDS:
        import_module(COMMANDS[given[0]][0]).parser().parse_args(given[1:])
        return
    with pytest.raises(SystemExit) as ended:
        main([*given, "--print_config"])
    assert ended.value.code in (0, None), f"{where}: {' '.join(given)}\n{capsys.readouterr().err}"
    capsys.readouterr()
