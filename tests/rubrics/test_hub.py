"""Rubrics out of data sets of the ``datasets`` library, without a network."""

from __future__ import annotations

import json
import socket
import time

import pytest

from lightning_focal.rubrics import RubricError, read_all, read_rows
from lightning_focal.rubrics.readers.files import DatasetSource
from tests.rubrics.test_formats import ROWS, one_type, read

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.parametrize("name", ROWS)
def test_every_format_from_a_saved_data_set(tmp_path, name):
    row = one_type(name)
    datasets.Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    (found,) = read_rows(tmp_path / "saved")
    expected = read(tmp_path, row)
    assert (found.rubric, found.messages, found.answer) == (expected.rubric, expected.messages, expected.answer)
    assert found.format == name
    with pytest.raises(RubricError, match="`path` must be without a split, as the folder holds one data set alone, got 'train'"):
        read_rows(f"{tmp_path}/saved@train")


def test_splits_of_a_saved_data_set(tmp_path):
    from lightning_focal.data import RubricDataModule

    parts = {split: datasets.Dataset.from_list([{**ROWS["plain"], "id": split}]) for split in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert [row.id for row in read_rows(f"{tmp_path}/saved@test")] == ["test"]
    with pytest.raises(RubricError, match="`path` must be followed by @ and one of the splits train, test, got None"):
        read_rows(tmp_path / "saved")
    with pytest.raises(RubricError, match="one of the splits train, test, got 'dev'"):
        read_rows(f"{tmp_path}/saved@dev")
    module = RubricDataModule(train=f"{tmp_path}/saved@train", val=f"hf:{tmp_path}/saved@test", batch_size=1)
    module.setup("fit")
    assert [[row.id for row in module.rows[split]] for split in ("train", "val")] == [["train"], ["test"]]
    datasets.DatasetDict({"dev": datasets.Dataset.from_list([ROWS["plain"]])}).save_to_disk(tmp_path / "one")
    assert [row.id for row in read_rows(tmp_path / "one")] == ["one:1"]


def test_a_folder_of_data_files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{**ROWS["healthbench"], "prompt_id": f"{split}-{i}"} for i in range(3)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [row.id for row in read_rows(f"{folder}@test")] == ["test-0", "test-1", "test-2"]
    assert [row.id for row in read_rows(f"hf:{folder}@train[:2]")] == ["train-0", "train-1"]


def test_a_bad_row_says_where_it_stands(tmp_path):
    rows = [{"prompt": prompt, "rubric": [{"name": "x", "points": points}]} for prompt, points in (("a", 0.0), ("b", 1.0))]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    found = read_all(tmp_path / "saved")
    assert len(found.rows) == 0
    assert str(found.problems[0]).startswith(f"{tmp_path}/saved: row 1: `rubric[0].description` must be a non-empty string")


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(RubricError, match=r"hf:nobody/nothing: `path` must be a data set that can be loaded .*, got "):
        read_rows("hf:nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RubricError, match="`path` must be a data set that can be loaded"):
        read_rows(tmp_path / "empty")
    datasets.Dataset.from_dict({"prompt": []}).save_to_disk(tmp_path / "saved")
    with pytest.raises(RubricError, match="`path` must be a data set"):
        read_rows(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"got 'owner/name' .*; a data set of the hub is written hf:owner/name"):
        read_rows("owner/name")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    import huggingface_hub.constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
    began = time.monotonic()
    with pytest.raises(RubricError, match=r"got 'no answer from the hub \(.*\), and no copy of it in the cache'"):
        read_rows("hf:nobody/nothing")
    assert time.monotonic() - began < 10  # the library alone goes on for 25 s
    assert datasets.config.HF_HUB_OFFLINE is False


def test_sources():
    for text, expected in {
        "hf:owner/name": ("owner/name", None, None), "hf:owner/name:medicine": ("owner/name", "medicine", None),
        "hf:owner/name@test[:10]": ("owner/name", None, "test[:10]"), "hf:name:a@b": ("name", "a", "b"),
        "train.jsonl": None, "no/such/folder@train": None, "hf:": None,
    }.items():  # fmt: skip
        assert DatasetSource.of(text) == (None if expected is None else (text, *expected)), text
