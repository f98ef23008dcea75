"""What a sudden end does to the cache of verdicts.

    python benchmarks/judge_cache.py --json benchmarks/results/judge_cache.json

Twenty times two processes that share one file write verdicts into it as fast as they can, one or a few at a time, saying each that is written,
until both are ended by ``kill -9`` at a moment drawn at random. Then the file is checked as SQLite does (``integrity_check``), every verdict
that was said to be written must be there, and every verdict there must be the right one for its key. ``corrupt``, ``lost`` and ``wrong`` are
counted over all rounds; ``written`` verdicts were said, ``cut_off`` of them were written, but not said, when the
end came.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import select
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from provenance import provenance

from lightning_focal.judges import Outcome, Verdict, VerdictCache

KILLS, WRITERS, SEED = 20, 2, 0
OUTCOMES = (Outcome.MET, Outcome.NOT_MET, Outcome.GRADED, Outcome.NOT_APPLICABLE)


def key_of(name):
    return hashlib.sha256(name.encode()).digest()


def verdict_of(name):
    """The right verdict of a key: all of it follows from the name."""
    digest = key_of("verdict " + name)
    outcome = OUTCOMES[digest[0] % 4]
    return Verdict(outcome, digest[1] / 255 if outcome is Outcome.GRADED else None, digest.hex() * (1 + digest[2] % 8))


def write(path, writer, pipe):
    """Write until killed; says the number of verdicts that are written, a line each time."""
    cache, number = VerdictCache(path), 0
    while True:
        names = [f"{writer}-{number + i}" for i in range(1 + number % 3)]
        cache.put({key_of(name): verdict_of(name) for name in names})
        number += len(names)
        os.write(pipe, f"{number}\n".encode())


def killed(path, round_, wait):
    """Let two processes write for ``wait`` seconds after both began; returns how many verdicts each said it had written."""
    context = multiprocessing.get_context("fork")
    pipes = [os.pipe() for _ in range(WRITERS)]
    started = [context.Process(target=write, args=(path, f"{round_}-{i}", pipe[1])) for i, pipe in enumerate(pipes)]
    said = {pipe[0]: b"" for pipe in pipes}
    for process in started:
        process.start()
    for pipe in pipes:
        os.close(pipe[1])
    try:
        until = None
        while until is None or time.monotonic() < until:
            for pipe in select.select(list(said), [], [], 0.01)[0]:
                said[pipe] = (said[pipe] + os.read(pipe, 1 << 16))[-64:]
            if until is None and all(said.values()):
                until = time.monotonic() + wait
    finally:
        for process in started:
            process.kill()
    for process, pipe in zip(started, said, strict=True):
        process.join()
        while chunk := os.read(pipe, 1 << 16):
            said[pipe] = (said[pipe] + chunk)[-64:]
        os.close(pipe)
    return [int(lines[: lines.rindex(b"\n")].split(b"\n")[-1]) for lines in said.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kills", type=int, default=KILLS)
    options = parser.parse_args()
    dice = random.Random(SEED)
    result = {"kills": options.kills, "corrupt": 0, "lost": 0, "wrong": 0, "written": 0, "cut_off": 0}
    with tempfile.TemporaryDirectory() as folder:
        path, names = Path(folder) / "verdicts.sqlite", {}
        for round_ in range(options.kills):
            for i, count in enumerate(killed(path, round_, dice.uniform(0.01, 0.3))):
                names |= {key_of(f"{round_}-{i}-{n}"): f"{round_}-{i}-{n}" for n in range(count + 3)}  # a write may be under way
                expected = {key_of(f"{round_}-{i}-{n}") for n in range(count)}
                result["written"] += count
                there = VerdictCache(path).get(expected)
                result["lost"] += len(expected - there.keys())
            with sqlite3.connect(path) as connection:
                result["corrupt"] += connection.execute("PRAGMA integrity_check").fetchone() != ("ok",)
                keys = [key for (key,) in connection.execute("SELECT key FROM verdicts")]
            found = VerdictCache(path).get(keys)
            result["wrong"] += sum(key not in names or found[key] != verdict_of(names[key]) for key in keys)
            result["cut_off"] = len(keys) - result["written"]
    result["provenance"] = provenance()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print({name: value for name, value in result.items() if name != "provenance"})
    sys.exit(bool(result["corrupt"] or result["lost"] or result["wrong"]))


if __name__ == "__main__":
    main()
