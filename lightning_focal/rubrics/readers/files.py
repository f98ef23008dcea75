"""From a file or a data set to numbered raw rows: JSON lines, JSON, CSV, parquet, and what the ``datasets`` library reads."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from lightning_focal.rubrics.criterion import RubricError

__all__ = ["DatasetSource", "RawRow", "raw_rows", "stem_of", "warn_of_skipped"]

_log = logging.getLogger(__name__)

RawRow = tuple[int, str, Any]
"""Line, place and row; a row that is not JSON is the error itself."""
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_ROWS = (
    "data", "rows", "examples", "instances", "samples", "items", "records", "questions", "prompts", "train", "test", "validation",
)  # fmt: skip
_PARTS_OF_ROWS = frozenset(("prompt", "messages", "question", "instruction", "query", "rubric", "rubrics", "criteria"))
_SOURCE = re.compile(r"(?:(?P<hub>hf:))?(?P<name>.+?)(?::(?P<config>[^:@/\\]+))?(?:@(?P<split>[^@/]+))?")
_ANSWER_S = 10.0
_MOST_NAMED = 100
_PLACE = re.compile(r".*?\d+(?=: |$)")


def stem_of(path: Path) -> str:
    """Return the name of a file without its endings, which may be two: ``train`` of ``train.jsonl.gz``."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def warn_of_skipped(path: str | Path, bad: Sequence[RubricError], total: int) -> None:
    """Say how many rows of a file were left out as bad, why the first was, and which they are."""
    places = (error.where.removeprefix(f"{path}:").lstrip() for error in bad[:_MOST_NAMED])
    which = ", ".join(found[0] if (found := _PLACE.match(place)) else place for place in places)
    more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    _log.warning("%s: skipped %d of %d rows; the first: %s (all: %s%s)", path, len(bad), total, bad[0], which, more)


def raw_rows(path: Path) -> list[RawRow]:
    """Read every row.

    A file may be packed as ``.gz``, or be a data set (:class:`DatasetSource`). A JSON file holds a list of rows, such a list under ``data``
    or a like name, rows by their ids, one row, or a row a line.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: on an unknown suffix, or a file that is empty or cannot be parsed at all.
    """
    dataset = DatasetSource.of(path)
    if dataset is not None:
        rows = list(_numbered(path, map(_of_json, dataset.load())))
        if not rows:
            raise RubricError(str(path), "path", "a data set with at least one row", "an empty one")
        return rows
    if not path.is_file():
        looked = f"(looked in {Path.cwd()}); a data set of the hub is written hf:owner/name"
        raise FileNotFoundError(f"`path` must be an existing rubric file, got {str(path)!r} {looked}")
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise RubricError(str(path), "path", f"a file that ends in {', '.join(_SUFFIXES)}, each with .gz or without", path.name)
    data = path.read_bytes()
    if packed:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise RubricError(str(path), "file", f"packed by gzip ({error})", data[:8]) from None
    if suffix == ".parquet":
        rows = list(_numbered(path, map(_of_json, _parquet(path, data))))
    else:
        text = _text(path, data)
        if suffix == ".csv":
            rows = _csv(path, text)
        elif suffix == ".json" or text.lstrip()[:1] == "[":
            rows = list(_json(path, text))
        else:
            rows = list(_json_lines(path, text))
    if not rows:
        raise RubricError(str(path), "file", "at least one row", f"{path.stat().st_size} bytes without a row")
    return rows


def _numbered(path: Path, rows: Iterable[Any]) -> Iterator[RawRow]:
    for number, row in enumerate(rows, start=1):
        yield number, f"{path}: row {number}", row


def _text(path: Path, data: bytes) -> str:
    encoding = json.detect_encoding(data)  # by the mark in front, or by where zeros stand among the first bytes
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        expected = f"{encoding.removesuffix('-sig').upper()} text"
        raise RubricError(str(path), "file", expected, f"byte {data[error.start]:#04x} at offset {error.start}") from None


def _unreadable(error: Exception, where: str, field: str, line: str) -> RubricError:
    if isinstance(error, json.JSONDecodeError):
        return RubricError(where, field, f"JSON ({error.msg} at column {error.colno})", line)
    why = str(error).partition(";")[0]  # numbers of 4300 digits, say
    return RubricError(where, field, f"JSON that can be read ({why})", line)


def _json_lines(path: Path, text: str) -> Iterator[RawRow]:
    # split at "\n" alone: JSON strings may hold other line separators as they are
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}:{number}"
        if line.strip():
            try:
                yield number, where, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, where, _unreadable(error, where, "", line)


def _json(path: Path, text: str) -> Iterable[RawRow]:
    try:
        rows = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        number = getattr(error, "lineno", 1)
        if number > 1 and getattr(error, "msg", "") == "Extra data":
            return _json_lines(path, text)
        raise _unreadable(error, f"{path}:{number}", "file", text.split("\n")[number - 1]) from None
    return _numbered(path, _rows_of(rows, path))


