"""Supervised warm start of a tiny policy."""

import logging
import math

import pytest
import torch
from lightning.pytorch import LightningDataModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping

from lightning_focal.data import PromptLoader
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import Lora, encode_chat, load_policy
from lightning_focal.modules import SFTModule, WarmupCosine
from lightning_focal.types import Prompts
from tests.conftest import make_trainer
from tests.modules.helpers import full_logp, same, weights_of

TINY = "random:tiny-llama?hidden=32&layers=1&std=0.1"
ANSWERS = {"a": "1", "b": "22", "c": "1", "d": "3"}


class Is:
    """Grades an answer by one string."""

    def __init__(self, right):
        self.right = right

    def __call__(self, answer):
        return float(answer == self.right)


def shown(ids, graded=True, views=(0,)):
    rows = [(name, view) for view in views for name in ids]
    return Prompts(
        ids=tuple(f"{name}/{view}" for name, view in rows),
        messages=tuple(({"role": "user", "content": name.upper() if view else name},) for name, view in rows),
        extra=tuple({"response": f"\\boxed{{{ANSWERS[name]}}}"} for name, _ in rows),
        questions=tuple(name for name, _ in rows),
        views=tuple(view for _, view in rows),
        graders=tuple(Is(ANSWERS[name]) for name, _ in rows) if graded else (),
    )


class Letters(LightningDataModule):
    """Four questions, learned by heart; held-out ones are the same."""

    def __init__(self, views=(0,), batch_size=4, graded=True):
        super().__init__()
        self.views, self.batch_size, self.graded, self.asked = views, batch_size, graded, []

    def take(self, rows):
        return shown([list(ANSWERS)[row] for row in rows], self.graded, self.views)

    def train_dataloader(self):
        return PromptLoader(self.take, 4, self.batch_size, shuffle=True, seed=1)

    def val_dataloader(self):
        return PromptLoader(self.take, 4, 2, shuffle=False)

    def drop_long_prompts(self, count_tokens):
        self.asked.append(count_tokens([{"role": "user", "content": "a"}]))


def module(**arguments):
    sampling = Sampling(max_new_tokens=12)
    return SFTModule(
        **{"policy": TINY, "val_sampling": sampling, "optimizer": lambda p: torch.optim.AdamW(p, lr=1e-2), **arguments}
    )


def fit(tmp_path, sft=None, data=None, ckpt_path=None, **arguments):
    seed_everything(0, verbose=False)
    sft = sft or module()
    trainer = make_trainer(tmp_path, arguments.pop("callbacks", []), **{"num_sanity_val_steps": 0, "logger": False, **arguments})
    trainer.fit(sft, datamodule=data or Letters(), ckpt_path=ckpt_path)
    return trainer, sft


def mean_cross_entropy(policy, tokenizer, prompts):
    """One sequence at a time, by transformers' own logits."""
    total = tokens = 0
    for messages, extra in zip(prompts.messages, prompts.extra, strict=True):
        response = [*tokenizer(extra["response"])["input_ids"], tokenizer.eos_token_id]
        total -= full_logp(policy, encode_chat(tokenizer, messages), response).sum().item()
        tokens += len(response)
    return total / tokens


def test_losses_are_means_over_response_tokens_of_all_batches(tmp_path):
    policy, tokenizer = load_policy(TINY)
    wanted = mean_cross_entropy(policy.eval(), tokenizer, shown(ANSWERS))
    trainer, sft = fit(tmp_path, max_steps=1)
    assert float(trainer.callback_metrics["train/loss/total"]) == pytest.approx(wanted, rel=1e-5)
    wanted = mean_cross_entropy(sft.policy.eval(), sft.tokenizer, shown(ANSWERS))
    assert float(trainer.callback_metrics["val/loss/total"]) == pytest.approx(wanted, rel=1e-5)


def test_accumulated_batches_weigh_tokens(tmp_path, monkeypatch):
    """One step over four responses of unlike lengths, however they are cut, also where an epoch ends before a step is full."""
    monkeypatch.setitem(ANSWERS, "b", "2" * 40)
    one, *others = (module(val_questions=0, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)) for _ in range(3))
    fit(tmp_path, one, max_steps=1)
    for many, size, batches in zip(others, (2, 1), (2, 8), strict=True):
        fit(tmp_path, many, Letters(batch_size=size), max_steps=1, accumulate_grad_batches=batches)
        for left, right in zip(one.parameters(), many.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)


def test_learns_by_heart_says_so_and_stops_at_a_target(tmp_path):
    data, stop = Letters(views=(0, 1)), EarlyStopping("val/accuracy/worst", mode="max", patience=10**9, stopping_threshold=0.99)
    settings = {"max_epochs": 200, "check_val_every_n_epoch": 20, "gradient_clip_val": 1.0, "callbacks": [stop]}
    trainer, _ = fit(tmp_path, data=data, **settings)
    assert trainer.current_epoch < 200
    seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert seen["val/accuracy/original"] > 0.9
    assert seen["val/accuracy/rephrased"] > 0.9
    assert seen["val/accuracy/worst"] == min(seen["val/accuracy/original"], seen["val/accuracy/rephrased"])
    assert seen["val/majority/worst"] == 1
    assert seen["val/response/boxed"] > 0.9
    assert seen["val/response/truncated"] < 0.1
    assert 9 <= seen["val/response/length"] <= 11
    assert data.asked == [len("?user\na?\n?assistant\n")]  # ? = one special token: prompts are measured before weights are read


