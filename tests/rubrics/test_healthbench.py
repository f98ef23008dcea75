"""HealthBench rows."""

from __future__ import annotations

import json

import pytest

from lightning_focal.rubrics import RubricError, read_rows
from lightning_focal.types import level_key

ROW = {
    "prompt_id": "p-1",
    "prompt": [{"role": "user", "content": "My head hurts."}],
    "rubrics": [
        {"criterion": "Advises to see a doctor.", "points": 5, "tags": ["level:example", "axis:accuracy"]},
        {"criterion": "Advises to see a doctor.", "points": 3, "tags": ["level:example", "axis:completeness"]},
        {"criterion": "Names a dose without asking for age.", "points": -8, "tags": ["level:example", "axis:accuracy"]},
    ],
    "example_tags": ["theme:hedging"],
    "canary": "c",
}


def read(tmp_path, **changes):
    path = tmp_path / "hb.jsonl"
    path.write_text(json.dumps({**ROW, **changes}), encoding="utf-8")
    return read_rows(path)[0]


def test_row(tmp_path):
    row = read(tmp_path)
    assert row.id == "p-1"
    assert row.messages == ({"role": "user", "content": "My head hurts."},)
    assert row.rubric.names == ("advises-to-see-a-doctor", "advises-to-see-a-doctor-2", "names-a-dose-without-asking-for-age")
    assert row.rubric.criteria[0].description == "Advises to see a doctor."
    assert [c.points for c in row.rubric.criteria] == [5.0, 3.0, -8.0]
    assert row.rubric.criteria[0].tags == ("level:example", "axis:accuracy")
    assert level_key(row.rubric.names[0], row.rubric.criteria[0].tags) == "accuracy"
    assert row.extra == {"example_tags": ["theme:hedging"], "canary": "c"}
    assert row.rubric.prior_weights == (5 / 16, 3 / 16, 8 / 16)
    assert row.rubric.raw_score([True, False, True]) == -3 / 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rubrics": []}, "hb.jsonl:1: `rubrics` must be a non-empty list of criteria, got \\[\\]"),
        ({"rubrics": [{"points": 1}]}, "`rubrics\\[0\\].criterion` must be a non-empty string, got None"),
        ({"rubrics": [{"criterion": "a"}]}, "`rubrics\\[0\\].points` must be a finite number, got None"),
        ({"rubrics": [{"criterion": "a", "points": "5"}]}, "`rubrics\\[0\\].points` must be a finite number, got '5'"),
        (
            {"rubrics": [{"criterion": "a", "points": 5, "tags": [3]}]},
            "`rubrics\\[0\\].tags` must be a list of strings, got \\[3\\]",
        ),
        ({"rubrics": [{"criterion": "a", "points": 0}]}, "`points` must be other than zero for some criterion"),
        ({"prompt": [{"role": "user", "content": None}]}, "`prompt\\[0\\].content` must be a string, got None"),
        ({"prompt_id": 3.5}, "`prompt_id` must be a non-empty string or a whole number, got 3.5"),
        ({"example_tags": "x"}, "`example_tags` must be a list of strings, got 'x'"),
    ],
)
def test_malformed(tmp_path, changes, message):
    with pytest.raises(RubricError, match=message):
        read(tmp_path, **changes)
