"""Build the rubric data set ``configs/data/everyday`` from the curated requests in ``benchmarks/everyday``.

    python benchmarks/build_everyday.py [--out configs/data/everyday]

``train.txt`` and ``heldout.txt`` hold the requests: ``# topic`` opens a topic, three lines are a request and its criteria::

    How do I boil an egg so the yolk stays soft? Use at most 40 words.
    asked: short 40
    unsaid: says 2 water, minutes, boil; calm; question @4

``asked`` criteria stand in the request, ``unsaid`` ones are house style. A criterion is a name of ``everyday/criteria.py``, its
numbers, its texts (parted by `` | ``) and, after ``@``, points of its own; without them it has the default, one more (at most 5)
where it is asked for. Every run writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from everyday.criteria import AXES, FITTED, FIXED, Item

HERE = Path(__file__).resolve().parent
SPLITS = ("train", "heldout")
LIMITS = (4, 9)


def parse_item(text: str, asked: bool) -> Item:
    """Return the criterion that ``text`` spells, e.g. ``says 2 water, pan @5``."""
    body, _, points = text.partition(" @")
    name, _, rest = body.strip().partition(" ")
    if name in FIXED and not rest:
        item = FIXED[name]
    elif name in FITTED:
        numbers = re.match(r"(\d+(?: |$))*", rest)
        figures = numbers.group() if numbers else ""
        texts = [part.strip() for part in rest[len(figures) :].split(" | ")] if rest[len(figures) :] else []
        item = FITTED[name](*map(int, figures.split()), *texts)
    else:
        raise ValueError(f"expected a criterion of everyday/criteria.py, got {text!r}")
    if not points and asked:
        points = str(min(5, item.points + 1) if item.points > 0 else max(-5, item.points - 1))
    return replace(item, points=int(points)) if points else item


def parse_items(line: str, start: str) -> list[Item]:
    """Return the criteria of an ``asked:`` or ``unsaid:`` line."""
    if not line.startswith(start):
        raise ValueError(f"expected a line that starts with {start!r}, got {line!r}")
    return [parse_item(part, start == "asked:") for part in line.removeprefix(start).strip().split("; ")]


def read_requests(path: Path) -> Iterator[tuple[int, str, str, list[dict[str, Any]]]]:
    """Yield line number, topic, request and rubric of every block of a curated file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    topic, at = "", 0
    while at < len(lines):
        if lines[at].startswith("# "):
            topic = lines[at].removeprefix("# ")
            at += 1
        elif not lines[at]:
            at += 1
        else:
            prompt, asked, unsaid = lines[at : at + 3]
            try:
                rubric = [item.row(topic, "asked") for item in parse_items(asked, "asked:")]
                rubric += [item.row(topic, "unsaid") for item in parse_items(unsaid, "unsaid:")]
                check_rubric(rubric)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path.name}:{at + 1}: {error}") from error
            yield at + 1, topic, prompt, rubric
            at += 3


def check_rubric(rubric: list[dict[str, Any]]) -> None:
    """Refuse a rubric of the wrong size, with a name twice or with an unknown axis."""
    names = [criterion["name"] for criterion in rubric]
    if not LIMITS[0] <= len(names) <= LIMITS[1]:
        raise ValueError(f"expected {LIMITS[0]} to {LIMITS[1]} criteria, got {len(names)}")
    if len(set(names)) != len(names):
        raise ValueError(f"expected names that occur once, got {names}")
    if unknown := [c["name"] for c in rubric if c["tags"][0].removeprefix("axis:") not in AXES]:
        raise ValueError(f"expected axes out of {AXES}, got others in {unknown}")


def build(out: Path) -> dict[str, int]:
    """Write ``train.jsonl`` and ``heldout.jsonl`` into ``out``; return the number of rows of each."""
    seen: dict[str, str] = {}
    counts = {}
    for split in SPLITS:
        rows = []
        for number, (line, topic, prompt, rubric) in enumerate(read_requests(HERE / "everyday" / f"{split}.txt"), start=1):
            where = f"{split}.txt:{line}"
            if prompt.casefold() in seen:
                raise ValueError(f"{where}: the request stands at {seen[prompt.casefold()]} already")
            seen[prompt.casefold()] = where
            rows.append({"id": f"everyday-{split}-{number:03d}", "topic": topic, "prompt": prompt, "rubric": rubric})
        out.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_bytes(text.encode("utf-8"))
        counts[split] = len(rows)
    return counts


def main() -> None:
    """Build the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "configs" / "data" / "everyday")
    arguments = parser.parse_args()
    for split, count in build(arguments.out).items():
        print(f"{split}: {count} requests")


if __name__ == "__main__":
    main()
