"""Evaluation of the live policy: right scores, and a run that does not notice."""

import json

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.cli import main
from lightning_focal.evaluation import LMEval
from lightning_focal.models import Lora
from tests.evaluation.helpers import choice_task, generate_task, half_right
from tests.modules.helpers import column
from tests.test_configs import ROOT


@pytest.mark.parametrize("lora", [None, Lora(r=2)], ids=["whole", "adapters"])
def test_a_run_is_the_same_with_it_and_without(run_tiny, tmp_path, lora):
    """What is logged and written, too."""
    torch.manual_seed(0)
    first = run_tiny(folder="first", lora=lora)
    gold, share = half_right(first.module.policy, first.module.tokenizer)
    assert 0 < share < 1
    watch = LMEval([generate_task(tmp_path, gold), choice_task(tmp_path)], every_n_batches=2, batch_size=4)
    torch.manual_seed(0)
    run = run_tiny(None, watch, folder="second", lora=lora)
    for name in ("train/loss/policy", "train/reward/mean", "train/rollout/length"):
        assert column(run.folder, name) == column(first.folder, name)
    for mine, theirs in zip(run.module.policy.parameters(), first.module.policy.parameters(), strict=True):
        assert mine.equal(theirs)
    assert all(module.training for module in run.module.policy.modules())
    assert [entry["batch"] for entry in watch.history] == [0, 2, 4]  # after the fourth batch once, not twice
    assert watch.history[-1]["scores"]["words/exact_match/word"] == share
    values = column(run.folder, "eval/choices/acc")
    assert values == [entry["scores"]["choices/acc"] for entry in watch.history]
    written = json.loads((run.folder / "lm_eval.json").read_text())
    assert (written["evaluations"], written["settings"]["limit"]) == (watch.history, None)


def test_a_resumed_run_evaluates_once_a_batch(run_tiny, tmp_path):
    def watch():
        return LMEval(choice_task(tmp_path), limit=2, at_start=True, at_end=True)

    saving = ModelCheckpoint(tmp_path / "saved", filename="last")
    first, resumed, last = watch(), watch(), tmp_path / "saved" / "last.ckpt"
    run = run_tiny(None, first, saving, trainer_enable_checkpointing=True, trainer_limit_train_batches=2)
    assert len(first.history) == 2
    assert json.loads((run.folder / "lm_eval.json").read_text())["settings"]["limit"] == 2
    run_tiny(None, resumed, folder="again", trainer_max_epochs=2, trainer_limit_train_batches=2, ckpt_path=last)
    assert [entry["batch"] for entry in resumed.history] == [0, 4]


def test_what_is_refused_before_the_policy_is_read(run_tiny):
    run = run_tiny(None, LMEval("no_such_file.yaml"), fit=False)
    with pytest.raises(ValueError, match=r"the file 'no_such_file\.yaml' does not exist"):
        run.trainer.fit(run.module, datamodule=run.data)
    assert run.module.policy is None
    for name in ("every_n_batches", "limit", "batch_size"):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            LMEval("x.yaml", **{name: 0})


def test_it_can_be_spelt_in_a_configuration(tmp_path, rubric_file):
    small = ["--model.policy=random:tiny-llama?hidden=32&layers=1", "--model.sampling.max_new_tokens=4"]
    small += [f"--data.train={rubric_file()}", "--data.val=null", "--trainer.limit_train_batches=1"]
    watch = ["--trainer.callbacks=LMEval", f"--trainer.callbacks.tasks={choice_task(tmp_path)}"]
    main(["fit", f"--config={ROOT / 'configs/focal_tiny.yaml'}", *small, *watch, f"--run_dir={tmp_path / 'run'}"])
    assert len(json.loads((tmp_path / "run" / "lm_eval.json").read_text())["evaluations"]) == 2
