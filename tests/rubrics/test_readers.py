"""Files of rubrics: suffixes, recognition, ids, and every malformed file."""

from __future__ import annotations

import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from lightning_focal.rubrics import RubricError, read_rows, read_rubrics

GOOD = {"prompt": "Say hi.", "rubric": [{"name": "short", "description": "Short.", "check": {"kind": "max_words", "words": 5}}]}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def error_of(path, **kwargs):
    with pytest.raises(RubricError) as caught:
        read_rows(path, **kwargs)
    return str(caught.value)


def test_json_lines_json_and_parquet_agree(tmp_path):
    rows = [{**GOOD, "id": "a", "answer": "1"}, {**GOOD, "id": "b", "source": "web"}]
    lines = read_rows(write(tmp_path / "x.jsonl", *rows))
    listed = read_rows(write(tmp_path / "x.json", rows))
    table = pyarrow.Table.from_pylist([{**rows[0], "source": None}, {**rows[1], "answer": None}])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert lines == listed == read_rows(tmp_path / "x.parquet")
    assert [row.answer for row in lines] == ["1", None]
    assert lines[1].extra == {"source": "web"}
    assert lines[1].rubric.extra == {"source": "web"}


def test_parquet_nulls_in_checks_count_as_absent(tmp_path):
    rows = [
        {"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "max_words", "words": 5}}]},
        {"prompt": "b", "rubric": [{"name": "y", "points": 2.0, "check": {"kind": "no_commas"}}]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    first, second = read_rows(tmp_path / "x.parquet")
    assert first.rubric.criteria[0].points == 1.0
    assert second.rubric.criteria[0].check == {"kind": "no_commas"}


def test_ids_are_the_rows_own_or_file_and_line(tmp_path):
    path = write(tmp_path / "train.jsonl", GOOD, "", {**GOOD, "id": 7}, GOOD)
    assert [row.id for row in read_rows(path)] == ["train:1", "7", "train:4"]


def test_where_names_file_line_and_criterion(tmp_path):
    path = write(tmp_path / "train.jsonl", "", GOOD)
    assert read_rows(path)[0].rubric.criteria[0].where == f"{path}:2: rubric[0]"
    assert read_rubrics(str(path)) == [(row.messages, row.rubric) for row in read_rows(path)]


def test_other_line_separators_within_strings_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\ufeff" + json.dumps({**GOOD, "prompt": "a\u2028b\x85c"}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert read_rows(path)[0].messages[0]["content"] == "a\u2028b\x85c"


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must be an existing rubric file, got '.*nowhere.jsonl'"):
        read_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match="must be an existing rubric file"):
        read_rows(tmp_path / "nowhere@train")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "a,b", "`path` must be a file that ends in .jsonl, .ndjson, .json, .parquet, got 'x.csv'"),
        ("x.jsonl", "", "`file` must be at least one row, got '0 bytes without a row'"),
        ("x.jsonl", "\n ", "at least one row"),
        ("x.json", "\n ", "at least one row"),
        ("x.json", "[]", "at least one row"),
        ("x.jsonl", "not json", "x.jsonl:1: the row must be JSON"),
        ("x.jsonl", f'{json.dumps(GOOD)}\n{{"prompt": ', "x.jsonl:2: the row must be JSON (Expecting value at column 12), got '{\"prompt\": '"),
        ("x.json", "[\n{]", "x.json:2: `file` must be JSON (Expecting property name enclosed in double quotes at column 2), got '{]'"),
        ("x.json", '{"a": 1}', "`file` must be a JSON list of rows, got {'a': 1}"),
        ("x.jsonl", b'{"prompt": "caf\xe9"}', "`file` must be UTF-8 text, got 'byte 0xe9 at offset 15'"),
        ("x.parquet", "PAR? no", "`file` must be parquet ("),
        ("x.jsonl", "[1]", "must be a mapping in a known format"),
        ("x.jsonl", f"{json.dumps(GOOD)}\n3", "x.jsonl:2: the row must be a mapping, got 3"),
    ],
)  # fmt: skip
def test_malformed_files(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in error_of(tmp_path / name)


def test_empty_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), tmp_path / "x.parquet")
    assert "at least one row" in error_of(tmp_path / "x.parquet")


def test_unknown_format_lists_fields_and_formats(tmp_path):
    message = error_of(write(tmp_path / "x.jsonl", {"text": "a", "label": 1}))
    assert "x.jsonl:1: the row must be in a known format (" in message
    assert "plain: prompt or messages, rubric (name" in message
    assert "healthbench: prompt_id, prompt, rubrics" in message
    assert "got 'fields text, label'" in message


def test_duplicate_ids(tmp_path):
    message = error_of(write(tmp_path / "x.jsonl", {**GOOD, "id": "a"}, GOOD, {**GOOD, "id": "a"}))
    assert "x.jsonl:3: `id` must be unique in the file (first at" in message
    assert "x.jsonl:1), got 'a'" in message


def test_a_later_row_is_held_to_the_format_of_the_file(tmp_path):
    message = error_of(write(tmp_path / "x.jsonl", GOOD, {"prompt": "a", "rubrics": []}))
    assert "x.jsonl:2: `rubric` must be a non-empty list of criteria, got None" in message


def test_skip_counts_and_logs_the_first_reason(tmp_path, caplog):
    bad = {"prompt": "", "rubric": GOOD["rubric"]}
    path = write(tmp_path / "x.jsonl", {**GOOD, "id": "a"}, bad, "{", {**GOOD, "id": "a"}, {**GOOD, "id": "b"}, "3")
    with caplog.at_level(logging.WARNING, logger="lightning_focal"):
        rows = read_rows(path, on_bad_row="skip")
    assert [row.id for row in rows] == ["a", "b"]
    assert len(caplog.records) == 1
    assert "skipped 4 of 6 rows; the first: " in caplog.text
    assert "x.jsonl:2: `prompt` must be a non-empty string or list of {role, content}, got ''" in caplog.text


def test_skip_that_leaves_nothing_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", {"prompt": "", "rubric": GOOD["rubric"]})
    message = error_of(path, on_bad_row="skip")
    assert "`file` must be rubrics with at least one good row (the first bad one: " in message
    assert "x.jsonl:1: `prompt` must be a non-empty string or list of {role, content}, got ''), got '1 bad rows'" in message
    # the format is that of the first good row
    assert [row.id for row in read_rows(write(tmp_path / "x.jsonl", "{", GOOD), on_bad_row="skip")] == ["x:2"]


def test_arguments_are_checked(tmp_path):
    path = write(tmp_path / "x.jsonl", GOOD)
    with pytest.raises(ValueError, match="`on_bad_row` must be 'error' or 'skip', got 'ignore'"):
        read_rows(path, on_bad_row="ignore")
    with pytest.raises(ValueError, match=r"`rubric_format` must be one of .*plain.*, got 'csv'"):
        read_rows(path, rubric_format="csv")
    assert read_rows(path, rubric_format="plain")[0].rubric.names == ("short",)
