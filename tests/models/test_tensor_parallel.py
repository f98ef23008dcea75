"""Layers that two processes compute together: values and gradients are those of the whole policy, and what cannot be split is told."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from lightning_focal.commands.plan_sharded import _nobody
from lightning_focal.generation import full_weights
from lightning_focal.models import Lora, Sharding, Sizes, apply_lora, check_tensor_parallel, load_policy, response_logp, shard
from lightning_focal.modules.clipping import clip_global_norm
from tests.conftest import TINY
from tests.processes import run_threads

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 42,  # 21 a process
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
POLICIES = {
    "llama": (lambda: LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True), None),
    "adapters": (lambda: Qwen2Config(**SMALL), Lora(r=3)),
    "norms of heads": (lambda: Qwen3Config(**SMALL, head_dim=8), None),
    "joined projections": (lambda: Phi3Config(**SMALL), None),
}


def make(name):
    config, lora = POLICIES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config())
    model = model if lora is None else apply_lora(model, lora)
    with torch.no_grad():
        for parameter in model.parameters():  # biases, norms and adapters begin as 0 or 1
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def logp(model, packed):
    """Of three responses to two prompts."""
    prompts, responses = torch.tensor([[1, 2, 3], [1, 2, 3], [0, 4, 5]]), torch.tensor([[6, 7, 1, 9], [8, 9, 0, 0], [5, 2, 4, 0]])
    sizes = Sizes((0, 0, 1), (3, 3, 2), (4, 2, 3)) if packed else None
    return response_logp(model, prompts, prompts > 0, responses, responses > 0, sizes=sizes)


def worker(rank, policies):
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
    for name, models in policies.items():
        whole, split = models[rank]
        shard(split, mesh, Sharding())
        kept = sum(parameter.to_local().numel() for parameter in split.parameters())
        assert kept < 0.3 * sum(parameter.numel() for parameter in whole.parameters()), name

        expected = dict(full_weights(whole))
        for path, value in full_weights(split):
            torch.testing.assert_close(value, expected.pop(path), atol=1e-6, rtol=0, msg=path)
        assert not expected

        for packed in (False, True):
            one, two = logp(whole, packed), logp(split, packed)
            torch.testing.assert_close(two, one, atol=2e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
            one.sum().backward()
            two.sum().backward()
            for (path, mine), (_, theirs) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
                assert (mine.grad is None) == (theirs.grad is None), path
                if mine.grad is not None:
                    torch.testing.assert_close(theirs.grad.full_tensor(), mine.grad, atol=1e-4, rtol=1e-4, msg=f"{name}: {path}")
            assert float(clip_global_norm(split, 0.1)) == pytest.approx(float(clip_global_norm(whole, 0.1)), rel=1e-5)
            for model in (whole, split):
                model.zero_grad()


@pytest.mark.slow
def test_values_and_gradients_are_those_of_the_whole_policy():
    """Two pairs of two, whose slices of slices are uneven."""
    run_threads(worker, {name: [(make(name), make(name)) for _ in range(4)] for name in POLICIES}, world_size=4)


def test_a_layer_outside_of_blocks_is_told():
    with (
        _nobody(1, 2) as mesh,
        pytest.raises(ValueError, match=r"`model\.sharding\.blocks` must hold all layers .* got blocks without 8 of 14 of them"),
    ):
        shard(make("llama"), mesh, Sharding(blocks=["LlamaMLP"]))


def config(**changes):
    return LlamaConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("config", "size", "said"),
    [
        (config(num_attention_heads=3, hidden_size=24, num_key_value_heads=3), 2, "num_attention_heads = 3, got 2"),
        (config(num_key_value_heads=1), 2, "num_key_value_heads = 1, got 2"),
        (config(), 4, "num_key_value_heads = 2, got 4"),
        (config(intermediate_size=43), 2, r"width of model\.layers\.0\.mlp\.gate_proj = 43, got 2"),
        (config(num_attention_heads=6, hidden_size=36, num_key_value_heads=3, intermediate_size=42), 3, None),
    ],
)
def test_what_does_not_divide_is_told(config, size, said):
    if said is None:
        check_tensor_parallel(config, size)
        return
    with pytest.raises(ValueError, match=rf"^`trainer\.strategy\.tensor_parallel_size` must divide the policy's {said}$"):
        check_tensor_parallel(config, size)


def test_models_without_a_plan_that_is_understood_are_told():
    small = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=61)
    with pytest.raises(
        ValueError, match="must be 1 for GPT2LMHeadModel, got 2: transformers has no plan for it; a Llama, Mistral or"
    ):
        check_tensor_parallel(small, 2)
    experts = Qwen3MoeConfig(**SMALL, head_dim=8, moe_intermediate_size=8, num_experts=4)
    with pytest.raises(
        ValueError, match=r"must be 1 for Qwen3MoeForCausalLM, got 2: its model\.layers\.0\.mlp\.experts is to be split 'moe"
    ):
        check_tensor_parallel(experts, 2)
    for unsplit in (small, experts):
        check_tensor_parallel(unsplit, 1)


def test_adapters_with_dropout_are_told():
    with pytest.raises(
        ValueError, match=r"`model\.lora\.dropout` must be 0 with .* = 2, got 0\.1: each process would drop others"
    ):
        check_tensor_parallel(config(), 2, Lora(dropout=0.1))
    check_tensor_parallel(config(), 1, Lora(dropout=0.1))
    check_tensor_parallel(config(), 2, Lora())


def test_one_key_value_head_is_not_split():
    with pytest.raises(ValueError, match="num_key_value_heads = 1, got 2"):
        check_tensor_parallel(load_policy(TINY)[0].config, 2)
