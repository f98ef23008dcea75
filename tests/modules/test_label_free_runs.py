"""Whole runs of the label-free methods with a tiny policy whose first letter counts as its answer."""

import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.callbacks import CollapseWatch, EMATeacher, HeldOut
from lightning_focal.data import ReasoningGymData
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import Lora, encode_chat, load_policy
from lightning_focal.modules import FrozenReference, GRPOModule, TeacherReference, Update
from lightning_focal.rewards import (
    CoRewardingI,
    CoRewardingII,
    CoRewardingIII,
    EntropyReward,
    FocalWeighting,
    GroundTruthReward,
    MajorityVoteReward,
    SelfCertaintyReward,
)
from lightning_focal.runs import AtomicCheckpointIO
from tests.conftest import TINY, adam, make_trainer
from tests.modules.helpers import assert_same_end, column, same, saving, weights_of


class Boxing(HFGenerator):
    """Real rollouts of a policy that knows no boxes: which of five its first token is counts as boxed."""

    def generate(self, *args, **kwargs):
        rollouts = super().generate(*args, **kwargs)
        letters = rollouts.response_ids[..., 0] % 5
        texts = tuple(tuple(rf"\boxed{{{letter}}}" for letter in group) for group in letters.tolist())
        return replace(rollouts, texts=texts)


def run(strategy, folder, *callbacks, generator=None, ckpt_path=None, epochs=1, batches=2, **module):
    taught = isinstance(strategy, CoRewardingII)
    built = GRPOModule(
        TINY,
        group_size=4,
        val_group_size=2,
        sampling=Sampling(max_new_tokens=4),
        generator=generator or Boxing(),
        reference=TeacherReference() if taught else FrozenReference(),
        update=Update(kl_coef=0.01, mini_batches=2),
        optimizer=adam(1e-2),
        seed=0,
        **module,
    )
    pairs = isinstance(strategy, (CoRewardingI, CoRewardingIII, SixVoters))
    data = ReasoningGymData(task="chain_sum", train=3 * batches, val=3, test=3, pairs=pairs, batch_size=3, seed=0)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings = {"max_epochs": epochs, "plugins": [AtomicCheckpointIO()], "enable_checkpointing": saves}
    others = [EMATeacher(0.5, 0.9), CollapseWatch()] if taught else []
    make_trainer(folder, [strategy, HeldOut(), *others, *callbacks], **settings).fit(built, datamodule=data, ckpt_path=ckpt_path)
    return SimpleNamespace(module=built, folder=folder, data=data)


class SixVoters(MajorityVoteReward):
    """Four rollouts are trained, six vote."""

    def __init__(self):
        super().__init__(voters=6)


def tempered():
    return CoRewardingII(format=0.5, scope="running", weighting=FocalWeighting(1.0))


LOGGED = {
    CoRewardingI: ("vote/share", "vote/swap_agreement", "criterion/agreement/score", "answer/accuracy"),
    tempered: ("vote/share", "vote/teacher_agreement", "teacher/weight", "time/teacher_generate_s"),
    CoRewardingIII: ("vote/share", "vote/teacher_agreement", "vote/swap_agreement", "teacher/weight"),
    SixVoters: ("vote/share", "vote/distinct", "vote/accuracy", "vote/unanswered"),
    SelfCertaintyReward: ("certainty/self_certainty", "certainty/entropy", "criterion/certainty/score"),
    EntropyReward: ("certainty/entropy", "criterion/certainty/score"),
    GroundTruthReward: ("criterion/correct/score", "answer/accuracy"),
}


def assert_logged(run, method):
    for name in (*map("train/{}".format, LOGGED[method]), "train/policy/kl", "val/criterion/correct/score", "val/held_out/mean"):
        assert column(run.folder, name), name


