"""From one rollout batch to optimiser steps: how many, with which weights, and when none is taken."""

import copy
import math

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from lightning_focal.callbacks import HeldOut, RolloutObserver
from lightning_focal.generation import HFGenerator, Sampling, ScriptedGenerator
from lightning_focal.models import load_policy
from lightning_focal.modules import Update
from lightning_focal.modules.loss import step_normaliser
from lightning_focal.rewards import FocalReward, StaticReward
from tests.conftest import TINY, adam
from tests.modules.helpers import BrokenAdvantage, FailingJudge, backward_of_step, column, logp_of, metrics, same, weights_of


def sgd(lr):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


@pytest.fixture
def snapshots():
    """A callback hook that keeps the weights after every batch: ``snapshots(run)`` before fitting."""

    def watch(run):
        kept = []
        run.trainer.callbacks.append(LambdaCallback(on_train_batch_end=lambda *_: kept.append(weights_of(run.module))))
        return kept

    return watch


def test_epochs_times_mini_batches_steps(run_tiny):
    run = run_tiny(update=Update(epochs=3, mini_batches=2), trainer_limit_train_batches=2)
    assert run.trainer.global_step == run.module.version == 2 * 3 * 2
    assert column(run.folder, "train/policy/version") == [6, 12]


def test_skipped_old_logp_equal_computed_ones(run_tiny, monkeypatch):
    skipped = run_tiny(FocalReward(), folder="skipped", trainer_limit_train_batches=2)
    monkeypatch.setattr(Update, "steps", property(lambda self: 2))  # computes them; the loop still takes one step
    computed = run_tiny(FocalReward(), folder="computed", trainer_limit_train_batches=2)
    assert computed.trainer.global_step == skipped.trainer.global_step == 2
    for name, value in skipped.module.policy.state_dict().items():
        assert torch.allclose(value, computed.module.policy.state_dict()[name], atol=1e-5), name
    assert column(computed.folder, "train/policy/ratio_mean") == pytest.approx([1.0] * 2, abs=1e-5)


def test_first_step_of_many_starts_at_ratio_one_and_later_ones_move(run_tiny):
    run = run_tiny(StaticReward(), update=Update(epochs=4), optimizer=adam(0.03), trainer_limit_train_batches=2)
    assert max(column(run.folder, "train/policy/old_kl")) > 1e-3
    assert max(column(run.folder, "train/policy/clip_fraction")) > 0


def step_by_step(policy, sequences, module):
    """The update with a fresh autocast context around every forward and backward."""
    model, update = copy.deepcopy(policy), module.update
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)

    def fresh():
        return torch.autocast("cpu", torch.bfloat16)

    with fresh():
        old = logp_of(model, sequences, 1.0, update.micro_batch_size)
    sequences = type(sequences)(**{**sequences.__dict__, "old_logp": old})
    model.train()
    dice = torch.Generator().manual_seed(module._seed("mini", "0/0"))
    for rows in torch.randperm(len(sequences), generator=dice).tensor_split(2):
        mini = sequences.rows(rows)
        with fresh():
            normaliser = step_normaliser(mini, update)
            backward_of_step(model, mini, update, 1.0, normaliser)
        torch.nn.utils.clip_grad_norm_(model.parameters(), update.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.state_dict())


@pytest.mark.parametrize("stale", [False, True])
def test_autocast_cache_is_never_stale(run_tiny, learned, monkeypatch, stale):
    """Weights cast for the first optimiser step, or without gradient, must not be used in the next; with stale casts it shows."""
    if stale:
        monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    run = run_tiny(
        trainer_precision="bf16-mixed",
        trainer_limit_train_batches=1,
        update=Update(mini_batches=2, micro_batch_size=2),
        data_batch_size=4,
    )
    expected = step_by_step(*learned[0], run.module)
    assert same(weights_of(run.module), expected) is not stale


@pytest.mark.parametrize("limit", [0.125, 0])
def test_gradient_is_clipped_by_its_global_norm(run_tiny, learned, limit):
    """0 clips nothing."""
    run = run_tiny(StaticReward(), optimizer=sgd(1.0), update=Update(gradient_clip_val=limit), trainer_limit_train_batches=1)
    before = learned[0][0].state_dict()
    step = torch.cat([(value - before[name]).flatten() for name, value in run.module.policy.state_dict().items()])
    norm = float(run.trainer.callback_metrics["train/policy/grad_norm"])  # logged as it was before
    assert norm > 0.5
    assert float(step.norm()) == pytest.approx(limit or norm, rel=1e-3)


# -- steps that must not be taken ----------------------------------------------------------------------------------------------


def test_nan_step_is_skipped_and_counted_and_a_good_one_starts_the_count_again(run_tiny, snapshots):
    run = run_tiny(StaticReward(advantage=BrokenAdvantage(0, 1, 3)), fit=False, update=Update(max_bad_steps=3))
    kept = snapshots(run)
    run.trainer.fit(run.module, datamodule=run.data)
    assert same(kept[0], kept[1])
    assert not same(kept[1], kept[2])
    assert same(kept[2], kept[3])
    assert all(value.isfinite().all() for value in kept[-1].values())
    assert column(run.folder, "train/policy/bad_steps") == [1, 2, 2, 3]
    assert run.module.bad_steps_in_a_row == 1
    assert column(run.folder, "train/policy/version") == [0, 0, 1, 1]
    assert [math.isnan(loss) for loss in column(run.folder, "train/loss/total")] == [True, True, False, True]


