import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_focal.files import write_json, write_parquet, write_text


def test_a_file_that_is_there_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    write_text(path, "two")
    assert path.read_text() == "two"


def test_json_knows_no_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": [float("nan"), 0.5, (float("inf"), {"é": 1})], "y": "NaN"})
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == {
        "x": [None, 0.5, [None, {"é": 1}]],
        "y": "NaN",
    }


def test_parquet_with_and_without_a_schema(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{"x": 1, "y": None}])
    assert pq.read_table(tmp_path / "a.parquet").schema.field("y").type == pa.null()
    write_parquet(tmp_path / "b.parquet", [{"x": 1, "y": None}], pa.schema({"x": pa.int64(), "y": pa.float64()}))
    assert pq.read_table(tmp_path / "b.parquet").schema.field("y").type == pa.float64()
    assert pq.read_table(tmp_path / "b.parquet").to_pylist() == [{"x": 1, "y": None}]
