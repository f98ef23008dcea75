"""Every choice of loss and mask in a run: two batches through the Trainer, what it logs, and what it changes."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.generation import HFGenerator, Sampling, ScriptedGenerator
from lightning_focal.modules import Update
from lightning_focal.rewards import GdpoAdvantage, GroupAdvantage, SoftOverlong, StaticReward
from tests.helpers import make_prompts, make_rollouts, make_scores
from tests.modules.helpers import column, metrics, same, weights_of

ROUNDED = {"generator": HFGenerator(dtype="bfloat16")}
GSPO = {"importance_sampling_level": "sequence", "loss_aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}
COVARIANT = {"clip_cov_ratio": 0.1, "clip_cov_bounds": (0.0, math.inf)}
OPTIONS = {
    "gspo": (GSPO, {}, {"policy/ratio_mean", "policy/clip_fraction"}),
    "cispo": ({"loss_type": "cispo", "clip_low": 1.0, "clip_high": 0.01}, {}, {"policy/clip_fraction"}),
    "dapo": ({"clip_high": 0.28}, {"strategy": StaticReward(reward=SoftOverlong(6, 3, 0.5))}, {"reward/overlong"}),
    "dr_grpo": (
        {"loss_aggregation": "fixed_length", "fixed_length": 6},
        {"strategy": StaticReward(advantage=GroupAdvantage("none"))},
        set(),
    ),
    "entropy": ({"entropy_coef": 0.5}, {}, {"policy/entropy"}),
    "clip_cov": (COVARIANT, {}, {"policy/clip_cov_fraction"}),
    "truncated": ({"mask_truncated_completions": True}, {}, {"rollout/truncated"}),
    **{
        mode: (
            {"importance_cap": 1.001, "importance_floor": 0.999, "importance_sampling_mode": mode},
            ROUNDED,
            {"policy/importance_weight", "policy/importance_masked"},
        )
        for mode in ("token_mask", "sequence_truncate", "sequence_mask")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_two_batches_of_each(run_tiny, name):
    options, given, keys = OPTIONS[name]
    given = {"trainer_limit_train_batches": 2, **given}
    if name == "truncated":  # one long answer in four is cut off
        given["generator"] = ScriptedGenerator(["yes", "No", "Yes", "a much longer answer"])
    strategy = given.pop("strategy", None)
    runs = [
        run_tiny(how, folder=folder, update=Update(mini_batches=2, **chosen), **given)
        for folder, chosen, how in (("with", options, strategy), ("without", {}, StaticReward() if strategy else None))
    ]
    rows = metrics(runs[0].folder)
    assert len(rows) == 2
    assert runs[0].module.version == 4
    assert keys <= {key.removeprefix("train/") for key in rows[0]}
    for key in keys:
        assert all(math.isfinite(value) for value in column(runs[0].folder, f"train/{key}"))
    if "importance_cap" in options:
        assert (max(column(runs[0].folder, "train/policy/importance_masked")) > 0) == name.endswith("mask")
    assert not same(weights_of(runs[0].module), weights_of(runs[1].module))
    assert all(value.isfinite().all() for value in weights_of(runs[0].module).values())


def test_what_is_logged_of_each(run_tiny):
    one = {"trainer_limit_train_batches": 2}
    run = run_tiny(StaticReward(), folder="entropy", update=Update(entropy_coef=0.5), **one)
    policy, total, entropy = (column(run.folder, f"train/{key}") for key in ("loss/policy", "loss/total", "policy/entropy"))
    assert total == pytest.approx([p - 0.5 * e for p, e in zip(policy, entropy, strict=True)], abs=1e-6)
    run = run_tiny(StaticReward(), folder="cov", update=Update(**COVARIANT), **one)
    tokens = [8 * length for length in column(run.folder, "train/rollout/length")]
    assert column(run.folder, "train/policy/clip_cov_fraction") == pytest.approx([int(0.1 * n) / n for n in tokens], abs=1e-6)
    run = run_tiny(StaticReward(reward=SoftOverlong(6, 3, 0.5)), folder="overlong", **one)
    reward, static, less = (column(run.folder, f"train/reward/{key}") for key in ("mean", "static", "overlong"))
    assert reward == pytest.approx([s + x for s, x in zip(static, less, strict=True)], abs=1e-6)
    assert max(less) < -0.4


def test_masking_what_was_cut_off(run_tiny):
    """With nothing cut off the run is the same to the last bit; what is cut off counts in its group's mean and nowhere else."""
    whole = {"generator": ScriptedGenerator(["yes", "No", "Yes"]), "sampling": Sampling(max_new_tokens=12)}
    runs = [
        run_tiny(StaticReward(), folder=f"{masked}", update=Update(mask_truncated_completions=masked), **whole)
        for masked in (False, True)
    ]
    assert column(runs[1].folder, "train/rollout/truncated") == [0.0] * 4
    assert same(*(weights_of(run.module) for run in runs))
    assert metrics(runs[0].folder) == metrics(runs[1].folder)
    nothing = run_tiny(
        StaticReward(),
        folder="all",
        update=Update(mask_truncated_completions=True),
        generator=ScriptedGenerator(["a much longer answer", "another long answer"]),
    )
    assert column(nothing.folder, "train/rollout/truncated") == [1.0] * 4
    assert nothing.module.version == 0


