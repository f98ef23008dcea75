"""Short runs on two processes under the options of ``FSDPStrategy`` and of ``model.sharding``."""

import functools
import warnings
from pathlib import Path

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import MixedPrecision
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lightning_focal.models import Sharding
from lightning_focal.modules import TeacherReference, Update
from tests.modules import parallel

CASE, STEPS = "co_rewarding_2", 2
UPDATE = {"update": Update(kl_coef=0.05, micro_batch_size=3), "reference": TeacherReference}
"""Several micro-batches: gradients are added up; the teacher answers, votes and is the reference."""

LAYERS = {LlamaDecoderLayer}

FLAT = {
    "wrapped_by_size": {"auto_wrap_policy": functools.partial(size_based_auto_wrap_policy, min_num_params=2000)},
    "wrapped_and_checkpointed_by_class": {"auto_wrap_policy": LAYERS, "activation_checkpointing_policy": LAYERS},
    "cpu_offload": {"cpu_offload": True},
    "gradients_and_states_alone": {"sharding_strategy": "SHARD_GRAD_OP"},
    "not_split": {"sharding_strategy": "NO_SHARD"},
}
SPLIT = {
    "fsdp2_cpu_offload": {"sharding": Sharding(cpu_offload=True)},
    "fsdp2_kept_gathered": {"sharding": Sharding(reshard_after_forward=False)},
    "fsdp2_gradient_checkpointing": {"gradient_checkpointing": True},
}
EXACT = (*FLAT, "gradient_checkpointing", *SPLIT)
NARROW = ("bf16_mixed", "bf16_weights_gathered", "fsdp2_bf16")


def arguments(name):
    """Strategy, and what else ``parallel.fit`` is told."""
    bf16 = torch.bfloat16
    if name in FLAT:
        return parallel.FlatOnCPU(process_group_backend="gloo", **FLAT[name]), {}
    if name == "gradient_checkpointing":
        return parallel.FlatOnCPU(process_group_backend="gloo"), {"gradient_checkpointing": True}
    if name == "bf16_mixed":
        return parallel.FlatOnCPU(process_group_backend="gloo"), {"precision": "bf16-mixed"}
    if name == "bf16_weights_gathered":
        mixed = MixedPrecision(param_dtype=bf16, reduce_dtype=torch.float32)
        return parallel.FlatOnCPU(process_group_backend="gloo", mixed_precision=mixed), {}
    module = SPLIT.get(name) or {"sharding": Sharding(param_dtype="bfloat16", reduce_dtype="float32")}
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), module


def fit(folder, strategy="auto", devices=1, **more):
    update = {**UPDATE, "reference": UPDATE["reference"]()}
    return parallel.fit(CASE, folder, strategy, devices, steps=STEPS, **update, **more)


def worker(rank, folder):
    """Leave ``<option>/`` with metrics.csv and result-<rank>.pt."""
    torch.Tensor.pin_memory = lambda tensor, *_: tensor  # there is nothing to pin memory for, and nothing to wait for
    torch.cpu.Stream.synchronize = lambda stream: None
    for name in (*EXACT, *NARROW):
        run = Path(folder) / name
        run.mkdir(parents=True, exist_ok=True)
        torch.distributed.barrier()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            strategy, more = arguments(name)
            module = fit(run, strategy, 2, **more)
        kinds = sorted({str(parameter.dtype) for parameter in module.policy.parameters()})
        torch.save({**parallel.result(module), "kinds": kinds}, run / f"result-{rank}.pt")
