"""Time a million rule checks: responses of 200 words, 16 criteria each, on one core.

All responses are different, so nothing is remembered from one to the next. Timed is judging alone, in batches as in training; the
responses are made between them. A second part has patterns that never end search responses made for it: each is cut off within its
limit, as an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from provenance import provenance

from lightning_focal.judges import JudgeRequest, Outcome, RuleJudge
from lightning_focal.rubrics import Criterion

CHECKS = (
    {"kind": "max_words", "words": 150},
    {"kind": "sentences_between", "min": 3, "max": 30},
    {"kind": "paragraphs_between", "min": 1, "max": 9},
    {"kind": "keywords", "words": ["protein", "fibre", "water"], "at_least": 2},
    {"kind": "forbidden_words", "words": ["very", "really", "just"]},
    {"kind": "regex", "pattern": r"\b\d+ (?:g|mg)\b"},
    {"kind": "bullets", "min": 2},
    {"kind": "hedging", "min": 2},
    {"kind": "readability", "min": 60},
    {"kind": "ends_with_question"},
    {"kind": "no_exclamation"},
    {"kind": "no_first_person"},
    {"kind": "addresses_reader"},
    {"kind": "no_repeated_ngram"},
    {"kind": "unique_words"},
    {"kind": "no_ai_disclaimer"},
)
ENDLESS = (
    ("(a|aa)+$", "a" * 60 + "b"),
    (r"(\w|\w\w)+$", "a" * 60 + "!"),
    (r"(\d|\d\d)+$", "1" * 60 + "."),
    ("([a-z]|[a-z]{2})+$", "word" * 15 + "."),
)
"""Patterns that try more ways than can ever be tried, and what they search."""
PLAIN = (
    "water protein fibre bread might perhaps you your I very walk morning letter garden river slowly breakfast together "
    "understand necessary 20 g morning's well-known people answer question important different"
)
WORDS = PLAIN.split()
BATCH = 100
QUESTION = ({"role": "user", "content": "What should I eat before a long run in the morning?"},)


def response(dice, words):
    """Prose of so many words, with sentences, some marks and now and then a list."""
    parts, left = [], words
    while left > 0:
        size = min(left, dice.randint(4, 18))
        sentence = " ".join(dice.choices(WORDS, k=size)).capitalize() + dice.choice("....?!")
        parts.append(sentence + dice.choice((" ", " ", " ", "\n\n", "\n- ")))
        left -= size
    return "".join(parts).strip()


def criteria():
    return tuple(Criterion(f"c{i}", "d", check=check, points=-1 if i % 5 == 4 else 1) for i, check in enumerate(CHECKS))


def measure(checks, words, seed):
    """Seconds of judging, on the clock and of this process."""
    dice, asked, judge = random.Random(seed), criteria(), RuleJudge()
    batches = -(-checks // (BATCH * len(asked)))
    judge.judge([JudgeRequest(QUESTION, response(dice, words), asked)])  # compiles the checks
    wall = cpu = 0.0
    counted = []
    outcomes = Counter()
    for _ in range(batches):
        requests = [JudgeRequest(QUESTION, response(dice, words), asked) for _ in range(BATCH)]
        start, started = time.perf_counter(), time.process_time()
        verdicts = judge.judge(requests)
        wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - started
        outcomes.update(verdict.outcome.value for row in verdicts for verdict in row)
        counted.append(len(requests[0].response.split()))
    done = batches * BATCH * len(asked)
    return {
        "checks": done,
        "criteria": len(asked),
        "words_per_response": statistics.mean(counted),
        "seconds": cpu,
        "wall_seconds": wall,
        "microseconds_per_check": cpu / done * 1e6,
        "seconds_per_million": cpu / done * 1e6,
        "outcomes": dict(outcomes),
    }


def cut_off(limit):
    """Longest time of an endless pattern, and how the verdicts came out."""
    outcomes, slowest = Counter(), 0.0
    for pattern, text in ENDLESS:
        for kind in ("regex", "not_regex"):
            criterion = Criterion("c", "d", check={"kind": kind, "pattern": pattern})
            start = time.perf_counter()
            verdict = RuleJudge(regex_timeout=limit).judge([JudgeRequest((), text, (criterion,))])[0][0]
            slowest = max(slowest, time.perf_counter() - start)
            outcomes[verdict.outcome.value] += 1
            assert verdict.outcome in (Outcome.ERROR, Outcome.MET, Outcome.NOT_MET)
    return {"limit_s": limit, "patterns": 2 * len(ENDLESS), "slowest_s": slowest, "outcomes": dict(outcomes)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--checks", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=200, help="words a response")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    result = measure(arguments.checks, arguments.words, arguments.seed)
    result |= {"endless_patterns": cut_off(0.25), "seed": arguments.seed, "load_average_before": load, **provenance()}
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