def test_the_same_dice_in_every_validation(tmp_path):
    first, second = (fit(tmp_path, module(), max_steps=1)[0].callback_metrics for _ in range(2))
    assert {n: float(v) for n, v in first.items()} == {n: float(v) for n, v in second.items()}


@pytest.mark.parametrize(("limit", "answered"), [(0, 0), (3, 6), (100, 8)])
def test_as_many_questions_are_answered_as_asked_for(tmp_path, limit, answered):
    """Both views of each question, whatever the batches."""

    class Counting(HFGenerator):
        asked = 0

        def generate(self, policy, tokenizer, prompts, **kwargs):
            self.asked += len(prompts)
            return super().generate(policy, tokenizer, prompts, **kwargs)

    generator = Counting()
    trainer, _ = fit(tmp_path, module(val_questions=limit, generator=generator), Letters(views=(0, 1)), max_steps=1)
    assert generator.asked == answered
    assert ("val/accuracy/worst" in trainer.callback_metrics) == (answered > 0)
    assert "val/loss/total" in trainer.callback_metrics


def test_questions_without_a_scorer(tmp_path):
    trainer, _ = fit(tmp_path, data=Letters(graded=False), max_steps=1)
    assert "val/response/boxed" in trainer.callback_metrics
    assert not any("accuracy" in name for name in trainer.callback_metrics)


def test_a_scorer_that_fails_is_told_once_and_ends_no_run(tmp_path, monkeypatch, caplog):
    def fails(self, answer):
        raise OverflowError("too large")

    monkeypatch.setattr(Is, "__call__", fails)
    with caplog.at_level(logging.WARNING, logger="lightning_focal"):
        trainer, _ = fit(tmp_path, max_epochs=2)  # two validations
    told = [record.getMessage() for record in caplog.records if record.name == "lightning_focal.modules.sft"]
    assert len(told) == 1
    assert "the grader failed (OverflowError: too large)" in told[0]
    assert "val/response/boxed" in trainer.callback_metrics
    assert not any("accuracy" in name or "majority" in name for name in trainer.callback_metrics)


def test_adapters_alone_are_trained_also_beside_a_copy_in_another_precision(tmp_path):
    """Validation runs in inference mode; the copy is made there and must not break a later backward."""
    sft = module(lora=Lora(r=2, alpha=4.0), generator=HFGenerator(dtype="bfloat16"))
    trainer, _ = fit(tmp_path, sft, max_epochs=2, precision="bf16-mixed")
    assert math.isfinite(float(trainer.callback_metrics["val/accuracy/worst"]))
    plain = dict(load_policy(TINY)[0].named_parameters())
    inner = dict(sft.policy.get_base_model().named_parameters())
    assert all(plain[name.replace(".base_layer", "")].equal(p) for name, p in inner.items() if "lora" not in name)
    assert any(p.abs().max() > 0 for name, p in inner.items() if "lora_B" in name)


def test_weights_and_schedule_survive_a_checkpoint(tmp_path):
    """The schedule learns the length of the run."""
    whole, half, again = (
        module(val_questions=0, lr_scheduler=lambda o, total=total: WarmupCosine(o, warmup=0.0, total=total))
        for total in (None, 4, 4)
    )
    fit(tmp_path, half, max_epochs=2)[0].save_checkpoint(tmp_path / "half.ckpt")
    for sft, path in ((again, tmp_path / "half.ckpt"), (whole, None)):
        trainer, _ = fit(tmp_path, sft, ckpt_path=path, max_epochs=4)
        assert float(trainer.callback_metrics["train/policy/lr"]) == pytest.approx(1e-2 * (1 + math.cos(math.pi * 3 / 4)) / 2)
    assert same(weights_of(again), weights_of(whole))


def test_what_cannot_work_is_refused(tmp_path):
    for arguments in ({"val_questions": -1}, {"val_group_size": 0}):
        with pytest.raises(ValueError, match=r"`model.val_questions` must be >= 0 and `model.val_group_size` >= 1, got"):
            module(**arguments)
    with pytest.raises(ValueError, match=r"`model.lr_scheduler` must be stepped by optimiser steps, got ReduceLROnPlateau"):
        fit(tmp_path, module(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau))
    with pytest.raises(ValueError, match=r"the demonstration of prompt '\w/0' has 1[01] tokens, 9 are allowed"):
        fit(tmp_path, module(max_response_tokens=9))
    with pytest.raises(RuntimeError, match="the policy is not loaded yet"):  # until a trainer starts
        _ = module().model
