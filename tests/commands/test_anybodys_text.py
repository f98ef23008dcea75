"""Texts of anybody go through every command: they are shown as they are, cut where they are long, and are orders to nothing."""

import ast
import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lightning_focal.cli import main
from lightning_focal.commands import ablate
from lightning_focal.commands import eval as evaluating
from lightning_focal.models import policy_config
from tests.conftest import TINY, write_rows
from tests.report.made_run import make_run
from tests.servers.fake import serving

ROOT = Path(__file__).parents[2]
LONG = "x" * 200 + "y" * 100
TEXTS = ["[/x]", "[bold] red", "\x1b[31mred", "\x1b]0;title\x07", "a\rb", "a\nb", ":smile:", "$x", "_a", "\u202eevil", LONG]
ALLOWED = {"Console", "Column", "Progress", "BarColumn", "SpinnerColumn", "MofNCompleteColumn", "TimeRemainingColumn"}
SHOWN = [r"[/x]", "[bold] red", r"\x1b[31mred", r"\x1b]0;title\x07", ":smile:", "$x", "_a", r"\u202eevil", "xxx…yyy"]


def criteria(texts=TEXTS, **more):
    return [{"name": text, "description": text, "check": {"kind": "max_words", "words": 3}, **more} for text in texts]


@pytest.fixture
def run(request, monkeypatch, capsys, tmp_path):
    """Run a command where a terminal, or nobody, listens; what it wrote, checked for what a terminal would obey."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "170")
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if getattr(request, "param", "terminal") == "terminal":
        for name, value in {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "TERM": "xterm-256color"}.items():
            monkeypatch.setenv(name, value)

    def call(*args, shown=SHOWN, status=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) if status else nullcontext() as stop:
            main([str(arg) for arg in args])
        assert not status or stop.value.code == status
        said = capsys.readouterr()
        text = re.sub(r"\x1b\[(0|1|2|3|1;3|[0-9;]*3[0-9][0-9;]*|\?25[lh]|2K)m?", "", said.out + said.err)
        assert not set(text) & {"\x1b", "\x07", "\r", "\u202e"}, text
        assert "\x1b[31mred" not in said.out + said.err
        assert LONG not in text
        flat = re.sub(r"\s+", " ", text)
        assert [one for one in shown if one not in flat] == []
        return text

    return call


@pytest.fixture
def file(tmp_path):
    rows = [{"id": f"{i}{text}", "prompt": text, "rubric": criteria(tags=[f"axis:{text}"])} for i, text in enumerate(TEXTS)]
    return write_rows(tmp_path / "rubrics[bold].jsonl", rows)


@pytest.mark.parametrize("run", ["pipe", "terminal"], indirect=True)
def test_rubrics(run, file, tmp_path):
    run("rubrics", file, "--show", 20, shown=[*SHOWN, "rubrics[bold].jsonl"])
    responses = write_rows(tmp_path / "said.jsonl", [{"id": f"{i}{t}", "response": "a b c d"} for i, t in enumerate(TEXTS)])
    run("rubrics", file, "--responses", responses, "--show", 20)
    write_rows(file, [{"prompt": "a", "rubric": [{"name": text, "check": text}]} for text in TEXTS[:4]])
    run("rubrics", file, shown=SHOWN[:4], status=1)


def test_judge(run, tmp_path):
    row = {"prompt": "q", "response": "a", "verdicts": [True] * len(TEXTS)}
    for tags in ([{}] * len(TEXTS), [{"tags": [f"axis:{text}"]} for text in TEXTS]):
        rubric = [{**criterion, **more} for criterion, more in zip(criteria(), tags, strict=True)]
        gold = write_rows(tmp_path / "gold.jsonl", [{**row, "rubric": rubric}])
        run("judge", "--agreement", gold, "--judge", "RuleJudge", "--repeats", 2)
    for texts in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True):
        verdicts = [{"criterion": i, "verdict": "met", "reason": text} for i, text in enumerate(texts, 1)]
        with serving([json.dumps({"verdicts": verdicts})]) as fake:
            run("judge", "--check", f"--url={fake.url}", "--model=tiny", "--first_wait_s=0.01", shown=[], status=1)


def test_replay_and_report(run, tmp_path):
    named = tuple((text, ("level:a",)) for text in TEXTS)
    folder = make_run(tmp_path / "run[bold]", criteria=named, say=lambda *at: TEXTS[at[3] % 4])
    rollouts = f"--rollouts={folder / 'rollouts'}"
    run("replay", rollouts, "--reward=FocalReward", "--grid={gamma: [0, 3]}", "--show", 9, shown=["[bold] red"])
    assert (tmp_path / "replay" / "replay.png").stat().st_size > 10_000
    said = run("report", folder, shown=["run[bold]"])
    assert "criteri" in said
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "[bold] red" in page
    assert not set(page) & {"\x1b", "\x07"}


def test_rephrase(run, tmp_path):
    rows = [{"id": text, "question": f"What is 1 + {i}? {text}", "answer": str(i + 1)} for i, text in enumerate(TEXTS)]
    questions = write_rows(tmp_path / "questions[bold].jsonl", rows)
    with serving(TEXTS) as fake:
        server = ("--server", fake.url, "--model", "[/x]", "--attempts", 1)
        run("rephrase", questions, "--out", tmp_path / "[b].jsonl", *server, shown=["[b]"], status=1)


def test_plan(run, tmp_path):
    config = {"model": {"policy": "pypi:[bold]"}, "data": {"class_path": "RandomPrompts"}, "trainer": {"accelerator": "cpu"}}
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "pypi:[bold].json").write_text(policy_config(TINY)[0].to_json_string())
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    run("plan", "--config", tmp_path / "a.yaml", "--devices", 1, shown=["pypi:[bold]"])


def test_eval(run, monkeypatch):
    """What is shown of tasks, whoever answers them."""
    results = {"results": {text: {f"acc,{text}": 0.5} for text in TEXTS}}
    monkeypatch.setattr(evaluating, "load_tasks", lambda *_, **__: SimpleNamespace(missing={text: text[:9] for text in TEXTS}))
    monkeypatch.setattr(evaluating, "_model", lambda _: nullcontext())
    monkeypatch.setattr(evaluating, "evaluate_tasks", lambda *_, **__: results)
    said = run("eval", "--ckpt_path", "a", "--tasks", "a")
    assert said.count("[bold] red") >= 3  # as missing, as a task, as a filter


def test_ablate(run, tmp_path, monkeypatch):
    """The grid of runs that are already there: what is shown of them."""
    labels = [text for text in TEXTS if text.strip() == text]
    arms = {text: {"seed": i} for i, text in enumerate(labels)}
    (tmp_path / "c.yaml").touch()
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"config": "c.yaml", "seeds": [0], "arms": arms}))

    def finish(ablation, label, seed, folder, workers, overrides):
        folder.mkdir(parents=True)
        (folder / ".finished").touch()
        measures = dict.fromkeys(ablate.MEASURES.values(), 0.5)
        (folder / "held_out.json").write_text(json.dumps({"evaluations": [{"measures": measures}]}))

    monkeypatch.setattr(ablate, "_run", finish)
    run("ablate", "--config", tmp_path / "a.yaml", "--out", tmp_path / "out")


@pytest.mark.parametrize(("run", "long"), [("pipe", False), ("terminal", False), ("terminal", True)], indirect=["run"])
def test_fit_and_what_follows(run, tmp_path, long):
    texts = [LONG] if long else TEXTS[:-1]
    files = [f"--data.{split}={write_rows(tmp_path / f'{split}.jsonl', rows)}" for split, rows in splits(texts).items()]
    tiny = [f"--config={ROOT / 'configs' / 'focal_tiny.yaml'}", f"--model.policy={TINY}", "--model.sampling.max_new_tokens=4"]
    tiny += [*files, "--data.batch_size=2", f"--run_dir={tmp_path / 'run'}"]
    shown = ["xxx…yyy"] if long else SHOWN[:-1]
    table = ["--trainer.callbacks+=ConsoleReport", "--trainer.callbacks.table_every_n_batches=1"]
    run("fit", *tiny, *table, "--trainer.max_steps=2", "--model.log_names=true", shown=shown)
    with open(tmp_path / "run" / "metrics.csv", newline="", encoding="utf-8") as file:
        assert {line[-1] for line in file} == {"\n"}  # as the log reads itself back
    run("validate", *tiny, shown=shown)
    run("report", tmp_path / "run", shown=[])


def splits(texts):
    rows = [{"prompt": f"q{i}", "rubric": criteria(texts)} for i in range(5)]
    return {"train": rows[:4], "val": rows[4:]}


def test_nothing_reaches_a_terminal_past_the_console():
    """Whoever prints takes the console and the tables of ``terminal``, which spell out what a terminal would obey."""
    found = []
    for path in sorted((ROOT / "lightning_focal").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            taken = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            rich = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich"
            whole = isinstance(node, ast.Import) and node.names[0].name == "rich"
            if name in ("Console", "print") or (rich and {*taken} - ALLOWED) or whole:
                found.append(f"{path.name}:{node.lineno}")
    assert {place.split(":")[0] for place in found} == {"terminal.py"}
