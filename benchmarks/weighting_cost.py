"""What the focal weighting costs, in copies of the score tensor.

    python benchmarks/weighting_cost.py --json benchmarks/results/weighting_cost.json

One CPU thread, in its own CPU seconds. Projection, focal weights, weighted reward and group advantage for scores
``[4096, 16, 64]`` in float32, nine in ten of them judged, are timed against ``scores.clone()`` in the same run, the two taking
turns (``clone_ratio``; ``_unmasked``: without a mask); so are the other methods, each from scores to advantages
(``clone_ratio_by_method``), and at the size of a training step (``step_s_by_method``); then with C and P varied, for the exponents of
``time = a * size^exponent`` (least squares over the logarithms of the medians). What each method reads and writes is counted as well,
in copies (``traffic_by_method``): it is the same on a loaded machine, and leaves out what arithmetic costs. Peak memory is the
high-water mark of a process of its own whose allocator gives every large block back, above what it holds before the call, over the
bytes of the scores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from provenance import provenance
from torch.overrides import TorchFunctionMode

from lightning_focal.functional import (
    criterion_moments,
    disagreement_sums,
    diva_weights,
    focal_weights,
    gd2po_advantage,
    gdpo_advantage,
    group_advantage,
    informed_weights,
    informedness,
    inverse_reward_projection,
    item_response_reward,
    mo_grpo_weights,
    pow3r_factors,
    pow3r_weights,
    probit_difficulty,
    rubric_dropout,
    sa_mrpo_weights,
    weighted_reward,
)

SHAPE = (4096, 16, 64)
STEP = (8, 8, 12)  # of SmolLM2's benchmark, twelve criteria a prompt
CRITERIA, PROMPTS = (64, 128, 256, 512), (1024, 2048, 4096, 8192)
SEED = 0


def case(shape, masked, judged=0.9):
    p, _, c = shape
    generator = torch.Generator().manual_seed(SEED)
    scores = torch.rand(shape, generator=generator)
    weights = torch.rand(p, c, generator=generator)
    mask = torch.empty(shape, dtype=torch.bool).bernoulli_(judged, generator=generator) if masked else None
    return scores, weights / weights.sum(-1, keepdim=True), mask


def pipeline(scores, weights, mask):
    saturation = inverse_reward_projection(scores, weights, mask)
    focal = focal_weights(saturation, weights)
    return group_advantage(weighted_reward(scores, focal, mask))


def standardised(scores, weights, mask):
    return gdpo_advantage(scores, focal_weights(inverse_reward_projection(scores, weights, mask), weights, gamma=0.5), mask)


def informed(scores, weights, mask, again):
    """Standardised Focal where a tenth of the rollouts was judged twice."""
    apart, pairs = disagreement_sums(scores, again, mask)
    return standardised(scores, informed_weights(weights, informedness(apart / pairs).expand_as(weights)), mask)


def by_weights(make):
    return lambda s, w, m: group_advantage(weighted_reward(s, make(s, w, m), m))


def dropped(scores, weights, mask):
    generator = torch.Generator().manual_seed(SEED)
    return weights * rubric_dropout(torch.rand(weights.shape, generator=generator), weights > 0)


def abilities(scores, weights, mask):
    difficulty = probit_difficulty(criterion_moments(scores, mask)).to(weights.dtype)
    return group_advantage(item_response_reward(scores, weights, mask, difficulty=difficulty.expand_as(weights)))


METHODS = {
    "standardised focal": standardised,
    "GDPO": gdpo_advantage,
    "GD2PO": gd2po_advantage,
    "SA-MRPO": lambda s, w, m: gdpo_advantage(s, sa_mrpo_weights(s, w, m), m),
    "MO-GRPO": by_weights(mo_grpo_weights),
    "DIVA": by_weights(diva_weights),
    "POW3R": by_weights(lambda s, w, m: pow3r_weights(w, pow3r_factors(s, w, m))),
    "Rubric Dropout": by_weights(dropped),
    "RRT": abilities,
}


def seconds(function, *arguments):
    start = time.thread_time()  # on one thread the time on the clock, less what other processes took
    function(*arguments)
    return time.thread_time() - start


def medians(shapes, masked, rounds):
    """Median seconds of ``clone`` and of the pipeline for each shape; all take turns, so that a disturbance meets them alike."""
    cases = [case(shape, masked) for shape in shapes]
    times = [{"clone": [], "pipeline": []} for _ in shapes]
    for number in range(rounds + 3):
        for (scores, weights, mask), taken in zip(cases, times, strict=True):
            pair = {"clone": seconds(scores.clone), "pipeline": seconds(pipeline, scores, weights, mask)}
            if number >= 3:  # warm-up
                for name, value in pair.items():
                    taken[name].append(value)
    return [{name: statistics.median(values) for name, values in taken.items()} for taken in times]


def by_method(shape, rounds):
    """Median seconds over ``rounds`` of ``clone`` and of each method, all on one masked case."""
    scores, weights, mask = case(shape, masked=True)
    again = torch.where(torch.arange(scores.shape[1])[:, None] % 10 == 0, scores, torch.nan)
    calls = {"clone": scores.clone} | {name: lambda f=f: f(scores, weights, mask) for name, f in METHODS.items()}
    calls["standardised focal, informed"] = lambda: informed(scores, weights, mask, again)
    return {name: statistics.median([seconds(call) for _ in range(rounds + 1)][1:]) for name, call in calls.items()}


def tensors_in(value):
    """Tensors among arguments or results, however nested."""
    if isinstance(value, torch.Tensor):
        return [value]
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in nested for tensor in tensors_in(part)]


class Traffic(TorchFunctionMode):
    """Bytes of the tensors that go into functions and come out of them; views are free."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given, made = tensors_in((args, kwargs)), tensors_in(out)
        owned = {x.untyped_storage().data_ptr() for x in given}
        changed = getattr(function, "__name__", "").rstrip("_") != getattr(function, "__name__", "")
        if changed or any(x.untyped_storage().data_ptr() not in owned for x in made):
            self.bytes += sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in (*given, *made))
        return out


