"""Read, write, read: every field comes back, unknown ones included."""

from __future__ import annotations

import json

import pytest

from lightning_focal.rubrics import Criterion, Rubric, RubricRow, read_rows, to_row, write_rows
from lightning_focal.rubrics.readers.fields import without_none
from tests.rubrics.test_formats import ROWS

STRANGE = {"canary": "c-1", "nested": {"a": [{"b": "ü\u2028", "c": 2.5}], "t": True}, "n": 3}
SUFFIXES = ("jsonl", "json", "parquet")


def row_of(name, suffix):
    row = {**json.loads(json.dumps(ROWS[name])), **STRANGE}
    if name == "ruscarl" and suffix == "parquet":  # a column of parquet has one type
        row["reward_model"]["rubrics"] = row["reward_model"]["rubrics"][:1]
    return row


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ROWS)
def test_a_round_trip_keeps_every_field(tmp_path, name, suffix):
    given = row_of(name, suffix)
    (tmp_path / "there").mkdir()
    path, copy = tmp_path / "x.jsonl", tmp_path / "there" / f"x.{suffix}"
    path.write_text(json.dumps(given), encoding="utf-8")
    (first,) = read_rows(path)
    assert to_row(first) == given
    write_rows(copy, [first])
    (second,) = read_rows(copy)
    assert second == first
    assert without_none(to_row(second)) == without_none(given)
    if suffix != "parquet":
        assert to_row(second) == given


@pytest.mark.parametrize("name", ROWS)
def test_unknown_fields_are_at_hand(tmp_path, name):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row_of(name, "jsonl")), encoding="utf-8")
    (row,) = read_rows(path)
    for fields in (row.extra, row.rubric.extra):
        assert {key: fields[key] for key in STRANGE} == STRANGE


def test_nulls_and_unknown_fields_of_criteria_come_back(tmp_path):
    given = {
        "question": "Q?",
        "id": 1,
        "note": None,
        "rubrics": [{"criterion": "Right.", "points": 5, "tags": None, "author": {"name": "x"}}],
    }
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(given), encoding="utf-8")
    rows = read_rows(path)
    write_rows(tmp_path / "y.jsonl", rows)
    assert json.loads((tmp_path / "y.jsonl").read_text(encoding="utf-8")) == given


def test_the_copy_is_ones_own(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(ROWS["plain"]), encoding="utf-8")
    (row,) = read_rows(path)
    to_row(row)["rubric"].clear()
    assert to_row(row) == ROWS["plain"]


def test_rows_made_here_are_written_in_the_plain_format(tmp_path):
    rubric = Rubric(
        (
            Criterion("short", "At most 5 words.", 2, ("axis:brevity",), {"kind": "max_words", "words": 5}, required=True),
            Criterion("tone", "Kind?", -1, low=1, high=5),
        )
    )
    row = RubricRow("a", ({"role": "system", "content": "s"}, {"role": "user", "content": "u"}), rubric, "42", {"source": "me"})
    for suffix in SUFFIXES:
        path = tmp_path / f"x.{suffix}"
        write_rows(path, [row])
        (read,) = read_rows(path)
        assert (read.id, read.messages, read.rubric.criteria, read.answer, read.extra) == (
            row.id,
            row.messages,
            row.rubric.criteria,
            row.answer,
            row.extra,
        )


def test_columns_of_later_rows_are_kept_in_parquet(tmp_path):
    rows = [{**ROWS["plain"], "id": "a"}, {**ROWS["plain"], "id": "b", "answer": "3", "source": "web"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    write_rows(tmp_path / "x.parquet", read_rows(tmp_path / "x.jsonl"))
    assert read_rows(tmp_path / "x.parquet") == read_rows(tmp_path / "x.jsonl")


def test_mixed_types_do_not_fit_into_parquet(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(ROWS["ruscarl"]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"`rows` must have one type a column to be written as parquet \(.*\): write .jsonl"):
        write_rows(tmp_path / "x.parquet", read_rows(tmp_path / "x.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in .jsonl, .ndjson, .json or .parquet, got 'x.csv'"):
        write_rows(tmp_path / "x.csv", [RubricRow("a", (), Rubric((Criterion("a", "b"),)))])
    with pytest.raises(ValueError, match="`rows` must hold at least one row, got none"):
        write_rows(tmp_path / "x.jsonl", [])
    assert not list(tmp_path.iterdir())
