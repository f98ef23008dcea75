"""Names too many to follow one by one: criteria written for one prompt are logged together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lightning_focal.keys import level_key, log_key
from lightning_focal.rubrics.criterion import Criterion
from lightning_focal.rubrics.readers.base import RubricRow

__all__ = ["few_of", "pool_untagged"]

_log = logging.getLogger(__name__)
_ENDING = "-untagged"


def few_of(names: Sequence[str], rows: int, most: int = 32) -> list[str]:
    """Return the names that can be followed one by one: all up to ``most``, else as many that at least a tenth of the rows hold.

    >>> few_of(["short", "polite"], 2), few_of(["short", "short", *map(str, range(40))], 5)
    (['short', 'polite'], ['short'])
    """
    counts = Counter(names)
    if len(counts) <= most:
        return list(counts)
    return [name for name, count in counts.most_common(most) if count > 1 and count * 10 >= rows]


def pool_untagged(rows: Sequence[RubricRow]) -> list[RubricRow]:
    """Tag criteria without an axis for the pool they are logged under, where their names are too many; a warning says so once.

    The pool of a name is ``<source>-untagged``: ``data_source`` of the first row that holds it, else the format. The tag is
    ``pool:<pool>``, see :func:`~lightning_focal.types.log_key`; levels stay those of the names. Rows, all there are, come in an order that
    every process shares; those tagged before are tagged anew.
    """
    bare = [(row, c.name) for row in rows for c in row.rubric.criteria if level_key("", c.tags) == ""]
    alone, pools = {*few_of([name for _, name in bare], len(rows))}, dict[str, str]()
    sources = {row.id: str(row.extra.get("data_source") or row.format) for row, _ in bare}
    few = len({*sources.values()}) <= 32
    for row, name in bare:
        if name not in alone:
            pools.setdefault(name, f"{sources[row.id] if few else row.format}{_ENDING}".removeprefix("-"))
    before = {log_key(c.name, c.tags) for row in rows for c in row.rubric.criteria}
    if pools and not before >= {*pools.values()}:
        counts = f"{len(pools)} of {len({name for _, name in bare})}"
        _log.warning(
            "%s names of criteria have no axis and hardly recur: they are logged together as %s, the table of rollouts tells "
            "them apart; tag criteria to follow them by what they ask for: `tags: [axis:accuracy]`",
            counts, ", ".join(dict.fromkeys(pools.values())),
        )  # fmt: skip

    def tagged(criterion: Criterion) -> Criterion:
        tags = tuple(tag for tag in criterion.tags if not (tag.startswith("pool:") and tag.endswith(_ENDING)))
        pool = pools.get(criterion.name) if level_key("", tags) == "" else None
        tags += (f"pool:{pool}",) if pool else ()
        return criterion if tags == criterion.tags else replace(criterion, tags=tags)

    return [replace(row, rubric=replace(row.rubric, criteria=tuple(map(tagged, row.rubric.criteria)))) for row in rows]
