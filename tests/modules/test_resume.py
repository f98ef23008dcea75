"""The same run twice, and a run in two halves."""

import json
import shutil

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.callbacks import HeldOut, RolloutTable
from lightning_focal.modules import Update, WarmupCosine
from lightning_focal.rewards import FocalReward, StaticReward
from tests.modules.helpers import BrokenAdvantage, assert_same_end, column, metrics, saving


def test_same_seed_same_metrics_other_seed_other_metrics(run_tiny):
    runs = {}
    for name, seed, data_seed in (("a", 0, 0), ("b", 0, 0), ("c", 1, 0), ("d", 0, 1)):
        seed_everything(int(name == "b"))  # the global random state has no influence
        more = {"update": Update(mini_batches=2), "trainer_limit_train_batches": 2}
        runs[name] = run_tiny(folder=name, seed=seed, data_seed=data_seed, **more)
    rows = {name: metrics(run.folder) for name, run in runs.items()}
    assert len(rows["a"]) == 2
    assert_same_end(runs["a"], runs["b"])
    assert rows["a"] != rows["c"]
    assert rows["a"] != rows["d"]


def test_each_epoch_has_its_own_dice(run_tiny):
    """A policy that cannot move (rate 0) still answers the same prompts differently in the next epoch."""
    still = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0), "data_shuffle": False, "trainer_limit_train_batches": 2}
    rewards = column(run_tiny(StaticReward(), **still, trainer_max_epochs=2).folder, "train/reward/prior")
    assert rewards[:2] != rewards[2:]


# -- resume --------------------------------------------------------------------------------------------------------------------


def state_of(run):
    """Everything a checkpoint promises to hold."""
    strategy = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in run.strategy.state_dict().items()}
    strategy["levels"] = [repr(value) for value in strategy["levels"]]  # NaN equals itself
    optimizer = run.trainer.optimizers[0].state_dict()
    held_out = next(callback for callback in run.trainer.callbacks if isinstance(callback, HeldOut))
    return {
        "strategy": strategy,
        "moments": [value.tolist() for state in optimizer["state"].values() for value in state.values()],
        "groups": optimizer["param_groups"],
        "scheduler": run.module.lr_schedulers().state_dict(),
        "version": run.module.version,
        "held_out": json.dumps(held_out.history, sort_keys=True),  # NaN equals itself
        "global_step": run.trainer.global_step,
        "epoch": run.trainer.current_epoch,
    }


class Kill(Callback):
    """In the sixth batch, after rollouts were written and before anything was learnt from them."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 10:
            pl_module._with_logp = None


def test_resumed_runs_equal_the_uninterrupted_one(run_tiny, rubric_file, tmp_path):
    """Two epochs of four batches, two optimiser steps each; everything that has a state is in it.

    Saved in the first epoch, in the second, when an epoch's validation is over, as by default, and by a run that was killed.
    """

    def long_run(folder, *callbacks, **kwargs):
        return run_tiny(
            FocalReward(gamma=1.0, scope="running", decay=0.5, warmup=2),
            HeldOut(),
            RolloutTable(),
            *callbacks,
            folder=folder,
            data_val=rubric_file(3, "val.jsonl"),
            update=Update(mini_batches=2),
            lr_scheduler=lambda optimizer: WarmupCosine(optimizer, warmup=0.25),
            trainer_max_epochs=2,
            trainer_enable_checkpointing=bool(callbacks),
            **kwargs,
        )

    def tables(run):
        return sorted(path.name for path in (run.folder / "rollouts").iterdir())

    whole = long_run("whole", saving(tmp_path), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1))
    with pytest.raises(TypeError):
        long_run("killed", Kill(), ModelCheckpoint(tmp_path / "last", filename="last", every_n_train_steps=2))
    for name in ("step=6", "epoch=0"):  # rows and rollouts behind the checkpoint are written again
        shutil.copytree(whole.folder, tmp_path / name)
    for folder, path in (("step=6", "step=6"), ("epoch=0", "epoch=0"), ("killed", "last/last")):
        torch.manual_seed(99)
        resumed = long_run(folder, ckpt_path=str(tmp_path / f"{path}.ckpt"))
        assert_same_end(resumed, whole)
        assert state_of(resumed) == state_of(whole)
        assert tables(resumed) == tables(whole)

    for path in tmp_path.glob("step=*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert {"state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "lightning_focal"} <= saved.keys()
        (strategy,) = [state for key, state in saved["callbacks"].items() if key.startswith("RewardStrategy")]
        assert strategy["strategy"] == "lightning_focal.rewards.focal.FocalReward"
        assert [state.keys() for state in saved["lightning_focal"]["rng"]] == [{"torch", "cuda", "numpy", "python"}]

    # a longer run goes on: the rate of the third epoch is not stuck at the end of the second
    longer = long_run("whole", ckpt_path=str(tmp_path / "step=16.ckpt"), fit=False)
    longer.trainer.fit_loop.max_epochs = 3
    longer.trainer.fit(longer.module, datamodule=longer.data, ckpt_path=str(tmp_path / "step=16.ckpt"))
    rates = column(longer.folder, "train/policy/lr")
    assert len(rates) == 12
    twelve = [float(WarmupCosine(torch.optim.SGD([torch.zeros(1)], lr=1e-2), 0.25, total=12).factor(k)) for k in range(8, 12)]
    assert rates[8:] == pytest.approx([1e-2 * factor for factor in twelve])


def test_bad_steps_survive(run_tiny, tmp_path):
    first = run_tiny(StaticReward(advantage=BrokenAdvantage(0, 1)), trainer_limit_train_batches=2)
    first.trainer.save_checkpoint(tmp_path / "a.ckpt")
    # the Trainer saves the count: two more bad steps in a row are four in all, and four in a row
    second = StaticReward(advantage=BrokenAdvantage(0, 1))
    with pytest.raises(FloatingPointError, match="3 optimiser steps in a row"):
        run_tiny(second, ckpt_path=str(tmp_path / "a.ckpt"), trainer_max_epochs=2, trainer_limit_train_batches=2)


def test_other_strategy_is_named_beside_the_first(run_tiny, tmp_path):
    run = run_tiny(FocalReward(), trainer_limit_train_batches=1)
    run.trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"rewards\.focal\.FocalReward.*rewards\.static\.StaticReward.*same strategy"):
        run_tiny(StaticReward(), ckpt_path=str(tmp_path / "a.ckpt"), trainer_max_epochs=2)
