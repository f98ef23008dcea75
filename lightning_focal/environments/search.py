"""A search over a folder of texts, whose answers must cite what was found."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_focal.environments.base import Environment, Episode, Task

if TYPE_CHECKING:
    from lightning_focal.types import Message

__all__ = ["LocalSearch"]

_WORD, _CITED = re.compile(r"\w+"), re.compile(r"\[([\w-]+)\]")
_FOUND = re.compile(r'"id": "([\w-]+)"')
_K, _B = 1.2, 0.75


class _Cited(Episode):
    def scores(self, messages: Sequence[Message]) -> Mapping[str, float | None]:
        found = set[str]()
        for message in messages:
            if message["role"] == "tool":
                found |= set(_FOUND.findall(message["content"]))
        last = messages[-1]
        cited = set(_CITED.findall(last["content"])) if last["role"] == "assistant" else set[str]()
        return {"cited": len(cited & found) / len(cited) if cited else 0.0, "searched": float(bool(found))}


class LocalSearch(Environment):
    """Questions about a folder of texts, with a tool that searches it (BM25) and answers that cite ``[name]`` of a text.

    Scores: ``cited``, the share of the answer's citations that the search has found, 0 without any (like the citation rubrics of DR Tulu,
    arXiv:2511.19399); ``searched``, something was found.

    Args:
        folder: of ``*.txt``; a text is cited by its file's name without ending.
        most: texts that a search gives.
        **limits: of :class:`Environment`.

    Raises:
        ValueError: for a folder without texts.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "tea.txt").write_text("Green tea steeps three minutes.")
    ...     found = LocalSearch(folder).search("tea")
    >>> found
    [{'id': 'tea', 'text': 'Green tea steeps three minutes.'}]
    """

    score_names = ("cited", "searched")

    def __init__(self, folder: str, most: int = 2, **limits: Any) -> None:
        super().__init__(**limits)
        self.most, self.texts = most, {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("*.txt"))}
        if not self.texts:
            raise ValueError(f"`model.environment.folder` must hold texts (*.txt), got {folder!r}")
        self._counts = {name: Counter(_WORD.findall(text.lower())) for name, text in self.texts.items()}
        self.tools = (self.search,)

    def search(self, query: str) -> list[dict[str, str]]:
        """Search the texts by words.

        Args:
            query: the words to look for.
        """
        number, mean = len(self._counts), sum(c.total() for c in self._counts.values()) / len(self._counts)
        scores = dict[str, float]()
        for name, counts in self._counts.items():
            for word in set(_WORD.findall(query.lower())) & counts.keys():
                holding = sum(word in other for other in self._counts.values())
                rarity = math.log(1 + (number - holding + 0.5) / (holding + 0.5))
                often = counts[word] * (_K + 1) / (counts[word] + _K * (1 - _B + _B * counts.total() / mean))
                scores[name] = scores.get(name, 0.0) + rarity * often
        best = sorted(scores, key=lambda name: (-scores[name], name))[: self.most]
        return [{"id": name, "text": self.texts[name].strip()} for name in best]

    def reset(self, task: Task) -> Episode:
        """See :class:`Environment`."""
        return _Cited()
