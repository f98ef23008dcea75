"""The slow teacher against hand-computed averages, beside whole policies, adapters and shards, and in checkpoints."""

import math
import shutil

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.callbacks import EMATeacher, HeldOut
from lightning_focal.callbacks.teacher import TeacherWeights
from lightning_focal.models import Lora, apply_lora, load_policy
from lightning_focal.modules import FrozenReference, TeacherReference, Update
from lightning_focal.rewards import StaticReward
from tests.conftest import TINY
from tests.modules.helpers import column, metrics, same, weights_of
from tests.processes import run_ranks


def alpha(k, total, start=0.99, end=0.9999):
    return end - (end - start) / 2 * (1 + math.cos(math.pi * k / total))


def float64(tensors):
    return [tensor.detach().double().clone() for tensor in tensors]


class Watch(Callback):
    """Policy and teacher around every batch."""

    def __init__(self):
        self.before, self.teachers = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(float64(p for p in pl_module.policy.parameters() if p.requires_grad))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.teachers.append(float64(pl_module.teacher.parts()))


@pytest.mark.parametrize(("every", "lora"), [(1, None), (2, Lora(r=2))], ids=["whole", "lora"])
def test_teacher_equals_a_loop_in_float64(run_tiny, every, lora):
    """It sees the policy before the update of the batch it is in."""
    watch, teacher = Watch(), EMATeacher(start=0.5, end=0.9, update_every=every)
    run = run_tiny(StaticReward(), teacher, watch, lora=lora, trainer_max_epochs=2)
    expected = watch.before[0]
    assert len(watch.teachers) == 8
    for k, (policy, got) in enumerate(zip(watch.before, watch.teachers, strict=True)):
        if k % every == 0:
            weight = alpha(k, 7, 0.5, 0.9)
            expected = [weight * t + (1 - weight) * p for t, p in zip(expected, policy, strict=True)]
        for mine, theirs in zip(expected, got, strict=True):
            torch.testing.assert_close(theirs, mine, atol=1e-6, rtol=0)
    moved = max(float((a - b).abs().max()) for a, b in zip(watch.teachers[-1], watch.before[0], strict=True))
    assert moved > 1e-3  # the policy moved, and the teacher after it
    weights = column(run.folder, "train/teacher/weight")
    assert weights[0] == 0.5
    assert weights[-1] == pytest.approx(0.9 if every == 1 else 1.0)  # start in the first batch, end in the last
    assert [weight == 1.0 for weight in weights] == [bool(k % every) for k in range(8)]


# -- lending -------------------------------------------------------------------------------------------------------------------


def adapted(std=0.3):
    policy, _ = load_policy(TINY)
    torch.manual_seed(0)
    policy = apply_lora(policy, Lora(r=2))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=std)
    return policy


def test_lent_adapters_are_the_averages_and_the_policy_is_left_as_it_was():
    policy, ids = adapted().train(), torch.tensor([[5, 6, 7]])
    before = weights_of_model(policy)
    teacher = TeacherWeights(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    now, logits = weights_of_model(policy), policy(ids).logits
    teacher.update(policy, 0.75)
    with torch.no_grad(), teacher.use_weights(policy) as lent:
        assert not lent.training
        held = {name: value.clone() for name, value in lent.state_dict().items()}
        taught = lent(ids).logits
    for name, value in held.items():
        expected = 0.75 * before[name] + 0.25 * now[name] if ".lora_" in name else before[name]
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=0)
    assert not torch.allclose(taught, logits, atol=1e-3)
    assert policy.training
    assert policy(ids).logits.equal(logits)
    assert same(weights_of_model(policy), now)
    with pytest.raises(RuntimeError, match="out of memory"), teacher.use_weights(policy):
        raise RuntimeError("out of memory")
    assert same(weights_of_model(policy), now)  # put back after an error, too
    # averages of adapters alone: nothing of the frozen weights is kept twice
    assert sum(t.numel() for t in teacher.parts()) == sum(p.numel() for p in policy.parameters() if p.requires_grad)


