"""Whole runs on a CUDA device, beside the same on the CPU."""

import csv
import math

import pytest
import torch

from lightning_focal.entry import main
from lightning_focal.models import Sizes, load_policy
from lightning_focal.modules.update import Sequences, Update
from tests.modules.helpers import backward_of_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def metrics(folder):
    with open(folder / "metrics.csv", encoding="utf-8") as lines:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(lines)]


def fit(folder, *arguments):
    assert not main(["fit", "--config", "configs/focal_tiny.yaml", f"--run_dir={folder}", *arguments])
    return metrics(folder)


def test_a_run_in_float32_is_that_of_the_cpu(tmp_path):
    """The same dice pick the same tokens, so the losses agree to rounding."""
    ours = fit(tmp_path / "gpu", "--trainer.accelerator=gpu", "--trainer.precision=32-true")
    theirs = fit(tmp_path / "cpu", "--trainer.accelerator=cpu", "--trainer.precision=32-true")
    for name in ("train/loss/policy", "train/reward/mean", "train/policy/entropy", "val/held_out/mean"):
        pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) if name in a and name in b]
        assert pairs or name == "train/policy/entropy"
        assert all(math.isclose(a, b, abs_tol=2e-4) for a, b in pairs), (name, pairs)


KL = ("--model.reference=FrozenReference", "--model.update.kl_coef=0.01")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.precision=bf16-mixed", "--model.generator=HFGenerator", "--model.generator.dtype=bfloat16", *KL],
        ["--model.dtype=bfloat16"],
        [*KL, "--model.reference.offload=true"],
        ["--model.lora.r=4", "--trainer.precision=bf16-mixed"],
        ["--model.gradient_checkpointing=true"],
        ["--model.generator=HFGenerator", "--model.generator.dtype=auto", "--trainer.precision=auto"],
        ["--reward=FocalReward", "--reward.scope=running", "--model.sampling.max_new_tokens=40"],
    ],
    ids=["mixed", "bf16", "offloaded", "lora", "checkpointed", "auto", "running"],
)
def test_runs_end_with_finite_numbers(tmp_path, arguments):
    rows = fit(tmp_path / "gpu", "--trainer.accelerator=gpu", *arguments)
    losses = [row["train/loss/policy"] for row in rows if "train/loss/policy" in row]
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("group", [8, 3, 0], ids=["packed", "packed in parts", "padded"])
def test_gradients_are_those_of_the_cpu(group):
    policy, _ = load_policy("random:tiny-llama?hidden=64&layers=2&seed=0&std=0.2")
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, 250, (2, 40), generator=draw).repeat_interleave(4, 0)
    response = torch.randint(0, 250, (8, 12), generator=draw)
    mask = torch.arange(12) < torch.randint(1, 13, (8, 1), generator=draw)
    advantages = torch.randn(8, generator=draw)
    grads = {}
    for device in ("cpu", "cuda"):
        model = policy.to(device).train()
        model.zero_grad()
        rows = [t.to(device) for t in (prompt, torch.ones_like(prompt, dtype=torch.bool), response, mask, advantages)]
        sizes = Sizes.of(rows[1], rows[3], 4) if group else None
        sequences = Sequences(*rows, torch.ones(8, dtype=torch.bool, device=device), sizes=sizes)
        update = Update(micro_batch_size=group or 8)
        backward_of_step(model, sequences, update)
        grads[device] = [p.grad.cpu().clone() for p in model.parameters()]
    largest = max(float(g.abs().max()) for g in grads["cpu"])
    for mine, plain in zip(grads["cuda"], grads["cpu"], strict=True):
        assert float((mine - plain).abs().max()) <= 1e-4 * largest
