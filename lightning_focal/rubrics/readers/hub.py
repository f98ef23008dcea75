"""From a data set of the ``datasets`` library to raw rows: a hub id, a saved folder, a folder of data files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_focal.rubrics.errors import RubricError

__all__ = ["DatasetSource"]

_SOURCE = re.compile(r"(?:(?P<hub>hf:))?(?P<name>.+?)(?::(?P<config>[^:@/\\]+))?(?:@(?P<split>[^@/]+))?")
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
        try:
            loaded = datasets.load_from_disk(self.name) if saved else load(self.name, self.config, split=self.split)
        except Exception as error:  # the library raises many kinds, of its own and of others
            shown = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise RubricError(self.text, "path", "a data set that can be loaded (a hub id or a folder)", shown) from error
        if isinstance(loaded, datasets.DatasetDict):
            split = self.split or (next(iter(loaded)) if len(loaded) == 1 else None)
            if split not in loaded:
                raise RubricError(self.text, "path", f"followed by @ and one of the splits {', '.join(loaded)}", self.split)
            return loaded[split]
        if saved and self.split is not None:
            raise RubricError(self.text, "path", "without a split, as the folder holds one data set alone", self.split)
        return loaded