@pytest.mark.parametrize(
    ("method", "steps", "lora"),
    [(CoRewardingI, (2,), 0), (tempered, (2, 6), 0), (tempered, (6,), 2), (CoRewardingIII, (2,), 0), (SixVoters, (2,), 0)],
    ids=["pairs", "teacher", "teacher and adapters", "pairs and teacher", "voters"],
)
def test_methods_train_and_resumed_runs_equal_the_uninterrupted_ones(tmp_path, method, steps, lora):
    """Policy and teacher, in the middle of the first and of the second epoch."""
    module = {"lora": Lora(r=lora)} if lora else {}
    whole = run(method(), tmp_path / "whole", saving(tmp_path / "saved"), epochs=2, **module)
    assert_logged(whole, method)
    assert all(0.25 <= share <= 1 for share in column(whole.folder, "train/vote/share"))
    for step in steps:
        folder = shutil.copytree(whole.folder, tmp_path / f"resumed{step}")
        resumed = run(method(), folder, ckpt_path=str(tmp_path / "saved" / f"step={step}.ckpt"), epochs=2, **module)
        assert_same_end(resumed, whole)
        if method is tempered:
            for mine, theirs in zip(resumed.module.teacher.parts(), whole.module.teacher.parts(), strict=True):
                assert mine.equal(theirs)
    if method is tempered:
        assert whole.module.version == 8
        trained = [p for p in whole.module.policy.parameters() if p.requires_grad]
        gaps = [(t - p.detach()).abs().max() for t, p in zip(whole.module.teacher.parts(), trained, strict=True)]
        assert float(max(gaps)) > 1e-3


@pytest.mark.parametrize("method", [SelfCertaintyReward, EntropyReward, GroundTruthReward], ids=lambda method: method.__name__)
def test_methods_without_votes_train_and_are_measured_against_gold(tmp_path, method):
    one = run(method(), tmp_path / "run")
    assert_logged(one, method)
    assert one.module.version >= (1 if method is GroundTruthReward else 4)
    if method is SelfCertaintyReward:
        assert_certainty_is_that_of_transformers_logits(one.module, next(iter(one.data.train_dataloader())))


def assert_certainty_is_that_of_transformers_logits(module, batch):
    prompts = replace(batch, tokens=tuple(tuple(encode_chat(module.tokenizer, chat)) for chat in batch.messages))
    rollouts = module.roll_out(prompts, "train")
    got = module.certainty(rollouts)
    for p in range(3):
        prompt = rollouts.prompt_ids[p][rollouts.prompt_mask[p]].tolist()
        for g in range(4):
            response = rollouts.response_ids[p, g][rollouts.response_mask[p, g]].tolist()
            with torch.no_grad():
                logits = module.policy.eval()(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
            logp = logits.log_softmax(-1)
            certainty = (-logp.mean(-1) - math.log(logp.shape[-1])).mean()
            entropy = -(logp.exp() * logp).sum(-1).mean()
            assert float(got["self_certainty"][p, g]) == pytest.approx(float(certainty), abs=1e-5)
            assert float(got["entropy"][p, g]) == pytest.approx(float(entropy), abs=1e-5)


def test_two_sides_train_at_once(tmp_path, monkeypatch, learned):
    """A batch of three pairs is six groups, answered in one call, and one update."""
    calls, generate = [], Boxing.generate

    def spy(self, policy, tokenizer, prompts, **kwargs):
        calls.append(prompts.ids)
        return generate(self, policy, tokenizer, prompts, **kwargs)

    monkeypatch.setattr(Boxing, "generate", spy)
    run(CoRewardingI(), tmp_path / "run")
    train = [ids for ids in calls if any(name.endswith("/rephrased") for name in ids)]
    assert len(train) == len(learned) == 2
    for ids in train:
        assert [f"{name}/rephrased" for name in ids[:3]] == list(ids[3:])
    assert all(rows.views.tolist() == [0] * 12 + [1] * 12 for _, rows in learned)


@pytest.mark.parametrize("method", [CoRewardingI, CoRewardingII, MajorityVoteReward], ids=lambda method: method.__name__)
def test_batches_without_any_vote_change_nothing(tmp_path, method):
    """A policy that never boxes: no labels, no update, no crash, and the log says why."""
    one = run(method(), tmp_path / "run", generator=HFGenerator())
    assert one.module.version == 0
    assert same(weights_of(one.module), dict(load_policy(TINY)[0].state_dict()))
    for name, value in (("vote/no_label", 1.0), ("vote/unanswered", 1.0), ("reward/valid_share", 0.0)):
        assert column(one.folder, f"train/{name}") == [value] * 2
