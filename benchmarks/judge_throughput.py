"""How fast an HTTP judge gets its verdicts, what memory that takes, and how fast it lets go.

    python benchmarks/judge_throughput.py --json benchmarks/results/judge_throughput.json

2,000 responses by one criterion, one request each, 64 at a time, to a server on this machine (a process of its own) that takes 50 ms for
each: at best ``2000 / 64 * 50 ms``. ``ratio`` is the median over ``--rounds`` of seconds over that. ``memory_growth_mib`` is what the
process's resident memory gained from the second round to the last. Then the same batch, with a cache, is interrupted (SIGINT) in the middle,
three times: ``interrupt_s`` is the longest time until the judge returned, ``lost`` the verdicts that were read but are not in the cache,
``wrong`` the verdicts anywhere that are not as they should be.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from faulty_server import truth
from provenance import provenance

from lightning_focal.judges import HTTPJudge, JudgeRequest
from lightning_focal.judges.http import judge as judge_module
from lightning_focal.rubrics import Criterion

COUNT, CONCURRENCY, LATENCY = 2000, 64, 0.05
IDEAL = COUNT / CONCURRENCY * LATENCY
HERE = Path(__file__).resolve().parent
CRITERION = Criterion("apple", "Says apple.")
TEXT = "Fruit is best when it is ripe, and this list is about as long as an answer to a question about fruit. " * 8


def requests(salt):
    chat = ({"role": "user", "content": "List some fruit, and say when it is ripe."},)
    return [JudgeRequest(chat, f"List {salt}/{i}: {'apple' if i % 2 else 'pear'} {TEXT}", (CRITERION,)) for i in range(COUNT)]


def wrong(asked, verdicts):
    return sum(
        row[0].outcome.value != truth(CRITERION.description, r.response)[0] for r, row in zip(asked, verdicts, strict=True)
    )


def resident():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def throughput(url, rounds):
    judge = HTTPJudge(url, "judge", concurrency=CONCURRENCY)
    judge.judge(requests("warm-up")[:CONCURRENCY])
    seconds, cpu, memory, bad = [], [], [], 0
    for number in range(rounds):
        asked = requests(number)
        began, used = time.perf_counter(), time.process_time()
        verdicts = judge.judge(asked)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
        bad += wrong(asked, verdicts)
        del asked, verdicts
        memory.append(resident())
    return {
        "ideal_s": IDEAL,
        "seconds": [round(s, 3) for s in seconds],
        "cpu_seconds": [round(s, 3) for s in cpu],
        "ratio": round(statistics.median(seconds) / IDEAL, 3),
        "memory_mib": [round(m, 1) for m in memory],
        "memory_growth_mib": round(memory[-1] - memory[min(1, rounds - 1)], 1),
        "wrong": bad,
    }


def interrupted(url, folder, after):
    """Judge, and be interrupted after so many seconds: to be called in a process of its own."""
    read, finished = judge_module.read_verdicts, []

    def noted(*arguments):
        result = read(*arguments)
        finished.extend(result[0])
        return result

    judge_module.read_verdicts = noted
    asked, at = requests(after), []

    def interrupt():
        time.sleep(after)
        at.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    judge = HTTPJudge(url, "judge", concurrency=CONCURRENCY, cache=str(Path(folder) / f"{after}.sqlite"))
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        judge.judge(asked)
        raise RuntimeError("the batch was over before it was interrupted")
    except KeyboardInterrupt:
        took = time.perf_counter() - at[0]
    count, kept = len(finished), len(judge.cache)
    again = HTTPJudge(url, "judge", concurrency=CONCURRENCY, cache=str(judge.cache.path))
    verdicts = again.judge(asked)
    hits = round(again.measures()["cache_hit_rate"] * COUNT)
    print(
        json.dumps(
            {"interrupt_s": took, "finished": count, "lost": max(0, count - min(kept, hits)), "wrong": wrong(asked, verdicts)}
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--interrupted", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.interrupted:
        url, folder, after = options.interrupted
        return interrupted(url, folder, float(after))
    command = [sys.executable, str(HERE / "faulty_server.py"), "--latency", str(LATENCY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, tempfile.TemporaryDirectory() as folder:
        try:
            url = server.stdout.readline().strip()
            result = throughput(url, options.rounds)
            stops = []
            for after in (0.4, 0.8, 1.2):
                again = [sys.executable, __file__, "--interrupted", url, folder, str(after)]
                stops.append(json.loads(subprocess.run(again, check=True, capture_output=True, text=True, timeout=120).stdout))
        finally:
            server.kill()
    result["interruptions"] = stops
    result["interrupt_s"] = round(max(stop["interrupt_s"] for stop in stops), 3)
    result["lost"] = sum(stop["lost"] for stop in stops)
    result["wrong"] += sum(stop["wrong"] for stop in stops)
    result["provenance"] = provenance()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "provenance"}, indent=1))
    good = result["ratio"] <= 1.3 and result["interrupt_s"] <= 2 and not result["lost"] and not result["wrong"]
    return sys.exit(not (good and math.fabs(result["memory_growth_mib"]) <= 8))


if __name__ == "__main__":
    main()
