"""docs/rubrics.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lightning_focal.judges import RuleJudge
from lightning_focal.judges.rules import check_table
from lightning_focal.rubrics import FORMATS, read_rows

PAGE = (Path(__file__).parents[2] / "docs" / "rubrics.md").read_text(encoding="utf-8")


def section(name):
    return re.search(rf"<!-- {name}:begin -->\n(.*)\n<!-- {name}:end -->", PAGE, re.DOTALL)[1]


def test_the_tables_are_those_of_the_registries():
    assert section("checks") == check_table()
    rows = [f"| `{name}` | {known.fields} | {known.terms} |" for name, known in sorted(FORMATS.items())]
    head = ["| format | fields of a row | score in its own terms |", "|---|---|---|"]
    assert section("formats") == "\n".join([*head, *rows])


def test_the_example_row_reads_and_can_be_judged(tmp_path):
    example = json.loads(next(block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)))
    path = tmp_path / "tea.jsonl"
    path.write_text(json.dumps(example), encoding="utf-8")
    (row,) = read_rows(path)
    assert row.rubric.names == ("short", "right", "shouting", "kind")
    assert row.rubric.criteria[1].check == {"kind": "answer", "expected": "3"}
    for criterion in row.rubric.criteria[:3]:
        RuleJudge().validate(criterion)
