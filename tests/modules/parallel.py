"""Whole runs that are the same on one process and on several."""

import json
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    OptimStateKeyType,
    StateDictType,
)

from lightning_focal.callbacks import EMATeacher, HeldOut
from lightning_focal.data import Curriculum, ReasoningGymData, RubricDataModule
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import Lora, load_policy
from lightning_focal.models.weights import full_weights
from lightning_focal.modules import DynamicSampling, FrozenReference, GRPOModule, TeacherReference, Update
from lightning_focal.rewards import CoRewardingI, CoRewardingII, CoRewardingIII, FocalReward, SelfCertaintyReward, StaticReward
from tests.conftest import adam, hard_rows, make_trainer, rubric_rows, write_rows
from tests.modules.test_label_free_runs import Boxing

STEPS = 10
LAYERS = "random:tiny-llama?hidden=32&layers=2&heads=4&kv_heads=2&std=0.1"

CASES = {
    "static": lambda: (StaticReward(), {"update": Update(kl_coef=0.05), "reference": FrozenReference()}),
    "focal": lambda: (FocalReward(gamma=1.0, scope="running"), {"update": Update(micro_batch_tokens=120)}),
    "losses": lambda: (
        StaticReward(),
        {
            "update": Update(
                mini_batches=2,
                micro_batch_size=3,
                importance_sampling_level="sequence",
                loss_aggregation="sequence_mean",
                clip_cov_ratio=0.05,
                clip_cov_bounds=(0.0, 50.0),
                entropy_coef=0.05,
                importance_cap=2.0,
                importance_sampling_mode="sequence_mask",
            )
        },
    ),
    "dynamic": lambda: (
        FocalReward(gamma=1.0, scope="running"),
        {"update": Update(mini_batches=2), "dynamic_sampling": DynamicSampling(max_rounds=3, replay_buffer_size=4)},
    ),
    "co_rewarding_1": lambda: (CoRewardingI("string"), {"update": Update(mini_batches=2, micro_batch_size=3)}),
    "co_rewarding_2": lambda: (
        CoRewardingII(equivalence="string"),
        {"update": Update(kl_coef=0.05), "reference": TeacherReference()},
    ),
    "co_rewarding_3": lambda: (
        CoRewardingIII(equivalence="string"),
        {"update": Update(kl_coef=0.05), "reference": TeacherReference()},
    ),
    "adapters": lambda: (
        SelfCertaintyReward(equivalence="string"),
        {"update": Update(kl_coef=0.05), "reference": TeacherReference(), "lora": Lora(r=2)},
    ),
}

WITH_RUBRICS = ("static", "focal", "losses", "dynamic")


class FlatOnCPU(FSDPStrategy):
    """Lightning refuses its ``FSDPStrategy`` without GPUs by its name alone; PyTorch runs it.

    But for whole states of a checkpoint: moved to where they are already, they would be overwritten before they are read.
    """

    @property
    def root_device(self):
        return torch.device("cpu")

    @contextmanager
    def _whole(self):
        where = (FullStateDictConfig(False, rank0_only=True), FullOptimStateDictConfig(False, rank0_only=True))
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, *where):
            yield

    def lightning_module_state_dict(self):
        if self._state_dict_type != "full":
            return super().lightning_module_state_dict()
        with self._whole():
            return self.model.state_dict()

    def optimizer_state(self, optimizer):
        if self._state_dict_type != "full":
            return super().optimizer_state(optimizer)
        with self._whole():
            state = FullyShardedDataParallel.optim_state_dict(self.model, getattr(optimizer, "_optimizer", optimizer))
        by_number = OptimStateKeyType.PARAM_ID
        return FullyShardedDataParallel.rekey_optim_state_dict(state, by_number, self.model) if self.global_rank == 0 else state


def strategies(world_size):
    return {
        "fsdp": lambda: FlatOnCPU(process_group_backend="gloo"),
        "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
        "fsdp2": lambda: ModelParallelStrategy(data_parallel_size=world_size, tensor_parallel_size=1),
        "one": lambda: "auto",
    }


def fit(case, folder, strategy="auto", devices=1, ckpt_path=None, steps=STEPS, callbacks=(), precision="32-true", **module):
    """Train one case; uneven batches throughout: 5 prompts a step, 3 held-out prompts of which 2 are answered at once."""
    seed_everything(0, verbose=False)  # the adapters' first weights
    reward, arguments = CASES[case]()
    folder = Path(folder)
    epochs = 2 if case == "dynamic" else 1  # a level is known once a prompt was met
    built = GRPOModule(
        **{
            "policy": LAYERS,
            "group_size": 4,
            "val_group_size": 2,
            "sampling": Sampling(max_new_tokens=6),
            "generator": HFGenerator() if case in WITH_RUBRICS else Boxing(),
            "optimizer": adam(3e-4),
            "seed": 0,
            **arguments,
            **module,
        }
    )
    if case in WITH_RUBRICS:
        make = hard_rows if case == "dynamic" else rubric_rows
        files = [write_rows(folder / f"rows-{count}-{count}.jsonl", make(count)) for count in (5 * steps // epochs, 3)]
        curriculum = Curriculum(band=(0.1, 0.9), revisit=0.3) if case == "dynamic" else None
        sizes = {"batch_size": 5, "eval_batch_size": 2, "seed": 0}
        data = RubricDataModule(train=str(files[0]), val=str(files[1]), curriculum=curriculum, **sizes)
    else:
        pairs = case in ("co_rewarding_1", "co_rewarding_3")
        data = ReasoningGymData(task="chain_sum", train=5 * steps, val=3, pairs=pairs, batch_size=5, eval_batch_size=2, seed=0)
    taught = [EMATeacher(0.5, 0.9)] if "TeacherReference" in str(arguments.get("reference")) else []
    settings = {
        "devices": devices,
        "strategy": strategy,
        "precision": precision,
        "max_epochs": epochs,
        "enable_checkpointing": bool(callbacks),
    }
    trainer = make_trainer(folder, [reward, HeldOut(), *taught, *callbacks], **settings)
    trainer.fit(built, datamodule=data, ckpt_path=ckpt_path)
    return built


def start(case):
    """The policy's weights before training, under the names of the plain model."""
    return load_policy(LAYERS)[0].named_parameters()


def result(module):
    """Final weights under the names of the plain model, the teacher's, and what every process has logged last."""
    teacher = []
    if module.teacher is not None and module.teacher.model is not None:
        teacher = [value for _, value in sorted(full_weights(module.teacher.model))]
    elif module.teacher is not None:
        teacher = [whole(part) for part in module.teacher.parts()]
    logged = {name: float(value) for name, value in module.trainer.callback_metrics.items() if "/time/" not in name}
    return {"weights": dict(full_weights(module.policy)), "teacher": teacher, "logged": logged}


def whole(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def worker(rank, folder, names, cases):
    """Train every case under every strategy; leaves ``<strategy>-<case>/`` with metrics.csv and result-<rank>.pt."""
    for name in names:
        for case in cases:
            run = Path(folder) / f"{name}-{case}"
            run.mkdir(parents=True, exist_ok=True)
            torch.distributed.barrier()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                module = fit(case, run, strategies(2)[name](), 2)
            torch.save(result(module), run / f"result-{rank}.pt")
            (run / f"warnings-{rank}.json").write_text(json.dumps(sorted({str(warning.message) for warning in caught})))
