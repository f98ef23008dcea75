"""Every argument of Lightning's Trainer and every callback it ships does what it says in a run, or is refused in one sentence."""

import inspect
import json
import logging
import re
from types import SimpleNamespace

import lightning.pytorch as lightning
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lightning.pytorch import callbacks

from lightning_focal.cli import main
from lightning_focal.trainer import check_callbacks
from tests.conftest import TINY, rubric_rows, write_rows


class works:
    """The run comes to its end.

    Args:
        batches: trained on, out of an epoch of four of which two are taken.
        check: of the run, what else shows that the switch did what it says; ``True`` where it does.
        same: the rewards are those of a run without the switch.
        command: that shows it.
        more: further arguments.
    """

    def __init__(self, batches=2, check=None, same=True, command="fit", more=()):
        self.batches, self.check, self.same, self.command, self.more = batches, check, same, command, more


class kept_out(str):
    """A callback that is refused, and the reason."""

    about = "`trainer.callbacks` must not hold {}: "


class left_out(str):
    """An argument that is refused, its value and the reason."""

    about = "`trainer.{}` must be left out, got "


def evaluated(*prompts):
    """How many held-out prompts each evaluation has answered."""
    return lambda run: [len(entry["scores"]) for entry in run.evaluations] == list(prompts)


def trained_on(run):
    return [{row["prompt_id"] for row in pq.read_table(path).to_pylist()} for path in sorted(run.folder.glob("rollouts/train*"))]


def logged(run):
    """Steps whose row holds the batch's own values."""
    return [row["step"] for row in run.rows if row["train/reward/mean"]]


