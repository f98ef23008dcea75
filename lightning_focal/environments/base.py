"""What an environment is: episodes that answer a policy turn by turn, tools that it may call, and scores of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_focal.environments.calls import CallReader

if TYPE_CHECKING:
    from lightning_focal.types import Message, Prompts

__all__ = ["Environment", "Episode", "Task"]


@dataclass(frozen=True)
class Task:
    """What an episode begins with: one prompt of the data.

    Args:
        id: of the prompt.
        messages: the prompt.
        answer: its gold answer, where known.
        extra: further columns of the data.
        seed: of what an episode draws: the same for a whole group, so that its rollouts differ by the policy alone.

    >>> Task("a", ({"role": "user", "content": "12 * 7 = ?"},), answer="84").answer
    '84'
    """

    id: str
    messages: tuple[Message, ...] = ()
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


class Episode:
    """One rollout's conversation. As it stands it lets the policy call tools until it answers without a call."""

    def opening(self) -> Sequence[Message]:
        """Return what follows the prompt before the policy's first turn: nothing by default; the same for a whole group."""
        return ()

    def step(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """Return what the environment says next, None = the episode is done.

        Args:
            messages: all that was said after the prompt: the policy's turns (role ``assistant``, the text as it was written), tools'
                results (role ``tool``) and what earlier steps said. The last is a result where the policy called tools, else its turn.
        """
        return () if messages[-1]["role"] == "tool" else None

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Run a tool that the environment gives as a schema, and return its result; what it raises is told to the policy."""
        raise NotImplementedError(f"{type(self).__name__} has no tool {name!r}")

    def scores(self, messages: Sequence[Message]) -> Mapping[str, float | None]:
        """Return the environment's own scores in [0, 1] by name, None = not known; the last message of a finished episode is the answer."""
        return {}


class Environment(ABC):
    """Makes an episode for each rollout.

    A tool is a Python function with typed arguments and a docstring whose ``Args:`` explain each: its schema, shown to the policy by the
    chat template, is made of them. It runs in a process of its own and is a function of its arguments: what it changes is lost. A tool that
    is given as its schema instead is run by :meth:`Episode.call`, in this process, and may remember.

    Args:
        max_turns: turns of the policy in an episode.
        max_tokens: tokens of an episode after the prompt, the environment's included; None = as many as the policy has positions for. A
            turn begins only where ``model.sampling.max_new_tokens`` fit.
        tool_timeout: seconds on the clock after which a call is ended.
        max_output: characters of a tool's result; what is longer is cut, with a note.

    Attributes:
        tools: functions that the policy may call, or schemas as chat templates take them.
        reader: of the policy's calls, known once a run begins; None = there are no tools.
        score_names: what :meth:`Episode.scores` gives; a criterion with the check ``environment`` takes one of them.

    Raises:
        ValueError: on a limit out of range.
    """

    tools: Sequence[Callable[..., Any] | dict[str, Any]] = ()
    reader: CallReader | None = None
    score_names: Sequence[str] = ()

    def __init__(
        self, max_turns: int = 8, max_tokens: int | None = None, tool_timeout: float = 2.0, max_output: int = 4000
    ) -> None:
        limits = {"max_turns": max_turns, "max_tokens": max_tokens, "tool_timeout": tool_timeout, "max_output": max_output}
        for name, limit in limits.items():
            if limit is not None and not 0 < limit < float("inf"):
                raise ValueError(f"`model.environment.{name}` must be > 0, got {limit}")
        self.max_turns, self.max_tokens = max_turns, max_tokens
        self.tool_timeout, self.max_output = tool_timeout, max_output

    def validate(self, prompts: Prompts) -> None:
        """Raise ``ValueError`` for prompts that it cannot play; called on every split before a policy is loaded."""

    @abstractmethod
    def reset(self, task: Task) -> Episode:
        """Begin an episode; the same task begins the same one."""