def test_infinite_gradient_counts_as_bad(run_tiny, snapshots):
    """The loss may be finite where its gradient is not."""
    run = run_tiny(StaticReward(), fit=False, trainer_limit_train_batches=2)
    kept = snapshots(run)
    weight = {}
    run.module.on_train_start = lambda: weight.update(
        hook=run.module.policy.lm_head.weight.register_hook(lambda grad: grad / 0 if len(kept) == 1 else grad)
    )
    run.trainer.fit(run.module, datamodule=run.data)
    assert column(run.folder, "train/policy/bad_steps") == [0, 1]
    assert same(kept[0], kept[1])


def test_run_stops_after_bad_steps_in_a_row(run_tiny, snapshots):
    run = run_tiny(StaticReward(advantage=BrokenAdvantage(1, 2, 3)), fit=False, update=Update(max_bad_steps=3))
    kept = snapshots(run)
    with pytest.raises(FloatingPointError, match=r"not finite in 3 optimiser steps in a row.*max_bad_steps.*loss nan.*update 1:"):
        run.trainer.fit(run.module, datamodule=run.data)
    assert same(weights_of(run.module), kept[0])
    assert len(kept) == 3  # the fourth batch did not end


def test_judge_that_fails_everywhere_changes_nothing(run_tiny, rubric_file):
    held_out, val = HeldOut(), rubric_file(3, "val.jsonl")
    run = run_tiny(
        FocalReward(judge=FailingJudge()), held_out, data_val=val, update=Update(mini_batches=2), trainer_limit_train_batches=2
    )
    assert same(weights_of(run.module), dict(load_policy(TINY)[0].state_dict()))
    assert run.trainer.global_step == 0
    assert column(run.folder, "train/reward/valid_share") == [0.0] * 2
    assert column(run.folder, "train/judge/failure_rate") == [1.0] * 2
    assert column(run.folder, "train/policy/bad_steps") == [0.0] * 2
    assert all(math.isnan(score) for score in held_out.history[-1]["scores"].values())


def test_loss_scaling_is_refused(run_tiny):
    """A scaler would have its gradients clipped while they are still scaled."""
    run = run_tiny(fit=False)
    run.trainer.precision_plugin.scaler = object()
    with pytest.raises(ValueError, match=r"`trainer\.precision`.*16-mixed.*bf16-mixed"):
        run.trainer.fit(run.module, datamodule=run.data)


def test_training_follows_validation_and_rollouts_the_weights(run_tiny, rubric_file):
    """A copy in another precision is brought up to date after every update: each batch names the version it was sampled from.

    Validation runs in inference mode; a copy of the weights made there must not reach a later backward.
    """
    seen = []

    class Watch(RolloutObserver):
        def on_rollouts(self, trainer, pl_module, answers):
            copied = pl_module.generator._copy.model.state_dict()
            fresh = all(copied[k].equal(v.to(copied[k].dtype)) for k, v in pl_module.policy.state_dict().items())
            seen.append((answers.stage, answers.rollouts.version, fresh))

    options = {
        "data_val": rubric_file(2, "val.jsonl"),
        "generator": HFGenerator(dtype="bfloat16"),
        "trainer_limit_train_batches": 2,
    }
    run = run_tiny(FocalReward(), Watch(), fit=False, update=Update(mini_batches=2), **options)
    run.trainer.validate(run.module, datamodule=run.data)
    run.trainer.fit(run.module, datamodule=run.data)
    assert run.trainer.global_step == 4
    assert seen == [("val", 0, True), ("train", 0, True), ("train", 2, True), ("val", 4, True)]
    assert not same(weights_of(run.module), dict(load_policy(TINY)[0].state_dict()))


# -- arguments -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sampling": Sampling(temperature=0)}, r"`model\.sampling\.temperature` must be > 0"),
        ({"update": Update(kl_coef=0.1)}, r"`model\.update\.kl_coef` > 0 needs a reference.*FrozenReference"),
        ({"group_size": 4, "val_group_size": 0}, "must be >= 1, got 4 and 0"),
        ({"update": Update(mini_batches=9)}, r"`model\.update\.mini_batches` is 9, but a batch has only 8 rollouts"),
        # Lightning would make rewards in that width too, and cannot convert the batch
        ({"trainer_precision": "bf16-true"}, r"`trainer\.precision`.*bf16-true.*--model\.dtype=bfloat16"),
        ({"trainer_precision": "64-true"}, r"`trainer\.precision`.*64-true.*--model\.dtype=bfloat16"),
        (
            {"generator": ScriptedGenerator(["yes", "no"]), "update": Update(importance_cap=2.0)},
            "importance_cap` needs the sampler's log-probabilities",
        ),
    ],
)
def test_what_cannot_work_is_refused(run_tiny, arguments, match):
    with pytest.raises(ValueError, match=match):
        run_tiny(**arguments)


def test_default_optimiser_is_adamw_without_decay(run_tiny):
    run = run_tiny(optimizer=None, trainer_limit_train_batches=1)
    assert "train/policy/kl" not in metrics(run.folder)[0]  # no reference
    optimizer = run.trainer.optimizers[0]
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1e-5, 0.0)


def test_the_gap_is_that_of_the_generator_and_the_cap_acts(run_tiny):
    exact = run_tiny(folder="exact", trainer_limit_train_batches=2)
    assert max(column(exact.folder, "train/policy/sampling_gap_max")) < 1e-5
    plain, capped = (
        run_tiny(
            generator=HFGenerator(dtype="bfloat16"),
            update=Update(importance_cap=cap),
            folder=f"cap-{cap}",
            trainer_limit_train_batches=2,
        )
        for cap in (None, 2.0)
    )
    for run in (plain, capped):
        assert min(column(run.folder, "train/policy/sampling_gap")) > 1e-4
        assert min(column(run.folder, "train/policy/sampling_kl")) > 0
    assert column(capped.folder, "train/policy/importance_weight") == pytest.approx([1.0] * 2, abs=0.05)
    assert not same(weights_of(plain.module), weights_of(capped.module))
