"""Read, write, read: every field comes back, unknown ones included."""

from __future__ import annotations

import json

import pytest

from lightning_focal.rubrics import Criterion, Rubric, RubricRow, read_rows, to_row, write_rows
from lightning_focal.rubrics.readers.fields import without_none
from tests.rubrics.test_formats import ROWS, one_type, read

STRANGE = {"canary": "c-1", "nested": {"a": [{"b": "ü\u2028", "c": 2.5}], "t": True}, "n": 3}
SUFFIXES = ("jsonl", "json", "parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ROWS)
def test_a_round_trip_keeps_every_field(tmp_path, name, suffix):
    given = {**(one_type(name) if suffix == "parquet" else ROWS[name]), **STRANGE}
    copy = tmp_path / "there" / f"x.{suffix}"
    first = read(tmp_path, given)
    assert to_row(first) == given
    for fields in (first.extra, first.rubric.extra):
        assert {key: fields[key] for key in STRANGE} == STRANGE
    write_rows(copy, [first])
    (second,) = read_rows(copy)
    assert second == first
    assert without_none(to_row(second)) == without_none(given)
    if suffix != "parquet":
        assert to_row(second) == given


def test_nulls_and_unknown_fields_of_criteria_come_back_and_the_copy_is_ones_own(tmp_path):
    criterion = {"criterion": "Right.", "points": 5, "tags": None, "author": {"name": "x"}}
    given = {"question": "Q?", "id": 1, "note": None, "rubrics": [criterion]}
    row = read(tmp_path, given)
    to_row(row)["rubrics"].clear()
    write_rows(tmp_path / "y.jsonl", [row])
    assert json.loads((tmp_path / "y.jsonl").read_text(encoding="utf-8")) == given


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_made_here_are_written_in_the_plain_format(tmp_path, suffix):
    check = {"kind": "max_words", "words": 5}
    criteria = (
        Criterion("short", "At most 5 words.", 2, ("axis:brevity",), check, required=True),
        Criterion("tone", "Kind?", -1, low=1, high=5),
    )
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    row = RubricRow("a", messages, Rubric(criteria), "42", {"source": "me"})
    write_rows(tmp_path / f"x.{suffix}", [row])
    (read,) = read_rows(tmp_path / f"x.{suffix}")
    assert (read.id, read.messages, read.rubric.criteria, read.answer, read.extra) == ("a", messages, criteria, "42", row.extra)


def test_columns_of_later_rows_are_kept_in_parquet(tmp_path):
    rows = [{**ROWS["plain"], "id": "a"}, {**ROWS["plain"], "id": "b", "answer": "3", "source": "web"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    write_rows(tmp_path / "x.parquet", read_rows(tmp_path / "x.jsonl"))
    assert read_rows(tmp_path / "x.parquet") == read_rows(tmp_path / "x.jsonl")


def test_what_cannot_be_written(tmp_path):
    row = read(tmp_path, ROWS["ruscarl"])
    for name, rows, message in (
        ("x.parquet", [row], r"`rows` must have one type a column to be written as parquet \(.*\): write .jsonl"),
        ("x.csv", [row], r"`path` must end in .jsonl, .ndjson, .json or .parquet, got 'x.csv'"),
        ("y.jsonl", [], "`rows` must hold at least one row, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            write_rows(tmp_path / name, rows)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
