"""Tools of an environment: their schemas, and a message for whatever a policy does with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_focal.environments.base import Environment, Episode
from lightning_focal.environments.calls import Call
from lightning_focal.environments.tool_process import Result, ToolProcess
from lightning_focal.types import Message

__all__ = ["ERROR", "Tools"]

ERROR = "Error: "
"""How a message that tells the policy of a mistake begins."""


class Tools:
    """Checks calls against the tools' schemas, runs them, and says what came out.

    Args:
        environment: whose tools they are.

    Raises:
        ValueError: for two tools of one name, or one without a typed signature and a docstring that explains its arguments.
    """

    def __init__(self, environment: Environment) -> None:
        from transformers.utils import get_json_schema

        self.schemas: list[dict[str, Any]] = []
        for tool in environment.tools:
            try:
                self.schemas.append(get_json_schema(tool) if callable(tool) else tool)
            except Exception as error:  # transformers' own kinds are not public
                name = getattr(tool, "__name__", repr(tool))
                raise ValueError(
                    f"the tool {name!r} needs typed arguments and a docstring with `Args:` for each: {error}"
                ) from error
        self._names = [schema["function"]["name"] for schema in self.schemas]
        if len(set(self._names)) < len(self._names):
            raise ValueError(f"`tools` must have different names, got {self._names}")
        self._seconds, self._most = environment.tool_timeout, environment.max_output
        functions = {name: tool for name, tool in zip(self._names, environment.tools, strict=True) if callable(tool)}
        self._functions = [*functions]
        self._process = ToolProcess([*functions.values()])

    def answers(self, calls: Sequence[tuple[Call, Episode]]) -> list[Message]:
        """Return a message of role ``tool`` for each call of an episode: a result, or what was wrong; nothing that a policy writes raises.

        Functions run side by side, then tools that an episode runs, in the order given.
        """
        faults = [call.error or self._fault(call) for call, _ in calls]
        sound = [call for fault, (call, _) in zip(faults, calls, strict=True) if not fault and call.name in self._functions]
        given = [(self._functions.index(call.name), call.arguments) for call in sound]
        results = iter(self._process.run(given, self._seconds, self._most))
        messages: list[Message] = []
        for fault, (call, episode) in zip(faults, calls, strict=True):
            said = f"{ERROR}{fault}"
            if not fault:
                said = self._said(call, next(results) if call.name in self._functions else self._remembered(call, episode))
            messages.append({"role": "tool", "name": call.name if call.name in self._names else "unknown", "content": said})
        return messages

    def close(self) -> None:
        """End the process in which they run."""
        self._process.close()

    def _fault(self, call: Call) -> str:
        from jsonschema import Draft202012Validator

        if call.name not in self._names:
            return f"there is no tool {call.name[:100]!r}; there are {', '.join(self._names) or 'none'}"
        parameters = self.schemas[self._names.index(call.name)]["function"]["parameters"]
        for name, known in parameters["properties"].items():
            if call.arguments.get(name, "") is None and known.get("nullable"):
                del call.arguments[name]  # null stands for an argument that is left out
        checker = Draft202012Validator({**parameters, "additionalProperties": False})
        found = next(iter(sorted(checker.iter_errors(call.arguments), key=str)), None)
        where = "".join(f" of {part!r}" for part in found.path) if found is not None else ""
        return "" if found is None else f"the arguments{where} of {call.name} do not fit: {found.message[:300]}"

    def _said(self, call: Call, result: Result) -> str:
        if result.kind == "late":
            return f"{ERROR}{call.name} was ended after {self._seconds:g} s"
        cut = f"\n[cut: {result.length} characters, {self._most} are shown]" if result.length > self._most else ""
        return f"{ERROR if result.kind == 'error' else ''}{result.text}{cut}"

    def _remembered(self, call: Call, episode: Episode) -> Result:
        try:
            text = episode.call(call.name, call.arguments)
        except TimeoutError:
            return Result("late")
        except Exception as error:  # the tool's own
            text = f"{type(error).__name__}: {error}"
            return Result("error", text[: self._most], len(text))
        return Result("value", text[: self._most], len(text))
