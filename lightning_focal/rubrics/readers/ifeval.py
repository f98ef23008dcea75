"""IFEval and IFBench: prompts with instructions a program can verify, ``arXiv:2311.07911``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.errors import RubricError
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, register
from lightning_focal.rubrics.readers.fields import id_of, messages_of, without_none

__all__ = ["IFEvalFormat"]


@register
class IFEvalFormat(RubricFormat):
    """``{"key", "prompt", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{...}]}``.

    Each instruction becomes a criterion of one point with the check ``ifeval``; null keyword arguments are dropped. The group
    of the instruction (``punctuation``) becomes the tag ``axis:...``.
    """

    name = "ifeval"
    fields = "key, prompt, instruction_id_list, kwargs"
    terms = "share of instructions met"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a prompt and a list of instructions."""
        return {"prompt", "instruction_id_list"} <= row.keys()

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        ids = row["instruction_id_list"]
        if not isinstance(ids, list) or not ids or not all(isinstance(name, str) and name for name in ids):
            raise RubricError(where, "instruction_id_list", "a non-empty list of strings", ids)
        kwargs = row.get("kwargs") or [{}] * len(ids)
        if not isinstance(kwargs, list) or len(kwargs) != len(ids):
            raise RubricError(where, "kwargs", f"a list of one mapping per instruction ({len(ids)})", kwargs)
        criteria = []
        for i, (instruction, arguments) in enumerate(zip(ids, kwargs, strict=True)):
            if arguments is not None and not isinstance(arguments, Mapping):
                raise RubricError(where, f"kwargs[{i}]", "a mapping", arguments)
            given = without_none(arguments or {})
            shown = ", ".join(f"{key} = {value}" for key, value in given.items())
            count = ids[:i].count(instruction)
            criteria.append(
                Criterion(
                    name=f"{instruction}-{count + 1}" if count else instruction,
                    description=f"Follows the instruction {instruction}{f' ({shown})' if shown else ''}.",
                    tags=(f"axis:{instruction.partition(':')[0]}",),
                    check={"kind": "ifeval", "instruction": instruction, "arguments": given},
                    where=f"{where}: instruction_id_list[{i}]",
                )
            )
        extra = {k: v for k, v in row.items() if k not in ("key", "prompt", "instruction_id_list", "kwargs")}
        return RubricRow(
            id=id_of(row, "key", where, default_id),
            messages=messages_of(row, "prompt", where),
            rubric=Rubric(tuple(criteria), extra, where),
            extra=extra,
        )

    def score(self, rubric: Rubric, met: Sequence[float | None]) -> float | None:
        """Share of the judged instructions that are met."""
        judged = [m for m in met if m is not None]
        return sum(judged) / len(judged) if judged else None