def traffic():
    """Of each method, what it reads and writes over what ``clone`` does."""
    scores, weights, mask = case(SHAPE, masked=True)
    counts = {}
    for name, call in {"focal": pipeline, **METHODS}.items():
        with Traffic() as count:
            call(scores, weights, mask)
        counts[name] = count.bytes / (2 * scores.nbytes)
    return counts


def exponent(sizes, values):
    x, y = ([math.log(v) for v in vs] for vs in (sizes, values))
    return statistics.linear_regression(x, y).slope


def _status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_memory_ratio(masked):
    """Extra bytes at the peak over the bytes of the scores; to be called in a process of its own."""
    torch.set_num_threads(1)
    scores, weights, mask = case(SHAPE, masked)
    pipeline(scores[:64], weights[:64], None if mask is None else mask[:64])  # libraries and their buffers
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    result = pipeline(scores, weights, mask)
    after = _status("VmHWM")
    return (after - before) / (scores.numel() * scores.element_size()), result.shape


def measured_peak(masked):
    # A fixed threshold keeps the allocator from holding on to freed blocks.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--peak", "masked" if masked else "full"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def measure(rounds):
    torch.set_num_threads(1)
    result = {}
    for masked, suffix in ((True, ""), (False, "_unmasked")):
        (median,) = medians([SHAPE], masked, rounds)
        result[f"clone_ratio{suffix}"] = median["pipeline"] / median["clone"]
        result[f"median_s{suffix}"] = median
        result[f"peak_memory_ratio{suffix}"] = measured_peak(masked)
    taken = by_method(SHAPE, max(3, rounds // 4))
    result["clone_ratio_by_method"] = {name: value / taken["clone"] for name, value in taken.items() if name != "clone"}
    result["step_s_by_method"] = by_method(STEP, rounds)
    result["traffic_by_method"] = traffic()
    _, g, c = SHAPE
    by_criteria = [m["pipeline"] for m in medians([(1024, g, n) for n in CRITERIA], True, rounds)]
    by_prompts = [m["pipeline"] for m in medians([(n, g, c) for n in PROMPTS], True, rounds)]
    result["exponent_criteria"], result["exponent_prompts"] = exponent(CRITERIA, by_criteria), exponent(PROMPTS, by_prompts)
    result["median_s_by_criteria"] = dict(zip(CRITERIA, by_criteria, strict=True))
    result["median_s_by_prompts"] = dict(zip(PROMPTS, by_prompts, strict=True))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--rounds", type=int, default=31, help="timed rounds a size")
    parser.add_argument("--peak", choices=["masked", "full"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_memory_ratio(arguments.peak == "masked")[0])
        return
    load = os.getloadavg()[0]
    result = measure(arguments.rounds)
    result |= {
        "shape": SHAPE,
        "rounds": arguments.rounds,
        "seed": SEED,
        "load_average_before": load,
        **provenance(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
