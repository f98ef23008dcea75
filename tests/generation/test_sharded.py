"""Policies sharded by FSDP2 over two CPU processes: rollouts and log-probabilities equal those of the whole policy."""

import pytest
import torch
import torch.distributed as dist

from lightning_focal.generation import HFGenerator, Sampling, full_weights
from lightning_focal.models import dummy_forward, load_policy, response_logp, rows_in_words
from tests.helpers import adapted
from tests.models.architectures import flat
from tests.processes import run_ranks

from .helpers import make_prompts, responses

SOURCE = "random:tiny-llama?hidden=32&layers=2&seed=3&std=0.2"


def make_policy():
    model, tokenizer = load_policy(SOURCE)
    torch.manual_seed(1)
    return adapted(model, 0.2), tokenizer


def worker(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole, tokenizer = make_policy()
    sharded, _ = make_policy()
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)

    # The first call tries the model out, on a rank without rows, too.
    if rank == 0:
        dummy_forward(sharded)
    else:
        row = torch.ones(1, 3, dtype=torch.int64)
        response_logp(sharded, row, row > 0, row, row > 0)
    assert rows_in_words(sharded) == "rows without padding"
    assert HFGenerator().describe(sharded) == "cache loop, unsharded copy"

    names = dict(full_weights(whole))
    for name, value in full_weights(sharded):
        torch.testing.assert_close(value, names.pop(name), atol=1e-6, rtol=0)
    assert not names

    # Each rank has its own prompt and its own number of steps.
    prompts = make_prompts(tokenizer, ("Hi", "A longer question")[rank : rank + 1])
    arguments = {"group_size": 3, "seeds": [rank], "sampling": Sampling(max_new_tokens=4 + 5 * rank)}
    expected = HFGenerator().generate(whole, tokenizer, prompts, **arguments)
    generator = HFGenerator()
    generator.sync(sharded, 1)
    rollouts = generator.generate(sharded, tokenizer, prompts, **arguments)
    assert responses(rollouts) == responses(expected)

    reference = response_logp(whole, *flat(rollouts))
    logp = response_logp(sharded, *flat(rollouts), chunk_size=4)
    torch.testing.assert_close(logp, reference, atol=1e-5, rtol=0)
    logp.sum().backward()
    reference.sum().backward()
    for (name, one), (_, other) in zip(whole.named_parameters(), sharded.named_parameters(), strict=True):
        if one.requires_grad:
            grad = one.grad.clone()
            dist.all_reduce(grad)
            torch.testing.assert_close(
                other.grad.full_tensor(), grad / 2, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.slow
def test_two_ranks():
    """Starts two processes; without adapters: tests/modules/test_processes.py."""
    run_ranks(worker)
