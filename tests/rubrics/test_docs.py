"""docs/rubrics.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lightning_focal.judges import RuleJudge
from lightning_focal.rubrics import read_rows

PAGE = (Path(__file__).parents[2] / "docs" / "rubrics.md").read_text(encoding="utf-8")


def test_the_example_row_reads_and_can_be_judged(tmp_path):
    example = json.loads(next(block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)))
    path = tmp_path / "tea.jsonl"
    path.write_text(json.dumps(example), encoding="utf-8")
    (row,) = read_rows(path)
    assert row.rubric.names == ("short", "right", "shouting", "kind")
    assert row.rubric.criteria[1].check == {"kind": "answer", "expected": "3"}
    for criterion in row.rubric.criteria[:3]:
        RuleJudge().validate(criterion)
