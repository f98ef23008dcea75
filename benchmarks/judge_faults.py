"""What a judge makes of a server that misbehaves.

    python benchmarks/judge_faults.py --json benchmarks/results/judge_faults.json

Each fault is injected twice, by a server on this machine: into the first reply about every response, after which the server behaves
(``once``), and into every reply (``always``). A run judges 24 responses by three criteria, met or not met and graded, whose right verdicts
are known; what a broken reply says is the opposite of them. Counted are verdicts that are ``right``, those that are masked as ``error``, those
that are ``wrong``, and crashes: any exception, except where the fault is one that must end the run at once, and no exception there.

``--json`` gets ``faults``, ``wrong_verdicts``, ``crashes`` and the rows; ``--table`` the table as a page, docs/reference/judge_faults.md by
default.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from faulty_server import AT_ONCE, FAULTS, HARMLESS, serving, truth
from provenance import provenance

from lightning_focal.judges import HTTPJudge, JudgeRequest, Outcome
from lightning_focal.rubrics import Criterion
from lightning_focal.servers import ChatUnusable

ROOT = Path(__file__).resolve().parent.parent
CRITERIA = (
    Criterion("apple", "Says apple."),
    Criterion("pear", "Says pear.", -1),
    Criterion("count", "Counts plum, from 0 to 9.", low=0, high=9),
)
COUNT, CONCURRENCY = 24, 8
GONE = ("connection refused", "server dies in mid-run and returns")


def requests():
    return [
        JudgeRequest(
            ({"role": "user", "content": "List some fruit."},),
            " ".join([f"List {i}:", *["apple"] * (i % 2), *["pear"] * (i % 3 == 0), *["plum"] * (i % 5)]),
            CRITERIA,
        )
        for i in range(COUNT)
    ]


def is_right(verdict, criterion, response):
    said, value = truth(criterion.description, response)
    return verdict.outcome.value == said and verdict.value == value


def counted(verdicts):
    counts = {"right": 0, "error": 0, "wrong": 0}
    for request, row in zip(requests(), verdicts, strict=True):
        for criterion, verdict in zip(CRITERIA, row, strict=True):
            error = verdict.outcome is Outcome.ERROR
            counts["error" if error else "right" if is_right(verdict, criterion, request.response) else "wrong"] += 1
    return counts


def gone(server, fault, always):
    """Take the server off: before the first request, or in the middle of the run."""
    seconds = None if always else 0.6
    if fault == "connection refused":
        server.go_down(seconds)
        time.sleep(0.1)
        server.fault = None
        return

    def when(exchange):
        if len(server.requests) == COUNT // 2:
            server.go_down(seconds)
            return True
        return False

    server.when = when


def run(fault, always):
    """Judge once under a fault; returns a row."""
    row = {"fault": fault, "right": 0, "error": 0, "wrong": 0, "crash": "", "said": ""}
    with serving(fault) as server:
        if fault in GONE:
            gone(server, fault, always)
        elif always:
            server.when = lambda exchange: True
        judge = HTTPJudge(
            server.url,
            "judge",
            key_env="JUDGE_FAULTS_KEY",
            concurrency=CONCURRENCY,
            attempts=2 if always else 8,
            timeout_s=5 if fault == "10 MB body" else 0.5,
            first_wait_s=0.1,
            max_wait_s=0.5,
            deadline_s=30,
        )
        began = time.perf_counter()
        try:
            verdicts = judge.judge(requests())
            row |= counted(verdicts)
            row["said"] = next((v.reason for r in verdicts for v in r if v.outcome is Outcome.ERROR), "")
            if fault in AT_ONCE:
                row["crash"] = "did not stop"
        except ChatUnusable as error:
            row["said"] = str(error)
            if AT_ONCE.get(fault, "\0") not in str(error) or len(server.requests) > CONCURRENCY:
                row["crash"] = f"ChatUnusable: {error}"
        except Exception as error:
            row["crash"] = f"{type(error).__name__}: {error}"
        row["seconds"] = round(time.perf_counter() - began, 2)
        row["requests"], row["retries"] = int(judge.measures()["requests"]), int(judge.measures()["retries"])
    return row


def as_expected(fault, once, always):
    """Beyond nothing wrong: what is right in the end, and what is not."""
    everything = COUNT * len(CRITERIA)
    if fault in AT_ONCE:
        return once["error"] == once["right"] == 0
    whole = always["right"] == everything if fault in HARMLESS else always["error"] > 0
    return once["right"] == everything and whole


def page(rows, made):
    lines = [
        "# A judge's server that misbehaves",
        "",
        f"Made by `python benchmarks/judge_faults.py` ({made['date'][:10]}, commit {made['commit'][:12]}). Each fault strikes the first reply "
        f"about every response, after which the server behaves (*once*), or every reply (*always*). {COUNT} responses by {len(CRITERIA)} "
        "criteria are judged, and what a broken reply says is the opposite of what is right. An error is masked: it has no score.",
        "",
        "| fault | once: right | error | wrong | retries | always: right | error | wrong | crashes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        once, always = row["once"], row["always"]
        if row["fault"] in AT_ONCE:
            cells = ["stops at once", "", once["wrong"], once["retries"], "stops at once", "", always["wrong"]]
        else:
            cells = [once[k] for k in ("right", "error", "wrong", "retries")] + [always[k] for k in ("right", "error", "wrong")]
        crashes = bool(once["crash"]) + bool(always["crash"])
        lines.append(f"| {row['fault']} | " + " | ".join(map(str, cells)) + f" | {crashes} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "reference" / "judge_faults.md")
    options = parser.parse_args()
    os.environ["JUDGE_FAULTS_KEY"] = "sk-of-no-use"
    rows = []
    for fault in FAULTS:
        rows.append({"fault": fault, "once": run(fault, False), "always": run(fault, True)})
        once, always = rows[-1]["once"], rows[-1]["always"]
        rows[-1]["as_expected"] = as_expected(fault, once, always)
        shown = [
            f"{name} {r['right']}/{r['error']}/{r['wrong']} {r['seconds']} s" for name, r in (("once", once), ("always", always))
        ]
        print(
            f"{fault:40} {'; '.join(shown)} {'' if rows[-1]['as_expected'] else 'NOT AS EXPECTED'} {once['crash'] or always['crash']}"
        )
        print(f"{'':10} {always['said'][:160]}")
    runs = [row[name] for row in rows for name in ("once", "always")]
    made = provenance()
    result = {
        "faults": len(rows),
        "wrong_verdicts": sum(run["wrong"] for run in runs),
        "crashes": sum(bool(run["crash"]) for run in runs),
        "as_expected": sum(row["as_expected"] for row in rows),
        "rows": rows,
        "provenance": made,
    }
    options.table.write_text(page(rows, made), encoding="utf-8")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print({key: result[key] for key in ("faults", "wrong_verdicts", "crashes", "as_expected")})
    sys.exit(bool(result["wrong_verdicts"] or result["crashes"] or result["as_expected"] < len(rows)))


if __name__ == "__main__":
    main()
