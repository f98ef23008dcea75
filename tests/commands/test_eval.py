"""`lightning_focal eval`, `lightning_focal lm-eval` and the harness's own program give the callback's scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.cli import main
from lightning_focal.evaluation import LMEval, load_evaluated
from lightning_focal.models import Lora, export_policy, load_policy
from tests.conftest import TINY
from tests.evaluation.helpers import choice_task, generate_task, greedy, half_right
from tests.test_configs import ROOT

SCORES = ("words/exact_match/word", "choices/acc")


@pytest.fixture
def evaluated(run_tiny, tmp_path):
    """A finished run with the callback: its folder, its checkpoint, the two tasks, the callback's last scores."""

    def train(lora=None):
        def fit(folder, *callbacks, **more):
            torch.manual_seed(0)
            return run_tiny(None, *callbacks, folder=folder, lora=lora, trainer_limit_train_batches=2, **more)

        first = fit("first")
        gold, share = half_right(first.module.policy, first.module.tokenizer)
        assert 0 < share < 1
        tasks = [generate_task(tmp_path, gold), choice_task(tmp_path)]
        watch = LMEval(tasks, batch_size=4)
        saving = ModelCheckpoint(tmp_path / "run" / "checkpoints", filename="last")
        run = fit("run", watch, saving, trainer_enable_checkpointing=True)
        model = {"policy": TINY, "lora": None if lora is None else {"r": lora.r, "alpha": lora.alpha}}
        (run.folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "seed_everything": 0}))
        scores = watch.history[-1]["scores"]
        assert scores["words/exact_match/word"] == share
        return run.folder / "checkpoints" / "last.ckpt", ",".join(tasks), {name: scores[name] for name in SCORES}

    return train


def of_file(path):
    scores = json.loads(Path(path).read_text())["lightning_focal"]["scores"]
    return {name: scores[name] for name in SCORES}


@pytest.mark.parametrize("lora", [None, Lora(r=2)], ids=["whole", "adapters"])
def test_checkpoint_and_exported_folder_score_as_the_live_policy(evaluated, tmp_path, capsys, lora):
    path, tasks, expected = evaluated(lora)
    main(["eval", "--ckpt_path", str(path), "--tasks", tasks, "--batch_size", "4", "--out", str(tmp_path / "a.json")])
    said = capsys.readouterr().out
    assert "exact_match" in said
    assert "choices" in said
    assert of_file(tmp_path / "a.json") == expected
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "policy")])
    again = ["--ckpt_path", str(tmp_path / "policy"), "--tasks", tasks, "--batch_size", "3", "--out", str(tmp_path / "b.json")]
    main(["eval", *again])
    assert of_file(tmp_path / "b.json") == expected
    assert "held-out" not in (tmp_path / "policy" / "README.md").read_text()  # there were no held-out prompts
    assert "words/exact_match/word" in (tmp_path / "policy" / "README.md").read_text().replace("&#95;", "_")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "merged", "adapter"])
def test_the_harness_itself_scores_the_exported_folder_the_same(evaluated, tmp_path, kind):
    """Whole weights, adapters merged into them, and adapters that peft puts on the base policy."""
    path, tasks, expected = evaluated(None if kind == "whole" else Lora(r=2, alpha=64.0))
    folder = tmp_path / "policy"
    main(["export", "--ckpt_path", str(path), "--out", str(folder), *(["--adapter"] if kind == "adapter" else [])])
    named = f"pretrained={folder}"
    assert greedy(*load_evaluated(path)) != greedy(*load_policy(TINY))  # what was trained makes a difference
    if kind == "adapter":
        named = f"pretrained={export_policy(*load_policy(TINY), tmp_path / 'base')},peft={folder}"
    assert scores_by_harness("lm_eval", "hf", named, tasks, tmp_path / "out") == expected


@pytest.mark.slow
def test_the_harness_knows_checkpoints_through_our_command(evaluated, tmp_path):
    path, tasks, expected = evaluated(Lora(r=2))
    assert scores_by_harness("lightning_focal lm-eval", "lightning_focal", f"ckpt={path}", tasks, tmp_path / "out") == expected


def harness(program, model, arguments, tasks, *more, cwd=None):
    """What the harness prints."""
    command = [
        "run",
        f"--model={model}",
        f"--model_args={arguments}",
        f"--tasks={tasks}",
        "--apply_chat_template",
        "--device=cpu",
    ]
    how = {"capture_output": True, "text": True, "env": {**os.environ, "HF_HUB_OFFLINE": "1"}, "cwd": cwd, "check": False}
    done = subprocess.run([sys.executable, "-m", *program.split(), *command, *more], **how)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def scores_by_harness(program, model, arguments, tasks, out):
    harness(program, model, arguments, tasks, "--batch_size", "4", "--output_path", str(out))
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    return {SCORES[0]: results["words"]["exact_match,word"], SCORES[1]: results["choices"]["acc,none"]}


@pytest.mark.slow
def test_a_task_of_ours_makes_the_harness_know_our_model(evaluated):
    path, _, _ = evaluated()
    task = "configs/eval/rubric.yaml"
    assert "all_met" in harness("lm_eval", "lightning_focal", f"ckpt={path}", task, "--limit", "2", cwd=ROOT)


def test_bad_arguments(capsys):
    for arguments, message in (
        (["--tasks", "nowhere.yaml"], "the file 'nowhere.yaml' does not exist"),
        (["--tasks", "x.yaml", "--limit", "-1"], "`--limit` > 0, got 16 and -1.0"),
        (["--tasks", "x.yaml", "--batch_size", "0"], "`--batch_size` must be >= 1"),
    ):
        with pytest.raises(SystemExit):
            main(["eval", "--ckpt_path", TINY, *arguments])
        assert message in capsys.readouterr().err


def test_any_source_of_a_policy_and_what_a_set_lacks_is_said(tmp_path, capsys):
    (tmp_path / "tasks").mkdir()
    choice_task(tmp_path / "tasks")
    content = {"group": "mine", "task": ["choices"], "metadata": {"missing": {"AMC": "no such task"}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    named = ["--tasks", str(tmp_path / "mine.yaml"), "--include_path", str(tmp_path / "tasks")]
    main(["eval", "--ckpt_path", TINY, *named, "--limit", "0.5", "--out", str(tmp_path / "x.json")])
    assert "not evaluated: AMC: no such task" in capsys.readouterr().out
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["n-samples"]["choices"] == {"original": 10, "effective": 5}
    assert written["lightning_focal"]["options"]["ckpt_path"] == TINY
