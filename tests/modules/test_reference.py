"""What the KL term compares with: a frozen copy, or the adapters switched off."""

import pytest
import torch

from lightning_focal.models import Lora, has_adapters, load_policy
from lightning_focal.modules import FrozenReference, NoReference, Update
from lightning_focal.rewards import StaticReward
from tests.conftest import TINY
from tests.modules.helpers import column, full_logp, rows_of, same, saving, weights_of


def test_kl_by_hand_and_frozen_weights_that_stay(run_tiny, learned, tmp_path):
    """The KL of the first two batches, k3, from transformers' log-probabilities of policy and source; it is part of the loss.

    The frozen weights are no part of a checkpoint.
    """
    options = {"reference": FrozenReference(), "update": Update(kl_coef=0.5), "trainer_limit_train_batches": 2}
    run, source, seen = run_tiny(StaticReward(), **options), load_policy(TINY)[0], []
    for policy, rows in learned:
        with torch.no_grad():
            pairs = [[full_logp(model, *row) for model in (source, policy)] for row in rows_of(rows)]
        difference = torch.cat([its - own for its, own in pairs])
        seen.append(float((torch.expm1(difference) - difference).mean()))
    policy, total, kl = (column(run.folder, f"train/{name}") for name in ("loss/policy", "loss/total", "policy/kl"))
    assert kl[0] == 0
    assert kl[1] == pytest.approx(seen[1], rel=1e-3)
    assert kl[1] > 1e-5
    assert [t - p for t, p in zip(total, policy, strict=True)] == pytest.approx([0.5 * k for k in kl], abs=1e-6)
    frozen = run.module.reference.copy
    assert same(dict(frozen.state_dict()), dict(source.state_dict()))
    assert not same(weights_of(run.module), dict(source.state_dict()))
    assert not frozen.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen.parameters())
    run.trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {f"policy.{name}" for name in source.state_dict()}


def test_reference_may_have_another_precision(run_tiny):
    run = run_tiny(
        StaticReward(), reference=FrozenReference("bfloat16"), update=Update(kl_coef=0.1), trainer_limit_train_batches=1
    )
    assert {p.dtype for p in run.module.reference.copy.parameters()} == {torch.bfloat16}
    assert 0 < float(run.trainer.callback_metrics["train/policy/kl"]) < 1e-2  # rounding alone


def test_unknown_precision():
    with pytest.raises(ValueError, match=r"`dtype` must be null, 'auto', .* got 'float8'"):
        FrozenReference("float8")


def test_no_reference_refuses_to_lend():
    reference = NoReference()
    assert not reference.active
    with pytest.raises(RuntimeError, match="FrozenReference"), reference.model(torch.nn.Linear(1, 1)):
        pass


# -- low-rank adapters ---------------------------------------------------------------------------------------------------------

LORA = {"lora": Lora(r=2, alpha=4.0), "reference": FrozenReference(), "update": Update(kl_coef=0.1)}


def test_only_adapters_train_and_the_reference_is_without_them(run_tiny):
    run = run_tiny(StaticReward(), **LORA, trainer_limit_train_batches=2)
    policy, (source, _) = run.module.policy, load_policy(TINY)
    assert has_adapters(policy)
    assert run.module.reference.copy is None  # no second model
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert sum(len(group["params"]) for group in run.trainer.optimizers[0].param_groups) == len(trained)
    base = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): value
        for name, value in policy.state_dict().items()
        if ".lora_" not in name
    }
    assert same(base, dict(source.state_dict()))
    kl = column(run.folder, "train/policy/kl")
    assert kl[0] == 0
    assert kl[-1] > 0
    prompt = torch.tensor([[5, 6, 7]])
    policy.train()
    with torch.no_grad(), run.module.reference.model(policy) as plain:
        assert not plain.training
        assert torch.allclose(plain(prompt).logits, source(prompt).logits, atol=1e-6)
    assert policy.training
    with torch.no_grad():
        assert not torch.allclose(policy(prompt).logits, source(prompt).logits, atol=1e-4)


def test_adapters_resume_bit_for_bit(run_tiny, tmp_path):
    """With dropout, which draws from the global random state."""
    lora = {**LORA, "lora": Lora(r=2, alpha=4.0, dropout=0.2), "trainer_limit_train_batches": 3}
    whole = run_tiny(StaticReward(), saving(tmp_path), folder="whole", trainer_enable_checkpointing=True, **lora)
    resumed = run_tiny(StaticReward(), folder="resumed", ckpt_path=str(tmp_path / "step=2.ckpt"), **lora)
    assert resumed.trainer.global_step == 3
    assert same(weights_of(resumed.module), weights_of(whole.module))