TRAINER = [
    ("accelerator", "cpu", works()),
    ("accelerator", "nonsense", "You selected an invalid accelerator name"),
    ("strategy", "ddp", works()),
    ("strategy", "fsdp", "The strategy `fsdp` requires a GPU accelerator"),
    ("strategy", "nonsense", "You selected an invalid strategy name"),
    ("devices", "auto", works()),
    ("devices", 0, r"`Trainer\(devices='?0'?\)` value is not a valid input"),
    ("num_nodes", 1, works()),
    ("precision", "bf16-mixed", works(same=False, check=lambda run: "bf16-mixed" in run.out)),
    ("precision", "64-true", "`trainer.precision` must be auto, 32-true or bf16-mixed, got 64-true"),
    ("precision", "transformer-engine", "Requirement 'transformer_engine>=0.11.0' not met"),
    ("logger", False, works(check=lambda run: run.files("metrics.csv") and not run.files("events*") and "TensorBoard" not in run.out)),
    ("fast_dev_run", True,
     works(1, lambda run: run.last.endswith("nothing kept: `trainer.fast_dev_run` tries a run out") and not run.files())),
    ("fast_dev_run", 2, works(2, lambda run: "Written to" not in run.out and not run.files())),
    ("max_epochs", 2, works(4)),
    ("min_epochs", 1, works()),
    ("max_steps", 1, works(1)),
    ("max_steps", 0, works(0, lambda run: "metrics.csv" not in run.out)),
    ("min_steps", 1, works()),
    ("max_time", "00:00:10:00", works()),
    ("max_time", "nonsense", r"`Timer\(duration='nonsense'\)` is not a valid duration"),
    ("limit_train_batches", 1, works(1)),
    ("limit_train_batches", 1.0, works(4)),
    ("limit_train_batches", 0.5, works(2)),
    ("limit_train_batches", 0.1, "`trainer.limit_train_batches` must leave a batch, got 0.1 of 4 in `data.train`"),
    ("limit_train_batches", 2.5, r"invalid value 2.5 for limit_train_batches, it has to be in \[0.0, 1.0\] or an int"),
    ("limit_val_batches", 1, works(check=evaluated(1, 1))),
    ("limit_val_batches", 1.0, works(check=evaluated(2, 2))),
    ("limit_val_batches", 0.5, works(check=evaluated(1, 1))),
    ("limit_val_batches", 0, works(check=lambda run: not run.files("held_out.json") and "held_out" not in run.out)),
    ("limit_val_batches", 0.1, "`trainer.limit_val_batches` must leave a batch, got 0.1 of 2 in `data.val`"),
    ("limit_test_batches", 1, works(0, lambda run: len(run.files("rollouts/test*")) == 1, command="test")),
    ("limit_predict_batches", 1, works(0, lambda run: len(run.files("rollouts/predict*")) == 1, command="predict")),
    ("overfit_batches", 1, works(2, lambda run: trained_on(run) == [{"row-0", "row-1"}] * 2, same=False, more=["--trainer.max_epochs=2"])),
    ("overfit_batches", 0.1, "`trainer.overfit_batches` must leave a batch, got 0.1 of 4 in `data.train`: an integer is a count"),
    ("val_check_interval", 1, works(check=evaluated(2, 2, 2))),
    ("val_check_interval", 9, "`trainer.val_check_interval` must be at most the 2 batches of an epoch, got 9"),
    ("check_val_every_n_epoch", 2, works(check=evaluated(2, 2))),
    ("num_sanity_val_steps", 1, works(check=evaluated(2, 2))),
    ("log_every_n_steps", 2, works(check=lambda run: logged(run) == ["1"])),
    ("enable_checkpointing", False, works(check=lambda run: not run.files("checkpoints/*") and "checkpoints/" not in run.out)),
    ("enable_progress_bar", True, works()),
    ("enable_model_summary", True, works(check=lambda run: "Trainable params" in run.out + run.err)),
    ("accumulate_grad_batches", 2, left_out("2: write `model.update.micro_batch_size`")),
    ("gradient_clip_val", 1.0, left_out("1.0: write `model.update.gradient_clip_val`")),
    ("gradient_clip_algorithm", "norm", left_out("norm: `model.update.gradient_clip_val`")),
    ("deterministic", True, works()),
    ("benchmark", True, works()),
    ("inference_mode", False, works()),
    ("use_distributed_sampler", False, works()),
    ("profiler", "simple", works(check=lambda run: "FIT Profiler Report" in run.out + run.err)),
    ("profiler", "nonsense", "When passing string value for the `profiler` parameter"),
    ("detect_anomaly", True, works()),
    ("barebones", True, left_out("True: a run logs and saves")),
    ("plugins", [{"class_path": "lightning.pytorch.plugins.TorchCheckpointIO"}], works()),
    ("plugins", [{"class_path": "lightning.pytorch.plugins.AsyncCheckpointIO"}], "`trainer.plugins` must not hold AsyncCheckpointIO"),
    ("sync_batchnorm", True, works()),
    ("reload_dataloaders_every_n_epochs", 1, works(4, more=["--trainer.max_epochs=2"])),
    ("default_root_dir", "elsewhere", left_out("elsewhere: `run_dir` names the folder of a run")),
    ("enable_autolog_hparams", False, works()),
    ("model_registry", "name", left_out("name: `ckpt_path` is a file")),
]  # fmt: skip
"""Argument, value, and what comes of it."""

