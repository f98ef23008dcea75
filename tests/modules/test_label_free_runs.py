"""Whole runs of the label-free methods with a tiny policy whose first letter counts as its answer."""

import math
import shutil
from dataclasses import replace

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
from tests.modules.helpers import column, metrics, same, weights_of


class Boxing(HFGenerator):
    """Real rollouts of a policy that knows no boxes: which of five its first token is counts as boxed."""

    def generate(self, *args, **kwargs):
        rollouts = super().generate(*args, **kwargs)
        letters = rollouts.response_ids[..., 0] % 5
        texts = tuple(tuple(rf"\boxed{{{letter}}}" for letter in group) for group in letters.tolist())
        return replace(rollouts, texts=texts)


def run(strategy, folder, *callbacks, generator=None, pairs=False, fit=True, ckpt_path=None, epochs=2, **module):
    second = any(isinstance(callback, EMATeacher) for callback in callbacks)
    built = GRPOModule(
        TINY,
        group_size=4,
        val_group_size=2,
        sampling=Sampling(max_new_tokens=4),
        generator=generator or Boxing(),
        reference=TeacherReference() if second else FrozenReference(),
        update=Update(kl_coef=0.01, mini_batches=2),
        optimizer=adam(1e-2),
        seed=0,
        **module,
    )
    data = ReasoningGymData(task="chain_sum", train=12, val=3, test=3, pairs=pairs, batch_size=3, seed=0)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings = {"max_epochs": epochs, "plugins": [AtomicCheckpointIO()], "enable_checkpointing": saves}
    trainer = make_trainer(folder, [strategy, HeldOut(), *callbacks], **settings)
    if fit:
        trainer.fit(built, datamodule=data, ckpt_path=ckpt_path)
    return built


class SixVoters(MajorityVoteReward):
    """Four rollouts are trained, six vote."""

    def __init__(self):
        super().__init__(voters=6)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_resumed_co_rewarding_2_ends_with_the_same_policy_and_teacher(tmp_path, lora):
    module = {"lora": Lora(r=2)} if lora else {}

    def parts():
        return CoRewardingII(format=0.5, scope="running", weighting=FocalWeighting(1.0)), EMATeacher(0.5, 0.9), CollapseWatch()

    strategy, *others = parts()
    saving = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    whole = run(strategy, tmp_path / "whole", *others, saving, **module)
    assert whole.version == 16
    for step in (2, 6, 10):
        shutil.copytree(tmp_path / "whole", tmp_path / f"resumed{step}")
        strategy, *others = parts()
        path = str(tmp_path / "saved" / f"step={step}.ckpt")
        resumed = run(strategy, tmp_path / f"resumed{step}", *others, ckpt_path=path, **module)
        assert same(weights_of(resumed), weights_of(whole))
        for mine, theirs in zip(resumed.teacher.parts(), whole.teacher.parts(), strict=True):
            assert mine.equal(theirs)
        assert metrics(tmp_path / f"resumed{step}") == metrics(tmp_path / "whole")
    gap = max(
        float((t - p).abs().max())
        for t, p in zip(whole.teacher.parts(), [p for p in whole.policy.parameters() if p.requires_grad], strict=True)
    )
    assert gap > 1e-3


@pytest.mark.parametrize(("method", "others"), [(CoRewardingI, ()), (CoRewardingIII, (EMATeacher,)), (SixVoters, ())])
def test_resumed_runs_on_pairs_and_with_more_voters_equal_the_uninterrupted_ones(tmp_path, method, others):
    saving = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    whole = run(method(), tmp_path / "whole", *(other() for other in others), saving, pairs=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    path = str(tmp_path / "saved" / "step=6.ckpt")
    resumed = run(method(), tmp_path / "resumed", *(other() for other in others), pairs=True, ckpt_path=path)
    assert same(weights_of(resumed), weights_of(whole))
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "whole")


