"""Sums with a calculator: the smallest environment with a tool."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_focal.environments.base import Environment, Episode, Task

if TYPE_CHECKING:
    from lightning_focal.types import Message

__all__ = ["Calculator", "calculate"]

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}
_NUMBER = re.compile(r"-?\d+")


def calculate(expression: str) -> str:
    """Work out an expression of whole numbers.

    Args:
        expression: numbers with +, -, * and //, and brackets: 12 * (3 + 4).

    >>> calculate("12 * (3 + 4)")
    '84'
    """

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return int(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        raise ValueError(f"only whole numbers, +, -, *, // and brackets, got {expression[:80]!r}")

    return str(value(ast.parse(expression, mode="eval").body))


class _Sum(Episode):
    def __init__(self, gold: str | None) -> None:
        self.gold = gold

    def scores(self, messages: Sequence[Message]) -> Mapping[str, float | None]:
        last, called = messages[-1], any(message["role"] == "tool" for message in messages)
        found = _NUMBER.findall(last["content"]) if last["role"] == "assistant" and "<tool_call>" not in last["content"] else []
        right = None if self.gold is None else float(bool(found) and found[-1] == self.gold)
        return {"right": right, "called": float(called)}


class Calculator(Environment):
    """Questions with one number as the answer, and the tool :func:`calculate`.

    Scores: ``right``, the last number of the answer is the prompt's gold answer; ``called``, the policy used the tool.

    >>> episode = Calculator().reset(Task("a", answer="84"))
    >>> episode.scores([{"role": "assistant", "content": "It is 84."}])
    {'right': 1.0, 'called': 0.0}
    """

    tools = (calculate,)
    score_names = ("right", "called")

    def reset(self, task: Task) -> Episode:
        """See :class:`Environment`."""
        return _Sum(task.answer)