CALLBACKS = [
    ("BackboneFinetuning", {}, kept_out("it freezes weights before the policy is loaded; `model.lora`")),
    ("BaseFinetuning", {}, kept_out("it freezes weights before the policy is loaded")),
    ("BasePredictionWriter", {}, works()),
    ("BatchSizeFinder", {}, kept_out("`data.batch_size` is part of what a run computes")),
    ("Callback", {}, works()),
    ("Checkpoint", {}, works()),
    ("DeviceStatsMonitor", {"cpu_stats": True}, works(check=lambda run: any("cpu_percent" in name for name in run.rows[1]))),
    ("EMAWeightAveraging", {}, kept_out("rollouts would come from other weights .*EMATeacher")),
    ("EarlyStopping", {"monitor": "val/held_out/mean", "stopping_threshold": 0.0, "mode": "max"}, works(2, more=["--trainer.max_epochs=3"])),
    ("EarlyStopping", {"monitor": "nonsense"}, "Early stopping conditioned on metric `nonsense` which is not available"),
    ("GradientAccumulationScheduler", {"scheduling": {0: 2}}, kept_out("write `model.update")),
    ("LambdaCallback", {}, works()),
    ("LearningRateFinder", {}, kept_out("the rate is `model.optimizer.init_args.lr`")),
    ("LearningRateMonitor", {}, works(check=lambda run: [row["lr-AdamW"] for row in run.rows[:2]] == ["0.01", "0.01"])),
    ("ModelCheckpoint", {"monitor": "val/held_out/mean", "filename": "best"},
     works(check=lambda run: {path.name for path in run.files("checkpoints/*")} == {"best.ckpt", "last.ckpt", "step=2.ckpt"})),
    ("ModelPruning", {"pruning_fn": "l1_unstructured"}, kept_out("it looks for weights before")),
    ("ModelSummary", {}, works(check=lambda run: "Trainable params" in run.out + run.err)),
    ("OnExceptionCheckpoint", {"dirpath": "here"}, kept_out("it goes on unasked .* `checkpoint.every")),
    ("ProgressBar", {}, "Trainer was configured with `enable_progress_bar=False` but found `ProgressBar`"),
    ("RichModelSummary", {}, works(check=lambda run: "Trainable params" in run.out + run.err)),
    ("RichProgressBar", {}, works(more=["--trainer.enable_progress_bar=true"])),
    ("SpikeDetection", {}, kept_out("a batch of rollouts has no one loss; `model.update.max_bad_steps`")),
    ("StochasticWeightAveraging", {"swa_lrs": 0.01}, kept_out("it copies the module before the policy is loaded")),
    ("TQDMProgressBar", {}, works(more=["--trainer.enable_progress_bar=true"])),
    ("ThroughputMonitor", {"batch_size_fn": "builtins.len", "window_size": 2},
     works(check=lambda run: any("throughput" in name or "device/" in name for name in run.rows[1]))),
    ("Timer", {"duration": "00:00:10:00", "interval": "step"}, works()),
    ("WeightAveraging", {}, kept_out("rollouts would come from other weights")),
]  # fmt: skip
"""Name, arguments, and what comes of it."""

ARGUMENTS = set(inspect.signature(lightning.Trainer).parameters)
AT_ONCE = {"limit_train_batches=1.0", "limit_val_batches=1", "fast_dev_run=True"}
"""What is shown by runs in the quick part of the suite, beside all refusals."""


def known(table):
    """Those that the installed Lightning knows."""
    return [row for row in table if row[0] in ARGUMENTS or hasattr(callbacks, row[0])]


def rows_of(table):
    """Runs are slow but for a few; those that change nothing are one run together."""
    for name, value, outcome in known(table):
        if not bare(name, value, outcome):
            slow = isinstance(outcome, works) and f"{name}={value}" not in AT_ONCE
            yield pytest.param(name, value, outcome, marks=[pytest.mark.slow] if slow else [], id=f"{name}={value}")