LOGGED = {
    CoRewardingI: ("train/vote/share", "train/vote/swap_agreement", "train/criterion/agreement/score", "train/answer/accuracy"),
    CoRewardingII: ("train/vote/share", "train/vote/teacher_agreement", "train/teacher/weight", "train/time/teacher_generate_s"),
    CoRewardingIII: ("train/vote/share", "train/vote/teacher_agreement", "train/vote/swap_agreement", "train/teacher/weight"),
    MajorityVoteReward: ("train/vote/share", "train/vote/distinct", "train/vote/accuracy", "train/vote/unanswered"),
    SelfCertaintyReward: ("train/certainty/self_certainty", "train/certainty/entropy", "train/criterion/certainty/score"),
    EntropyReward: ("train/certainty/entropy", "train/criterion/certainty/score"),
    GroundTruthReward: ("train/criterion/correct/score", "train/answer/accuracy"),
}


@pytest.mark.parametrize("method", LOGGED, ids=lambda method: method.__name__)
def test_every_method_trains_and_is_measured_against_gold(tmp_path, method):
    teacher = [EMATeacher()] if issubclass(method, CoRewardingII) else []
    module = run(method(), tmp_path / "run", *teacher, pairs=method in (CoRewardingI, CoRewardingIII), epochs=1)
    for name in (*LOGGED[method], "train/policy/kl", "val/criterion/correct/score", "val/held_out/mean"):
        assert column(tmp_path / "run", name), name
    certain = method in (SelfCertaintyReward, EntropyReward)
    assert module.version >= (8 if certain else 1)
    if method is MajorityVoteReward:
        shares = column(tmp_path / "run", "train/vote/share")
        assert all(0.25 <= share <= 1 for share in shares)


def test_two_sides_train_at_once(tmp_path, monkeypatch):
    """A batch of three pairs is six groups, answered in one call, and one update."""
    calls, sizes = [], []
    generate = Boxing.generate

    def spy(self, policy, tokenizer, prompts, **kwargs):
        calls.append(prompts.ids)
        return generate(self, policy, tokenizer, prompts, **kwargs)

    monkeypatch.setattr(Boxing, "generate", spy)
    learn = GRPOModule._with_logp
    monkeypatch.setattr(GRPOModule, "_with_logp", lambda self, s: sizes.append(s.views.tolist()) or learn(self, s))
    run(CoRewardingI(), tmp_path / "run", pairs=True, epochs=1)
    train = [ids for ids in calls if any(name.endswith("/rephrased") for name in ids)]
    assert len(train) == len(sizes) == 4
    for ids in train:
        assert [f"{name}/rephrased" for name in ids[:3]] == list(ids[3:])
    assert all(views == [0] * 12 + [1] * 12 for views in sizes)


@pytest.mark.parametrize("method", [CoRewardingI, CoRewardingII, MajorityVoteReward], ids=lambda method: method.__name__)
def test_batches_without_any_vote_change_nothing(tmp_path, method):
    """A policy that never boxes: no labels, no update, no crash, and the log says why."""
    teacher = [EMATeacher()] if method is CoRewardingII else []
    module = run(method(), tmp_path / "run", *teacher, generator=HFGenerator(), pairs=method is CoRewardingI, epochs=1)
    assert module.version == 0
    fresh, _ = load_policy(TINY)
    assert same(weights_of(module), {name: value.detach() for name, value in fresh.state_dict().items()})
    assert column(tmp_path / "run", "train/vote/no_label") == [1.0] * 4
    assert column(tmp_path / "run", "train/vote/unanswered") == [1.0] * 4
    assert column(tmp_path / "run", "train/reward/valid_share") == [0.0] * 4


def test_certainty_of_the_module_is_that_of_transformers_logits(tmp_path):
    module = run(SelfCertaintyReward(), tmp_path / "run", epochs=1)
    data = ReasoningGymData(task="chain_sum", train=12, val=3, test=3, pairs=False, batch_size=3, seed=0)
    data.setup("fit")
    (batch, *_) = list(data.train_dataloader())
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
