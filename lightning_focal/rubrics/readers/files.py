"""From a file or a data set to numbered raw rows: JSON lines, a JSON list, parquet, and what the ``datasets`` library reads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lightning_focal.rubrics.criterion import RubricError

__all__ = ["DatasetSource", "raw_rows"]

RawRow = tuple[int, str, Any]
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_SOURCE = re.compile(r"(?:(?P<hub>hf:))?(?P<name>.+?)(?::(?P<config>[^:@/\\]+))?(?:@(?P<split>[^@/]+))?")
_ANSWER_S = 10.0


def raw_rows(path: Path) -> list[RawRow]:
    """Read ``(line, where, row)`` of every row; a row that is not JSON stands there as the error itself.

    Args:
        path: a file, or a data set: see :class:`DatasetSource`.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: on an unknown suffix, or a file that is empty or cannot be parsed at all.
    """
    dataset, suffix = DatasetSource.of(path), path.suffix.lower()
    if dataset is not None:
        rows = list(_numbered(path, dataset.load()))
        if not rows:
            raise RubricError(str(path), "path", "a data set with at least one row", "an empty one")
        return rows
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must be an existing rubric file, got {str(path)!r} (looked in {Path.cwd()}); "
            "a data set of the hub is written hf:owner/name"
        )
    if suffix not in _SUFFIXES:
        raise RubricError(str(path), "path", f"a file that ends in {', '.join(_SUFFIXES)}", path.name)
    if suffix == ".parquet":
        rows = list(_numbered(path, _parquet(path)))
    elif suffix == ".json":
        rows = list(_numbered(path, _json_list(path)))
    else:
        rows = list(_json_lines(path))
    if not rows:
        raise RubricError(str(path), "file", "at least one row", f"{path.stat().st_size} bytes without a row")
    return rows


def _numbered(path: Path, rows: Iterable[Any]) -> Iterator[RawRow]:
    for number, row in enumerate(rows, start=1):
        yield number, f"{path}: row {number}", row


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        raise RubricError(str(path), "file", "UTF-8 text", found) from None


def _json_lines(path: Path) -> Iterator[RawRow]:
    # split at "\n" alone: JSON strings may hold other line separators as they are
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        where = f"{path}:{number}"
        if line.strip():
            try:
                yield number, where, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, where, RubricError(where, "", f"JSON ({error.msg} at column {error.colno})", line)


def _json_list(path: Path) -> list[Any]:
    text = _read_text(path)
    try:
        rows = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        raise RubricError(f"{path}:{error.lineno}", "file", f"JSON ({error.msg} at column {error.colno})", line) from None
    if not isinstance(rows, list):
        raise RubricError(str(path), "file", "a JSON list of rows", rows)
    return rows


def _parquet(path: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    except pyarrow.ArrowInvalid as error:
        raise RubricError(str(path), "file", f"parquet ({error})", path.read_bytes()[:8]) from None


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
        """Load the rows.

        Raises:
            RubricError: if the data set cannot be loaded, or has several splits and none was named.
        """
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