@pytest.mark.parametrize("options", [GSPO, COVARIANT | {"entropy_coef": 0.1}], ids=["gspo", "clip_cov"])
def test_a_resumed_run_is_the_uninterrupted_one(run_tiny, tmp_path, options):
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    update = Update(mini_batches=2, **options)
    whole = run_tiny(StaticReward(), saving, folder="whole", update=update, trainer_enable_checkpointing=True)
    again = run_tiny(StaticReward(), folder="again", update=update, ckpt_path=str(tmp_path / "checkpoints" / "step=4.ckpt"))
    assert same(weights_of(whole.module), weights_of(again.module))
    assert metrics(whole.folder)[2:] == metrics(again.folder)


# -- soft overlong punishment --------------------------------------------------------------------------------------------------------


def test_the_punishment_is_added_to_the_weighted_sum():
    mask = torch.arange(10) < torch.tensor([[4, 7], [10, 10]])[..., None]
    rollouts = make_rollouts(
        make_prompts(2), 2, tokens=10, response_mask=mask, response_ids=torch.zeros(2, 2, 10, dtype=torch.int64)
    )
    rule = SoftOverlong(10, 6, penalty_factor=0.5)
    scores = make_scores([[[1.0], [0.5]], [[0.25], [None]]], measures=rule.measures(rollouts))
    strategy = StaticReward(reward=rule)
    assert strategy.shape(scores).rewards.flatten().tolist() == pytest.approx([1.0, 0.25, -0.25, 0.0])  # the last was not judged
    assert strategy.shape(scores).static.flatten().tolist() == pytest.approx([1.0, 0.5, 0.25, 0.0])


def test_a_punishment_that_cannot_work_is_refused(run_tiny):
    with pytest.raises(ValueError, match=r"`reward: SoftOverlong` would be lost: GdpoAdvantage"):
        StaticReward(reward=SoftOverlong(6, 3), advantage=GdpoAdvantage())
    with pytest.raises(ValueError, match=r"`soft_punish_cache` must be in \[1, `max_completion_len` = 6\], got 7"):
        SoftOverlong(6, 7)
    with pytest.raises(ValueError, match="`penalty_factor` must be > 0, got 0"):
        SoftOverlong(6, 3, 0)
    with pytest.raises(
        ValueError, match=r"`model\.sampling\.max_new_tokens` must be > 8, from where SoftOverlong punishes, got 6"
    ):
        run_tiny(StaticReward(reward=SoftOverlong(12, 4)))
    with pytest.raises(ValueError, match="SoftOverlong needs lengths of rollouts"):
        StaticReward(reward=SoftOverlong(6, 3)).shape(make_scores([[[1.0], [0.5]]]))
