"""Files of rubrics: suffixes, recognition, ids, and every malformed file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import re
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lightning_focal.judges import RuleJudge
from lightning_focal.rubrics import FORMATS, RubricError, read_rows, read_rubrics, write_rows

GOOD = {"prompt": "Say hi.", "rubric": [{"name": "short", "description": "Short.", "check": {"kind": "max_words", "words": 5}}]}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def parquet(table):
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


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


def test_ids_are_the_rows_own_or_file_and_line_and_where_names_the_criterion(tmp_path):
    path = write(tmp_path / "train.jsonl", GOOD, "", {**GOOD, "id": 7}, GOOD)
    assert [row.id for row in read_rows(path)] == ["train:1", "7", "train:4"]
    assert read_rows(path)[1].rubric.criteria[0].where == f"{path}:3: rubric[0]"
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


SAME_ID = "\n".join(json.dumps(row) for row in ({**GOOD, "id": "a"}, GOOD, {**GOOD, "id": "a"}))
TWICE = pyarrow.array([[("Right.", 2.0), ("Right.", 1.0)]], pyarrow.map_(pyarrow.string(), pyarrow.float64()))


@pytest.mark.parametrize(("name", "text", "message"), [
    ("x.xlsx", "a,b",
     "`path` must be a file that ends in .jsonl, .ndjson, .json, .csv, .parquet, each with .gz or without, got 'x.xlsx'"),
    ("x.csv", "a,b", "at least one row"),
    ("x.csv", "prompt,rubric\na", "x.csv:2: the row must be a cell for each of the columns prompt, rubric, got ['a', None]"),
    ("x.jsonl.gz", "no", "`file` must be packed by gzip (Not a gzipped file"),
    ("x.jsonl", "", "`file` must be at least one row, got '0 bytes without a row'"),
    ("x.jsonl", "\n ", "at least one row"),
    ("x.json", "\n ", "at least one row"),
    ("x.json", "[]", "at least one row"),
    ("x.jsonl", "not json", "x.jsonl:1: the row must be JSON"),
    ("x.jsonl", f'{json.dumps(GOOD)}\n{{"prompt": ',
     "x.jsonl:2: the row must be JSON (Expecting value at column 12), got '{\"prompt\": '"),
    ("x.json", "[\n{]", "x.json:2: `file` must be JSON (Expecting property name enclosed in double quotes at column 2), got '{]'"),
    ("x.json", "3", "`file` must be a JSON list of rows, got 3"),
    ("x.json", '{"train": [], "test": []}', "`file` must be one list of rows, not train and test: a file a split, got ['test', 'train']"),
    ("x.jsonl", b'{"prompt": "caf\xe9"}', "`file` must be UTF-8 text, got 'byte 0xe9 at offset 15'"),
    ("x.parquet", "PAR? no", "`file` must be parquet ("),
    ("x.jsonl", "[1]", "must be a mapping in a known format"),
    ("x.jsonl", f"{json.dumps(GOOD)}\n{'[' * 100000}", "x.jsonl:2: the row must be JSON that can be read (maximum recursion depth"),
    ("x.jsonl", f"{json.dumps(GOOD)}\n{'9' * 5000}", "x.jsonl:2: the row must be JSON that can be read (Exceeds the limit"),
    ("x.jsonl", f"{json.dumps(GOOD)}\n3", "x.jsonl:2: the row must be a mapping, got 3"),
    ("x.jsonl", f'{json.dumps(GOOD)}\n{{"prompt": "a", "rubrics": []}}', "x.jsonl:2: `rubrics` must be a non-empty list of criteria, got []"),
    ("x.jsonl", SAME_ID, "x.jsonl:3: `id` must be unique in the file (first at /"),
    ("x.jsonl", SAME_ID, "x.jsonl:1), got 'a'"),
    ("x.parquet", parquet(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())})), "at least one row"),
    ("x.parquet", parquet(pyarrow.table({"prompt": ["Q?"], "rubric": TWICE})), "`file` must be parquet ("),
])  # fmt: skip
def test_malformed_files(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in error_of(tmp_path / name)


def test_a_json_file_of_one_row(tmp_path):
    row = {**GOOD, "examples": [{"a": 1}], "items": []}
    assert read_rows(write(tmp_path / "x.json", row))[0].extra == {"examples": [{"a": 1}], "items": []}


@pytest.mark.parametrize(("row", "nearest", "lacks"), [
    ({"text": "a", "label": 1}, "plain", "prompt or messages and rubric or rubrics"),
    ({"prompt_id": "p", "prompt": "q"}, "healthbench", "rubrics"),
    ({"messages": "q", "response": "a"}, "plain", "rubric or rubrics"),
    ({"id": "r", "requirements": "a", "weight": 1, "sub_tasks": []}, "paperbench", "prompt or messages"),
    ({"score_rubric": {"criteria": "a", "score1_description": "b"}}, "biggen", "input"),
    ({"index": 1, "checklist": [{"criteria_description": "a", "1-2": "b", "3-4": "c"}]}, "writingbench", "query"),
])  # fmt: skip
def test_an_unknown_format_names_the_nearest_one_and_what_it_lacks(tmp_path, row, nearest, lacks):
    found = error_of(write(tmp_path / "x.jsonl", row))
    assert f"x.jsonl:1: the row must be in a known format: nearest is {nearest} ({FORMATS[nearest].fields}), and" in found
    assert f"the row lacks {lacks}, got 'fields {', '.join(row)}'" in found


@pytest.mark.parametrize(("name", "content"), [
    ("x.jsonl.gz", lambda rows, lines: gzip.compress(lines.encode())),
    ("x.json.gz", lambda rows, lines: gzip.compress(json.dumps(rows).encode())),
    ("x.jsonl", lambda rows, lines: lines.encode("utf-16")),
    ("x.jsonl", lambda rows, lines: b"\xfe\xff" + lines.encode("utf-16-be")),
    ("x.jsonl", lambda rows, lines: json.dumps(rows).encode()),
    ("x.json", lambda rows, lines: lines.encode()),
    ("x.jsonl", lambda rows, lines: lines.encode("utf-16-be")),
    ("x.csv", lambda rows, lines: csv_of(rows).encode("utf-16-le")),
    ("x.json", lambda rows, lines: json.dumps({"version": 1, "data": rows}).encode()),
    ("x.json", lambda rows, lines: json.dumps({"data": {row["id"]: row for row in rows}}).encode()),
    ("x.json", lambda rows, lines: json.dumps({"rows": [{"row_idx": i, "row": row} for i, row in enumerate(rows)]}).encode()),
    ("x.json", lambda rows, lines: json.dumps({k: {str(i): row[k] for i, row in enumerate(rows)} for k in rows[0]}).encode()),
    ("x.json", lambda rows, lines: json.dumps({row["id"]: {k: v for k, v in row.items() if k != "id"} for row in rows}).encode()),
    ("x.csv", lambda rows, lines: csv_of(rows).encode("utf-8-sig")),
    ("x.csv.gz", lambda rows, lines: gzip.compress(csv_of(rows).encode())),
])  # fmt: skip
def test_the_files_people_have(tmp_path, name, content):
    rows = [{"id": "a", "prompt": "caf\u00e9?\nNow.", "rubric": GOOD["rubric"]}, {"id": "b", **GOOD}]
    plain = read_rows(write(tmp_path / "plain.jsonl", *rows))
    (tmp_path / name).write_bytes(content(rows, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)))
    assert read_rows(tmp_path / name) == plain


def csv_of(rows):
    out = io.StringIO()
    table = csv.DictWriter(out, ["id", "prompt", "rubric", "answer"])
    table.writeheader()
    table.writerows({**row, "rubric": json.dumps(row["rubric"])} for row in rows)
    return out.getvalue()


def test_arrow_maps_decimals_and_float_ids(tmp_path):
    points, check = pyarrow.array([[Decimal("2.50")]], pyarrow.list_(pyarrow.decimal128(5, 2))), [("kind", "no_commas")]
    entry = pyarrow.StructArray.from_arrays(
        [pyarrow.array(["a"]), points.flatten(), pyarrow.array([check], pyarrow.map_(pyarrow.string(), pyarrow.string()))],
        ["name", "points", "check"],
    )
    rubric = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1]), entry)
    table = pyarrow.table({"id": pyarrow.array([7.0]), "prompt": pyarrow.array(["q"]), "rubric": rubric})
    (tmp_path / "x.parquet").write_bytes(parquet(table))
    (row,) = read_rows(tmp_path / "x.parquet")
    assert (row.id, row.rubric.criteria[0].points, row.rubric.criteria[0].check) == ("7", 2.5, {"kind": "no_commas"})
    write_rows(tmp_path / "y.jsonl", [row])
    assert read_rows(tmp_path / "y.jsonl") == [row]


def test_skip_counts_and_logs_the_first_reason(tmp_path, caplog):
    bad = {"prompt": "", "rubric": GOOD["rubric"]}
    path = write(tmp_path / "x.jsonl", {**GOOD, "id": "a"}, bad, "{", {**GOOD, "id": "a"}, {**GOOD, "id": "b"}, "3")
    with caplog.at_level(logging.WARNING, logger="lightning_focal"):
        rows = read_rows(path, on_bad_row="skip")
    assert [row.id for row in rows] == ["a", "b"]
    assert len(caplog.records) == 1
    assert "skipped 4 of 6 rows; the first: " in caplog.text
    assert "x.jsonl:2: `prompt` must be a non-empty string or list of {role, content}, got '' (all: 2, 3, 4, 6)" in caplog.text


def test_a_row_that_a_check_refuses_is_bad_and_a_missing_package_is_not_the_rows_fault(tmp_path, caplog):
    def refuse(criterion):
        if criterion.name == "short":
            raise ValueError("too short")

    path = write(tmp_path / "x.jsonl", GOOD, {"prompt": "a", "rubric": [{"name": "b", "check": "no_commas"}]}, GOOD)
    with caplog.at_level(logging.WARNING, logger="lightning_focal"):
        assert [row.id for row in read_rows(path, on_bad_row="skip", check=refuse)] == ["x:2"]
    assert "skipped 2 of 3 rows; the first: " in caplog.text
    assert "x.jsonl:1: rubric[0]: `check` must be one that can be made (too short), got {" in caplog.text
    assert "(all: 1, 3)" in caplog.text

    def lacking(criterion):
        raise ValueError("needs a package") from ImportError("no module")

    with pytest.raises(ValueError, match=r"^needs a package$"):
        read_rows(path, on_bad_row="skip", check=lacking)


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


def test_the_example_row_of_the_page_reads_and_can_be_judged(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "rubrics.md").read_text(encoding="utf-8")
    example = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    (row,) = read_rows(write(tmp_path / "tea.jsonl", example))
    assert row.rubric.names == ("short", "right", "shouting", "kind")
    assert row.rubric.criteria[1].check == {"kind": "answer", "expected": "3"}
    for criterion in row.rubric.criteria[:3]:
        RuleJudge().validate(criterion)