def _rows_of(value: Any, path: Path) -> list[Any]:
    """Return the rows of a JSON value: a list, one under a known name, rows by their ids, columns by row number, or one row."""
    if isinstance(value, list):
        return [row["row"] if isinstance(row, dict) and {"row", "row_idx"} <= row.keys() else row for row in value]
    if not isinstance(value, dict):
        raise RubricError(str(path), "file", "a JSON list of rows", value)
    wrapped = [] if _PARTS_OF_ROWS & value.keys() else [k for k in value if k in _ROWS and isinstance(value[k], (list, dict))]
    if len(wrapped) > 1:
        raise RubricError(str(path), "file", f"one list of rows, not {' and '.join(wrapped)}: a file a split", sorted(value))
    if wrapped:
        return _rows_of(value[wrapped[0]], path)
    if not value or not all(isinstance(row, dict) for row in value.values()):
        return [value] if value else []
    numbers = next(iter(value.values())).keys()
    if _PARTS_OF_ROWS & value.keys() and all(map(str.isdecimal, numbers)):
        return [{name: column.get(number) for name, column in value.items()} for number in numbers]
    return [{"id": key, **row} for key, row in value.items()]


def _csv(path: Path, text: str) -> list[RawRow]:
    """Read rows by the names of the first line; an empty cell is an absent field."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[RawRow] = []
    try:
        for row in reader:
            number, cells = reader.line_num, {key: value or None for key, value in row.items()}
            where = f"{path}:{number}"
            wrong = None in row or None in row.values()
            columns = f"a cell for each of the columns {', '.join(reader.fieldnames or ())}"
            rows.append((number, where, RubricError(where, "", columns, list(row.values())) if wrong else cells))
    except csv.Error as error:
        raise RubricError(f"{path}:{reader.line_num}", "file", f"CSV ({error})", text[:100]) from None
    return rows


def _parquet(path: Path, data: bytes) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist(maps_as_pydicts="strict")  # type: ignore[no-any-return]
    except (pyarrow.ArrowInvalid, KeyError) as error:
        raise RubricError(str(path), "file", f"parquet ({error})", data[:8]) from None


def _of_json(value: Any) -> Any:
    """Turn decimal numbers and times, which JSON does not know, into numbers and text, at every depth."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return str(value)
    if isinstance(value, dict):
        return {key: _of_json(its) for key, its in value.items()}
    return [_of_json(its) for its in value] if isinstance(value, list) else value


class DatasetSource(NamedTuple):
    """A data set of the ``datasets`` library and the part of it that is read.

    Args:
        text: how it was asked for, for messages.
        name: hub id ``owner/name``, or a folder.
        config: name of the data set's configuration, or None.
        split: ``train``, or of what is not saved also ``train[:100]``; None where there is but one.
    """

    text: str
    name: str
    config: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, source: str | Path) -> DatasetSource | None:
        """Read ``hf:owner/name[:config][@split]`` or ``folder[@split]``; None where ``source`` is neither.

        >>> DatasetSource.of("hf:owner/rubrics:medicine@test")
        DatasetSource(text='hf:owner/rubrics:medicine@test', name='owner/rubrics', config='medicine', split='test')
        >>> DatasetSource.of("train.jsonl") is None
        True
        """
        text = os.fspath(source)
        if Path(text).is_dir():
            return cls(text, text)
        found = _SOURCE.fullmatch(text)
        if found is None or not (found["hub"] or (found["split"] and not found["config"] and Path(found["name"]).is_dir())):
            return None
        return cls(text, found["name"], found["config"], found["split"])

    def load(self) -> Iterable[Any]:
        """Load the rows; ``RubricError`` if that fails, or there are several splits and none was named."""
        import datasets

        folder, offline = Path(self.name), datasets.config.HF_HUB_OFFLINE
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
        unreachable = "" if folder.is_dir() or offline else _unreachable(self.name)
        datasets.config.HF_HUB_OFFLINE = offline or bool(unreachable)  # a copy in the cache still serves
        try:
            load = datasets.load_dataset
            loaded = datasets.load_from_disk(self.name) if saved else load(self.name, self.config, split=self.split)
        except Exception as error:  # the library raises many kinds, of its own and of others
            shown = _shown(error, 300)
            if unreachable:
                shown = f"no answer from the hub ({unreachable}), and no copy of it in the cache"
            raise RubricError(self.text, "path", "a data set that can be loaded (a hub id or a folder)", shown) from error
        finally:
            datasets.config.HF_HUB_OFFLINE = offline
        if isinstance(loaded, datasets.DatasetDict):
            split = self.split or (next(iter(loaded)) if len(loaded) == 1 else None)
            if split not in loaded:
                raise RubricError(self.text, "path", f"followed by @ and one of the splits {', '.join(loaded)}", self.split)
            return loaded[split]  # type: ignore[no-any-return]
        if saved and self.split is not None:
            raise RubricError(self.text, "path", "without a split, as the folder holds one data set alone", self.split)
        return loaded  # type: ignore[no-any-return]


def _shown(error: Exception, characters: int) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:characters]}"


def _unreachable(name: str) -> str:
    """Say why the hub gives no answer at all; empty where it gives one.

    One question with a short limit: the library itself would repeat its own for half a minute and more.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().dataset_info(name, timeout=_ANSWER_S)
    except (HfHubHTTPError, HFValidationError):  # it is there; what it says against the name, loading says better
        return ""
    except Exception as error:  # of the HTTP library, which differs between versions
        return _shown(error, 120)
    return ""
