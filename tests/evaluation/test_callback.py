"""Evaluation of the live policy: right scores, and a run that does not notice."""

import json

import pytest
import torch

from lightning_focal.evaluation import LMEval
from lightning_focal.models import Lora
from tests.evaluation.helpers import choice_task, generate_task, half_right
from tests.modules.helpers import column


@pytest.fixture
def final(run_tiny):
    """The policy that a run with given adapters ends with, its gold answers and the share it has right."""

    def train(lora=None):
        torch.manual_seed(0)
        run = run_tiny(folder="first", lora=lora)
        return (run, *half_right(run.module.policy, run.module.tokenizer))

    return train


@pytest.mark.parametrize("lora", [None, Lora(r=2)], ids=["whole", "adapters"])
def test_a_run_is_the_same_with_it_and_without(run_tiny, final, tmp_path, lora):
    first, gold, share = final(lora)
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


def test_what_is_logged_and_written(run_tiny, tmp_path):
    watch = LMEval(choice_task(tmp_path), limit=4, at_start=True, at_end=True)
    run = run_tiny(None, watch, trainer_limit_train_batches=2)
    values = column(run.folder, "eval/choices/acc")
    assert values == [entry["scores"]["choices/acc"] for entry in watch.history]
    assert len(values) == 2
    written = json.loads((run.folder / "lm_eval.json").read_text())
    assert written["evaluations"] == watch.history
    assert written["settings"]["limit"] == 4


def test_a_resumed_run_evaluates_once_a_batch(run_tiny, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def watch():
        return LMEval(choice_task(tmp_path), limit=2)

    saving = ModelCheckpoint(tmp_path / "saved", filename="last")
    run_tiny(None, watch(), saving, trainer_enable_checkpointing=True, trainer_limit_train_batches=2)
    resumed = watch()
    run_tiny(
        None,
        resumed,
        folder="again",
        trainer_max_epochs=2,
        trainer_limit_train_batches=2,
        ckpt_path=tmp_path / "saved" / "last.ckpt",
    )
    assert [entry["batch"] for entry in resumed.history] == [0, 4]


def test_unknown_tasks_are_refused_before_the_policy_is_read(run_tiny):
    run = run_tiny(None, LMEval("no_such_file.yaml"), fit=False)
    with pytest.raises(ValueError, match=r"the file 'no_such_file\.yaml' does not exist"):
        run.trainer.fit(run.module, datamodule=run.data)
    assert run.module.policy is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"every_n_batches": 0}, "every_n_batches"), ({"limit": 0}, "limit"), ({"batch_size": 0}, "batch_size")],
)
def test_arguments_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        LMEval("x.yaml", **arguments)


def test_it_can_be_spelt_in_a_configuration(tmp_path, rubric_file):
    from lightning_focal.cli import main
    from tests.test_configs import ROOT

    main(
        [
            "fit",
            f"--config={ROOT / 'configs/focal_tiny.yaml'}",
            "--model.policy=random:tiny-llama?hidden=32&layers=1",
            "--model.sampling.max_new_tokens=4",
            f"--data.train={rubric_file()}",
            "--data.val=null",
            "--trainer.limit_train_batches=1",
            "--trainer.callbacks=LMEval",
            f"--trainer.callbacks.tasks={choice_task(tmp_path)}",
            f"--run_dir={tmp_path / 'run'}",
        ]
    )
    assert len(json.loads((tmp_path / "run" / "lm_eval.json").read_text())["evaluations"]) == 2