def weights_of_model(policy):
    return {name: value.clone() for name, value in policy.state_dict().items()}


def test_tied_weights_exist_once():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=True
    )
    policy = LlamaForCausalLM(config)
    teacher = TeacherWeights(policy)
    assert teacher.model.lm_head.weight is teacher.model.model.embed_tokens.weight
    assert len(teacher.parts()) == len(list(policy.parameters()))
    with torch.no_grad():
        policy.lm_head.weight.add_(1.0)
    old = teacher.model.lm_head.weight.clone()
    teacher.update(policy, 0.75)  # once: twice would be 0.75 ** 2
    torch.testing.assert_close(teacher.model.lm_head.weight, old + 0.25, atol=1e-6, rtol=0)


def test_small_steps_survive_a_policy_in_bfloat16():
    policy, _ = load_policy(TINY, dtype="bfloat16")
    teacher = TeacherWeights(policy, offload=True)
    assert {part.dtype for part in teacher.parts()} == {torch.float32}
    with teacher.use_weights(policy) as lent:
        assert next(lent.parameters()).device == next(policy.parameters()).device
    assert next(teacher.parameters()).device == torch.device("cpu")  # an offloaded teacher comes back
    start = float64(teacher.parts())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.25)
    gap = float64(policy.parameters())
    for _ in range(100):
        teacher.update(policy, 0.9999)
    for first, aim, part in zip(start, gap, teacher.parts(), strict=True):
        torch.testing.assert_close(part.double(), aim + 0.9999**100 * (first - aim), atol=1e-6, rtol=0)


# -- as the reference ----------------------------------------------------------------------------------------------------------


def test_kl_to_the_teacher_starts_at_zero_and_stays_below_that_to_the_start(run_tiny):
    near, far = (
        column(
            run_tiny(StaticReward(), *teacher, reference=reference, folder=name, update=Update(kl_coef=1e-6)).folder,
            "train/policy/kl",
        )
        for name, teacher, reference in (("slow", [EMATeacher(0.5, 0.5)], TeacherReference()), ("frozen", [], FrozenReference()))
    )
    assert near[0] == pytest.approx(0, abs=1e-12)
    assert 0 < near[-1] < 0.7 * far[-1]


# -- checkpoints ---------------------------------------------------------------------------------------------------------------


def taught(run_tiny, rubric_file, folder, *callbacks, **kwargs):
    options = {
        "reference": TeacherReference(),
        "update": Update(kl_coef=0.1, mini_batches=2),
        "data_val": rubric_file(3, "val.jsonl"),
    }
    options |= {"trainer_max_epochs": 2, "trainer_enable_checkpointing": bool(callbacks), "folder": folder}
    return run_tiny(StaticReward(), EMATeacher(start=0.5, end=0.9, update_every=2), HeldOut(), *callbacks, **options, **kwargs)


@pytest.mark.parametrize(("lora", "step"), [(None, 10), (Lora(r=2), 2)], ids=["whole", "lora"])
def test_resumed_run_ends_with_the_same_policy_and_teacher(run_tiny, rubric_file, tmp_path, lora, step):
    saving = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    whole = taught(run_tiny, rubric_file, "whole", saving, lora=lora)
    assert max(float((t - p).abs().max()) for t, p in zip(*sides(whole), strict=True)) > 1e-3
    shutil.copytree(whole.folder, tmp_path / "resumed")
    path = str(tmp_path / "saved" / f"step={step}.ckpt")
    assert any(name.startswith("teacher.") for name in torch.load(path, weights_only=True)["state_dict"])
    resumed = taught(run_tiny, rubric_file, "resumed", lora=lora, ckpt_path=path)
    assert same(weights_of(resumed.module), weights_of(whole.module))
    for mine, theirs in zip(sides(resumed)[0], sides(whole)[0], strict=True):
        assert mine.equal(theirs)
    assert metrics(resumed.folder) == metrics(whole.folder)


