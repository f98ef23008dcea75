"""Size, opening time and filter time of the report of a 200-batch run with 6,400 rollouts, in headless Chromium.

    python benchmarks/report_page.py [--json FILE] [--keep FOLDER]

The run is made up, by what writes real ones: nine criteria, responses of 60 words drawn at random from the words of README and docs (which
deflate worse than English does), verdicts with reasons. Opening is from the start of navigation until every figure and the list of rollouts
are drawn, by the page's own clock, each time in a browser of its own; a filter takes from the change of an input until the list has been laid
out anew.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from provenance import provenance  # noqa: E402

from lightning_focal.files import write_json  # noqa: E402
from lightning_focal.report import write_report  # noqa: E402
from tests.report.chromium import Chromium, find  # noqa: E402
from tests.report.made_run import make_run  # noqa: E402

FILTERS = {
    "criterion": {"criterion": "key:caution"},
    "criterion not met": {"criterion": "key:caution", "outcome": "n"},
    "criterion by name, failed": {"criterion": "name:no filler", "outcome": "f"},
    "text": {"text": "answers the"},
    "text that is nowhere": {"text": "qqqq"},
    "first batch": {"batch": "first"},
    "rank gained": {"sort": "lifted"},
    "rank lost, text": {"sort": "lowered", "text": "the"},
    "everything again": {},
}
_FILTER = """(wanted => {
  const form = document.getElementById("filters");
  form.reset();
  for (const [name, value] of Object.entries(wanted)) form.elements[name].value = value;
  const began = performance.now();
  form.dispatchEvent(new Event("input", {bubbles: true}));
  document.getElementById("list").getBoundingClientRect();
  return [performance.now() - began, report.browser.order.length];
})"""


def words() -> list[str]:
    """Words of README and docs, as often as they occur there."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return re.findall(r"[A-Za-z][a-z']+[,.]?", " ".join(page.read_text(encoding="utf-8") for page in pages))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--openings", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--keep", type=Path, default=None, help="folder for the run and its report; a temporary one by default")
    arguments = parser.parse_args()
    if find() is None:
        raise SystemExit("error: no chromium found")
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_run(
            (arguments.keep or Path(temporary)) / "run",
            batches=arguments.batches,
            prompts=4,
            group=8,
            held_out=64,
            words=words(),
            length=60,
            evaluations=(0, arguments.batches // 2, None),
            extra=_health,
        )
        began = time.monotonic()
        written = write_report([folder])
        seconds = time.monotonic() - began
        openings, filters = [], {name: [] for name in FILTERS}
        for _ in range(arguments.openings):
            with Chromium() as browser:
                openings.append(browser.open(written.path))
                for name, wanted in FILTERS.items():
                    filters[name].append(browser.run(f"{_FILTER}({json.dumps(wanted)})"))
                if browser.problems or browser.requests != [written.path.absolute().as_uri()]:
                    raise RuntimeError(f"{browser.problems} {browser.requests}")
    result = {
        "rollouts": arguments.batches * 32,
        "megabytes": written.size / 1e6,
        "write_s": seconds,
        "open_s": {"median": statistics.median(openings), "max": max(openings), "each": openings},
        "filter_ms": {
            name: {"median": statistics.median(t for t, _ in found), "max": max(t for t, _ in found), "found": found[0][1]}
            for name, found in filters.items()
        },
        "provenance": provenance(),
    }
    sys.stdout.write(json.dumps({key: value for key, value in result.items() if key != "provenance"}, indent=1) + "\n")
    if arguments.json:
        write_json(arguments.json, result)


def _health(batch: int) -> dict[str, float]:
    dice = random.Random(batch)
    return {"train/policy/entropy": 1.5 - batch / 400 + dice.gauss(0, 0.05), "train/policy/grad_norm": dice.random()}


if __name__ == "__main__":
    main()
