"""From a data set of the ``datasets`` library to raw rows: a hub id, a saved folder, a folder of data files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_focal.rubrics.errors import RubricError

__all__ = ["DatasetSource"]

_SOURCE = re.compile(r"(?:(?P<hub>hf:))?(?P<name>.+?)(?::(?P<config>[^:@/\\]+))?(?:@(?P<split>[^@/]+))?")
_ANSWER_S = 10.0
_SAVED = ("dataset_dict.json", "dataset_info.json")


@dataclass(frozen=True)
class DatasetSource:
    """A data set and the part of it that is read.

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

    @property
    def stem(self) -> str:
        """Last part of the name: rows without an id are called ``<stem>:<number>``."""
        return Path(self.name).name

    def rows(self) -> Iterator[tuple[int, str, Any]]:
        """Yield ``(number, where, row)``, counted from 1.

        Raises:
            RubricError: if the data set cannot be loaded, or has several splits and none was named.
        """
        for number, row in enumerate(self._load(), start=1):
            yield number, f"{self.text}: row {number}", row

    def _load(self) -> Any:
        import datasets

        saved, load = any((Path(self.name) / name).is_file() for name in _SAVED), datasets.load_dataset
        unreachable = "" if Path(self.name).is_dir() or datasets.config.HF_HUB_OFFLINE else _unreachable(self.name)
        try:
            with _offline(bool(unreachable)):  # a copy in the cache still serves
                loaded = datasets.load_from_disk(self.name) if saved else load(self.name, self.config, split=self.split)
        except Exception as error:  # the library raises many kinds, of its own and of others
            shown = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if unreachable:
                shown = f"no answer from the hub ({unreachable}), and no copy of it in the cache"
            raise RubricError(self.text, "path", "a data set that can be loaded (a hub id or a folder)", shown) from error
        if isinstance(loaded, datasets.DatasetDict):
            split = self.split or (next(iter(loaded)) if len(loaded) == 1 else None)
            if split not in loaded:
                raise RubricError(self.text, "path", f"followed by @ and one of the splits {', '.join(loaded)}", self.split)
            return loaded[split]
        if saved and self.split is not None:
            raise RubricError(self.text, "path", "without a split, as the folder holds one data set alone", self.split)
        return loaded


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
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return ""


@contextlib.contextmanager
def _offline(on: bool) -> Iterator[None]:
    import datasets

    kept = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = kept or on
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = kept
