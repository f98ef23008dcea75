"""Several processes, each with an engine of its own: whole runs under DDP, and policies sharded by FSDP2."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lightning_focal.generation import Sampling, VLLMGenerator
from tests.processes import run_ranks

from .helpers import make_prompts
from .vllm_checks import MARKS, SMALL, TINY, gap, roll, tiny_policy

pytestmark = [*MARKS, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def fit(folder, *arguments):
    """Run the command; return the columns of its ``metrics.csv`` in training."""
    command = [sys.executable, "-m", "lightning_focal", "fit", "--config", "configs/focal_tiny.yaml", "--run_dir", str(folder)]
    command += [f"--model.policy={TINY}", "--model.generator=VLLMGenerator", "--model.generator.kv_cache_gb=0.1", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/policy/version"]]
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name.startswith("train/") and "/time/" not in name}


def test_one_process_and_two_learn_the_same(tmp_path):
    one = fit(tmp_path / "one")
    two = fit(tmp_path / "two", "--trainer.devices=2", "--trainer.strategy=ddp")
    for columns in (one, two):
        assert columns["train/policy/version"] == [1, 2, 3, 4]
        assert max(columns["train/policy/sampling_gap_max"]) < 1e-5
    for name in ("train/reward/mean", "train/loss/policy", "train/rollout/length"):
        assert two[name] == pytest.approx(one[name], abs=1e-4), name


def sharded(rank):
    from torch.distributed.fsdp import fully_shard

    (whole, tokenizer), (policy, _) = tiny_policy(), tiny_policy()
    for part in (*policy.model.layers, policy):
        fully_shard(part, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    prompts = make_prompts(tokenizer, ("Hi", "A longer question")[rank : rank + 1])
    generator = VLLMGenerator(**SMALL)
    for version in range(3):
        with torch.no_grad():
            for parameter in (*whole.parameters(), *policy.parameters()):
                parameter.mul_(1.05)
        generator.sync(policy, version)
        sampling = Sampling(max_new_tokens=4 + 5 * rank)
        rollouts = roll(generator, policy, tokenizer, sampling, seeds=[rank], group=3, prompts=prompts)
        assert rollouts.version == version
        assert gap(whole, rollouts) < 1e-5
    assert os.environ["RANK"] == str(rank)
    generator.close()
    dist.barrier()  # the trainer's group outlives the engine


def test_sharded_policies_are_gathered():
    run_ranks(sharded)