def sides(run):
    return run.module.teacher.parts(), [p for p in run.module.policy.parameters() if p.requires_grad]


def test_checkpoints_with_and_without_a_teacher_are_told_apart(run_tiny, tmp_path):
    def saving(name):
        return ModelCheckpoint(tmp_path, filename=name, every_n_train_steps=2)

    bare = str(tmp_path / "bare.ckpt")
    bare_run = run_tiny(StaticReward(), saving("bare"), trainer_enable_checkpointing=True, folder="bare")
    with pytest.raises(ValueError, match="the checkpoint holds no teacher, this run has an EMATeacher"):
        run_tiny(StaticReward(), EMATeacher(), folder="a", ckpt_path=bare)
    with_teacher = str(tmp_path / "with.ckpt")
    run = run_tiny(StaticReward(), EMATeacher(), saving("with"), trainer_enable_checkpointing=True, folder="with")
    with pytest.raises(ValueError, match="the checkpoint holds a teacher, this run has none"):
        run_tiny(StaticReward(), folder="b", ckpt_path=with_teacher)
    with pytest.raises(RuntimeError, match=r"this run has no teacher: add lightning_focal.callbacks.EMATeacher"):
        bare_run.module.roll_out(None, "teacher", teacher=True)
    plain = run_tiny(StaticReward(), fit=False, folder="c", data_val=run.data.files["train"])
    plain.trainer.validate(plain.module, datamodule=plain.data, ckpt_path=with_teacher, verbose=False)
    assert same(weights_of(plain.module), weights_of(run.module))  # the policy alone is needed there


# -- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("teachers", "kwargs", "message"), [
    ((EMATeacher(), EMATeacher(update_every=3)), {}, "holds 2 EMATeachers, at most one"),
    ((EMATeacher(),), {"trainer_max_epochs": -1}, "EMATeacher.total_batches` must be given for a run without end"),
    ((), {"reference": TeacherReference(), "update": Update(kl_coef=0.1)}, "TeacherReference` needs a teacher: add one to"),
])  # fmt: skip
def test_runs_that_do_not_start(run_tiny, teachers, kwargs, message):
    with pytest.raises(ValueError, match=message):
        run_tiny(StaticReward(), *teachers, **kwargs)
    with pytest.raises(ValueError, match="parameters that are trained, got one that is frozen"):
        TeacherWeights(load_policy(TINY)[0].requires_grad_(False))


# -- shards --------------------------------------------------------------------------------------------------------------------


def worker(rank):
    for lora in (False, True):
        beside_shards(lora)


def beside_shards(lora):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    whole, sharded = (adapted() if lora else load_policy(TINY)[0] for _ in range(2))
    teachers = [TeacherWeights(whole), TeacherWeights(sharded)]  # made before the policy is sharded, sharded like it
    for model in (sharded, teachers[1].model):
        if model is not None:
            for layer in (model.get_base_model() if lora else model).model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
    if lora:
        fully_shard(teachers[1], mesh=mesh)
    with torch.no_grad():
        for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
            if one.requires_grad:
                one.mul_(1.5)
                other.mul_(1.5)
    for policy, teacher in zip((whole, sharded), teachers, strict=True):
        teacher.update(policy, 0.75)
    for mine, theirs in zip(*(teacher.parts() for teacher in teachers), strict=True):
        assert hasattr(theirs, "full_tensor")
        torch.testing.assert_close(theirs.full_tensor(), mine, atol=1e-7, rtol=0)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        with teachers[0].use_weights(whole) as one:
            expected = one(ids).logits
        with teachers[1].use_weights(sharded) as other:
            torch.testing.assert_close(other(ids).logits, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(sharded(ids).logits, whole(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.slow  # two processes
def test_two_ranks():
    run_ranks(worker)
