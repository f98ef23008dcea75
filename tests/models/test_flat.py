"""Policies in flat parameters: what is refused before it goes wrong; a group of one process is enough for that."""

import functools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

from lightning_focal.models import adding_backward, load_policy, wrap_flat
from lightning_focal.models.weights import compute_device, full_weights, is_sharded
from tests.conftest import TINY
from tests.helpers import adapted

CPU = torch.device("cpu")


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'store'}")


def tied():
    model, _ = load_policy(TINY)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
def test_units_that_would_part_tied_weights_are_refused(group):
    by_size = functools.partial(size_based_auto_wrap_policy, min_num_params=1000)
    with pytest.raises(
        ValueError, match=r"auto_wrap_policy` puts tied weights into two units \(lm_head.weight, model.embed_tokens"
    ):
        wrap_flat(tied(), CPU, auto_wrap_policy=by_size)
    assert isinstance(wrap_flat(load_policy(TINY)[0], CPU, auto_wrap_policy=by_size), FullyShardedDataParallel)  # nothing is tied
    assert isinstance(wrap_flat(tied(), CPU), FullyShardedDataParallel)  # both outside of blocks


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_weights_have_the_names_and_values_of_the_plain_model(group, recwarn, lora):
    def policy():
        torch.manual_seed(0)
        return load_policy(TINY)[0] if not lora else adapted(load_policy(TINY)[0], r=2)

    flat = wrap_flat(policy(), CPU)
    assert is_sharded(flat)
    assert compute_device(flat) == CPU
    expected, found = dict(full_weights(policy())), dict(full_weights(flat))
    assert expected.keys() == found.keys() == dict(load_policy(TINY)[0].named_parameters()).keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=0)
    assert not [w for w in recwarn if "requires_grad" in str(w.message)]  # a mixture is meant


def test_gradients_are_left_to_pytorch_where_nothing_waits_in_main_memory(group):
    def backward(loss):
        loss.backward()

    assert adding_backward(torch.nn.Linear(1, 1), backward) is backward


def test_options_of_the_strategy_can_stand_in_a_file():
    from jsonargparse import ArgumentParser
    from lightning.pytorch.strategies import FSDPStrategy, Strategy
    from torch.distributed.fsdp import MixedPrecision, ShardingStrategy

    layer = "transformers.models.llama.modeling_llama.LlamaDecoderLayer"
    mixed = {"param_dtype": "torch.bfloat16", "reduce_dtype": "torch.float32"}
    options = {"auto_wrap_policy": [layer], "activation_checkpointing_policy": [layer], "cpu_offload": True}
    options |= {"sharding_strategy": "SHARD_GRAD_OP", "mixed_precision": {"class_path": "torch.distributed.fsdp.MixedPrecision"}}
    options["mixed_precision"]["init_args"] = mixed
    parser = ArgumentParser()
    parser.add_subclass_arguments(Strategy, "strategy")
    read = parser.parse_object({"strategy": {"class_path": "lightning.pytorch.strategies.FSDPStrategy", "init_args": options}})
    strategy = parser.instantiate_classes(read).strategy
    assert isinstance(strategy, FSDPStrategy)
    assert strategy.mixed_precision == MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    assert strategy.cpu_offload.offload_params
    assert strategy.sharding_strategy is ShardingStrategy.SHARD_GRAD_OP
    model, _ = load_policy(TINY)
    policy = strategy.kwargs["auto_wrap_policy"]
    assert [type(m).__name__ for m in model.modules() if policy(m, recurse=False, nonwrapped_numel=0)] == ["LlamaDecoderLayer"]