def bare(name, value, outcome):
    alone = name in ("strategy", "benchmark", "Timer")  # `deterministic` overrules the second, the third `max_time`
    return not alone and isinstance(outcome, works) and vars(outcome) == vars(works())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of two batches that takes a second."""
    folder = tmp_path_factory.mktemp("switches")
    files = {name: str(write_rows(folder / f"{name}.jsonl", rubric_rows(count))) for name, count in (("train", 8), ("val", 2))}
    content = {
        "reward": {"class_path": "StaticReward"},
        "model": {
            "policy": TINY,
            "group_size": 2,
            "val_group_size": 1,
            "sampling": {"max_new_tokens": 3},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        },
        "data": {"class_path": "RubricDataModule", "init_args": {**files, "batch_size": 2, "eval_batch_size": 1}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "limit_train_batches": 2},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder / "config.yaml"


@pytest.fixture
def run(config, tmp_path, monkeypatch, capfd, caplog):
    """Run a command; returns what it printed and wrote."""
    caplog.set_level("INFO")
    lightning = logging.getLogger("lightning.pytorch")  # whether it hands on its lines depends on who was imported first
    caplog.set_level("INFO", logger=lightning.name)
    monkeypatch.setattr(lightning, "propagate", True)

    def start(*args, command="fit"):
        monkeypatch.chdir(tmp_path)
        status = 0
        try:
            main([command, f"--config={config}", "--run_dir=run", *args])
        except SystemExit as stop:
            status = stop.code
        finally:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = False
        out, err = capfd.readouterr()
        folder = tmp_path / ("run" if command == "fit" else f"run-{command}")
        told = json.loads((folder / "held_out.json").read_text())["evaluations"] if (folder / "held_out.json").exists() else []
        lines = (folder / "metrics.csv").read_text().splitlines() if (folder / "metrics.csv").exists() else []
        return SimpleNamespace(
            status=status,
            out=out,
            err=err + caplog.text,
            last=out.splitlines()[-1] if out else "",
            rewards=re.findall(r"batch \d+/\S+ · static \S+ · reward (\S+)", out),
            folder=folder,
            files=lambda pattern="**/*": sorted(folder.glob(pattern)),
            evaluations=told,
            rows=[dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]],
        )

    return start


REWARDS = ["0.750", "0.688", "0.750", "0.938"]
"""Of the four batches of an epoch."""


def see(ran, name, outcome):
    if isinstance(outcome, str):
        assert ran.status == 1, ran.out
        (error,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
        assert re.search(getattr(outcome, "about", "").format(name) + outcome, error)
        return
    assert ran.status == 0, ran.err
    assert len(ran.rewards) == outcome.batches
    if outcome.same:
        assert ran.rewards[:2] == REWARDS[:2][: outcome.batches]
    assert outcome.check is None or outcome.check(ran), (ran.out, ran.err)
    if ran.folder.exists() and "Written to" in ran.out:
        named = ran.out.split("Written to run:\n  ")[1].splitlines()[0].split(", ")
        assert all(
            ran.files({"TensorBoard events": "events*", "checkpoints/": "checkpoints/*"}.get(name, name)) for name in named
        )


@pytest.mark.parametrize(("name", "value", "outcome"), [*rows_of(TRAINER)])
def test_an_argument_of_the_trainer(run, name, value, outcome):
    ran = run(given(name, value), *getattr(outcome, "more", ()), command=getattr(outcome, "command", "fit"))
    see(ran, name, outcome)


def given(name, value):
    return f"--trainer.{name}={value if isinstance(value, str) else json.dumps(value)}"


@pytest.mark.parametrize(
    ("name", "arguments", "outcome"), [row for row in rows_of(CALLBACKS) if not isinstance(row.values[2], kept_out)]
)
def test_a_callback(run, tmp_path, name, arguments, outcome):
    see(run(listing(tmp_path, (name, arguments)), *getattr(outcome, "more", ())), name, outcome)


def listing(folder, *named):
    made = [{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments} for name, arguments in named]
    (folder / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": made}}))
    return "--config=more.yaml"


def test_callbacks_that_are_kept_out(run, tmp_path):
    """The first of them by the command."""
    refused = [row for row in known(CALLBACKS) if isinstance(row[2], kept_out)]
    name, arguments, outcome = refused[0]
    see(run(listing(tmp_path, (name, arguments))), name, outcome)
    for name, arguments, outcome in refused[1:]:
        with pytest.raises(ValueError, match=outcome.about.format(name) + outcome):
            check_callbacks([getattr(callbacks, name)(**arguments)], automatic=False)


@pytest.mark.slow
def test_what_changes_nothing_in_one_run(run, tmp_path):
    arguments = [given(name, value) for name, value, outcome in known(TRAINER) if bare(name, value, outcome)]
    named = [(name, value) for name, value, outcome in known(CALLBACKS) if bare(name, value, outcome)]
    assert len(arguments) > 10
    assert len(named) > 3
    see(run(listing(tmp_path, *named), *arguments), "", works())


def test_every_one_is_looked_at():
    """A newer Lightning may know more of them."""
    assert ARGUMENTS - {name for name, _, _ in TRAINER} == {"callbacks"}
    assert set(callbacks.__all__) - {name for name, _, _ in CALLBACKS} == set()
