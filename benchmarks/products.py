"""What a step's matrix products alone cost on this machine, by MKL and by oneDNN: no step in float32 can be shorter.

    python benchmarks/products.py --size tiny --json benchmarks/results/products_tiny.json

Every product of the layers and the output layer of one step of the job in step_vs_trl.py is timed at its own shape (forward, and for
learning the two of backward) and multiplied by how often it occurs. ``trl``: each prompt computed once for each of its rollouts, by MKL, as
TRL runs it. ``ours``: each prompt once, by oneDNN where that is quicker. Attention, norms, sampling, optimiser and all Python are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import torch
from provenance import provenance
from steps import JOBS, MICRO, spread

from lightning_focal.functional.products import onednn_products, prefers_onednn


def shapes(job, share):
    """How often a step multiplies ``[rows, inner] x [inner, columns]``."""
    hidden, wide, vocab = job.llama["hidden_size"], job.llama["intermediate_size"], job.llama.get("vocab_size", 2048)
    depth = job.llama["num_hidden_layers"]
    layers = [(hidden, hidden, 4 * depth), (hidden, wide, 2 * depth), (wide, hidden, depth)]
    rollouts = job.prompts * job.group
    batches, made = rollouts // MICRO, Counter()
    prompts = MICRO // job.group if share else MICRO
    rows = prompts * job.words + MICRO * (job.tokens - 1)
    answers = MICRO * job.tokens
    for inner, columns, times in layers:
        made[(rows, inner, columns)] += 2 * times * batches  # reference, policy
        made[(rows, columns, inner)] += times * batches  # to the input
        made[(columns, rows, inner)] += times * batches  # to the weight
        made[(rollouts, inner, columns)] += times * (job.tokens - 1)
        made[((job.prompts if share else rollouts) * job.words, inner, columns)] += times
    made[(answers, hidden, vocab)] += 2 * batches
    made[(answers, vocab, hidden)] += batches
    made[(vocab, answers, hidden)] += batches
    made[(rollouts, hidden, vocab)] += job.tokens
    return made


def seconds_of(shape, by_onednn):
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    context = onednn_products(left, right) if by_onednn else torch.no_grad()
    times = []
    with context:
        for _ in range(3):
            left @ right
        end = time.perf_counter() + 0.25
        while time.perf_counter() < end or len(times) < 5:
            began = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - began)
    return spread(times)["median"]


def total(made, by_onednn):
    each = {shape: seconds_of(shape, by_onednn) for shape in made}
    seconds = sum(each[shape] * times for shape, times in made.items())
    work = sum(2 * a * b * c * times for (a, b, c), times in made.items())
    return {"seconds": seconds, "gflop": work / 1e9, "gflops": work / seconds / 1e9}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[name for name, job in JOBS.items() if job.llama], default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    job = JOBS[options.size]
    kinds = {"trl_mkl": (False, False), "ours_mkl": (True, False), "ours_onednn": (True, True)}
    rounds = [{name: total(shapes(job, share), kind) for name, (share, kind) in kinds.items()} for _ in range(options.rounds)]
    result = {name: {key: spread([one[name][key] for one in rounds]) for key in ("seconds", "gflop", "gflops")} for name in kinds}
    result |= {"prefers_onednn": prefers_onednn(), "size": options.size, "provenance": provenance()}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    for name in kinds:
        print(f"{name:12} {result[name]['seconds']['median']:.3f} s, {result[name]['gflops']['median']:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
