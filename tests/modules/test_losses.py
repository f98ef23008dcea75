"""Every choice of loss and mask in a run: a batch through the Trainer, what it logs, and what it changes."""

import math

import pytest
import torch

from lightning_focal.generation import HFGenerator, Sampling, ScriptedGenerator
from lightning_focal.modules import Update
from lightning_focal.rewards import GdpoAdvantage, GroupAdvantage, SoftOverlong, StaticReward
from tests.helpers import make_prompts, make_rollouts, make_scores
from tests.modules.helpers import assert_same_end, column, metrics, same, saving, weights_of

ROUNDED = {"generator": HFGenerator(dtype="bfloat16")}
GSPO = {"importance_sampling_level": "sequence", "loss_aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}
COVARIANT = {"mini_batches": 1, "clip_cov_ratio": 0.1, "clip_cov_bounds": (0.0, math.inf)}
OPTIONS = {
    "gspo": (GSPO, {}, {"policy/ratio_mean", "policy/clip_fraction"}),
    "cispo": ({"loss_type": "cispo", "clip_low": 1.0, "clip_high": 0.01}, {}, {"policy/clip_fraction"}),
    "dapo": ({"clip_high": 0.28}, {"strategy": StaticReward(reward=SoftOverlong(6, 3, 0.5))}, {"reward/overlong"}),
    "dr_grpo": (
        {"loss_aggregation": "fixed_length", "fixed_length": 6},
        {"strategy": StaticReward(advantage=GroupAdvantage("none"))},
        set(),
    ),
    "entropy": ({"mini_batches": 1, "entropy_coef": 0.5}, {}, {"policy/entropy"}),
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


PLAIN = {}
"""Weights after the first batch by the plain loss, by what else was chosen."""


@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_of_each(run_tiny, name):
    """Another step is taken than by the plain loss, and what is logged adds up."""
    options, given, keys = OPTIONS[name]
    given = {"trainer_limit_train_batches": 1, **given}
    if name == "truncated":  # one long answer in four is cut off
        given["generator"] = ScriptedGenerator(["yes", "No", "Yes", "a much longer answer"])
    strategy, update = given.pop("strategy", None), Update(**{"mini_batches": 2, **options})
    run, kind = run_tiny(strategy, folder="with", update=update, **given), (strategy is None, str(given), update.mini_batches)
    if kind not in PLAIN:
        how, plain = StaticReward() if strategy else None, Update(mini_batches=update.mini_batches)
        PLAIN[kind] = weights_of(run_tiny(how, folder="without", update=plain, **given).module)
    assert not same(weights_of(run.module), PLAIN[kind])
    assert all(value.isfinite().all() for value in weights_of(run.module).values())
    assert run.module.version == update.steps
    (row,) = metrics(run.folder)
    logged = {key.removeprefix("train/"): float(value) for key, value in row.items()}
    assert all(math.isfinite(logged[key]) for key in keys)
    if "importance_cap" in options:
        assert (logged["policy/importance_masked"] > 0) == name.endswith("mask")
    if name == "entropy":
        assert logged["loss/total"] == pytest.approx(logged["loss/policy"] - 0.5 * logged["policy/entropy"], abs=1e-6)
    if name == "clip_cov":
        tokens = 8 * logged["rollout/length"]
        assert logged["policy/clip_cov_fraction"] == pytest.approx(int(0.1 * tokens) / tokens, abs=1e-6)
    if name == "dapo":
        assert logged["reward/mean"] == pytest.approx(logged["reward/static"] + logged["reward/overlong"], abs=1e-6)
        assert logged["reward/overlong"] < -0.4


def test_masking_what_was_cut_off(run_tiny):
    """With nothing cut off the run is the same to the last bit; what is cut off counts in its group's mean and nowhere else."""
    short = {"generator": ScriptedGenerator(["yes", "No", "Yes"]), "sampling": Sampling(max_new_tokens=12)}
    long = {"generator": ScriptedGenerator(["a much longer answer", "another long answer"])}
    plain, masked, nothing = (
        run_tiny(
            StaticReward(), folder=folder, update=Update(mask_truncated_completions=mask), trainer_limit_train_batches=2, **how
        )
        for folder, mask, how in (("plain", False, short), ("masked", True, short), ("nothing", True, long))
    )
    assert column(masked.folder, "train/rollout/truncated") == [0.0] * 2
    assert_same_end(plain, masked)
    assert column(nothing.folder, "train/rollout/truncated") == [1.0] * 2
    assert nothing.module.version == 0


def test_a_resumed_run_leaves_out_the_same_tokens(run_tiny, tmp_path):
    options = {"update": Update(entropy_coef=0.1, **COVARIANT | {"mini_batches": 2}), "trainer_limit_train_batches": 3}
    whole = run_tiny(StaticReward(), saving(tmp_path, 4), folder="whole", trainer_enable_checkpointing=True, **options)
    again = run_tiny(StaticReward(), folder="again", ckpt_path=str(tmp_path / "step=4.ckpt"), **options)
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
