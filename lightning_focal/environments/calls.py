"""Tool calls in what a policy wrote, read in the format of its own chat template."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "CallReader", "call_reader"]


@dataclass(frozen=True)
class Call:
    """A call: the tool's name and arguments; ``error`` says why it cannot be read, empty = it can."""

    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class CallReader:
    """A format of tool calls.

    Args:
        name: of the format, for the run's first line.
        read: from an answer, without its thought and eos, to its calls in order; none = the answer is a plain one.
        plain: from the same to what is left without them.
    """

    name: str
    read: Callable[[str], list[Call]]
    plain: Callable[[str], str]


def _call(given: Any, key: str = "arguments") -> Call:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return Call(error=f'a call must be a JSON object with "name" and "{key}", got {json.dumps(given)[:200]}')
    arguments = given.get(key, {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        return Call(given["name"], error=f'"{key}" must be a JSON object, got {json.dumps(arguments)[:200]}')
    return Call(given["name"], arguments)


def _read(read: Callable[[], list[Call]]) -> list[Call]:
    try:
        return read()
    except (ValueError, RecursionError) as error:  # bad JSON, a number of thousands of digits, thousands of brackets
        return [Call(error=f"the call is no valid JSON: {str(error)[:200]}")]


_TAGGED = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\n]*)>(.*)</function>\s*\Z", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]*)>\n?(.*?)\n?</parameter>", re.DOTALL)
_BARE = re.compile(r"\s*(?:<\|python_tag\|>|(?=\{\s*\"name\"))", re.DOTALL)


def _in_tags(read: Callable[[str], Call]) -> Callable[[str], list[Call]]:
    def calls(text: str) -> list[Call]:
        found = []
        for match in _TAGGED.finditer(text):
            found += _read(functools.partial(_one, read, match[1])) if match[2] else [Call(error="`<tool_call>` is not closed")]
        return found

    return calls


def _one(read: Callable[[str], Call], body: str) -> list[Call]:
    return [read(body)]


def _function(body: str) -> Call:
    named = _FUNCTION.match(body)
    if named is None:
        return Call(error="a call must read <function=NAME><parameter=KEY>VALUE</parameter></function>")
    return Call(named[1].strip(), {key.strip(): _value(value) for key, value in _PARAMETER.findall(named[2])})


def _value(text: str) -> Any:
    """What stands for a parameter; a text where it is no JSON. The schema decides which of the two it should have been."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _llama(text: str) -> list[Call]:
    start = _BARE.match(text)
    return [] if start is None else _read(lambda: [_call(json.loads(text[start.end() :]), "parameters")])


def _mistral(text: str) -> list[Call]:
    _, mark, body = text.partition("[TOOL_CALLS]")

    def read() -> list[Call]:
        given = json.loads(body)
        return [_call(one) for one in (given if isinstance(given, list) else [given])]

    return _read(read) if mark else []


_FORMATS: dict[str, tuple[tuple[str, ...], CallReader]] = {
    "<function=": ((), CallReader("<tool_call><function=", _in_tags(_function), lambda t: _TAGGED.sub("", t))),
    "<tool_call>": ((), CallReader("<tool_call>{json}", _in_tags(lambda b: _call(json.loads(b))), lambda t: _TAGGED.sub("", t))),
    "[TOOL_CALLS]": (("[ARGS]",), CallReader("[TOOL_CALLS][{json}]", _mistral, lambda t: t.partition("[TOOL_CALLS]")[0])),
    '"parameters":': ((), CallReader('{"name", "parameters"}', _llama, lambda t: "" if _BARE.match(t) else t)),
}
"""Known formats by what stands in the chat template of who writes them, and what must not stand there."""


def call_reader(tokenizer: Any, schemas: Sequence[dict[str, Any]]) -> CallReader:
    """Choose the format: the tokenizer's ``response_template`` where it brings one, else by its chat template.

    Raises:
        ValueError: for a chat template that takes no notice of tools, or whose format is not known.
    """
    chat = [{"role": "user", "content": "?"}]
    shown, bare = (tokenizer.apply_chat_template(chat, tools=tools, tokenize=False) for tools in (list(schemas), None))
    if shown == bare:
        raise ValueError(
            "`model.environment` has tools, of which the policy's chat template takes no notice: choose another policy"
        )
    if getattr(tokenizer, "response_template", None) is not None:
        return CallReader("the tokenizer's response_template", *_by_template(tokenizer))
    template = tokenizer.get_chat_template(None, list(schemas))
    for mark, (but_not, reader) in _FORMATS.items():
        if mark in template and not any(other in template for other in but_not):
            return reader
    raise ValueError(
        f"`model.environment` has tools, and the policy's chat template writes calls in none of the known formats: "
        f"{', '.join(reader.name for _, reader in _FORMATS.values())}; give its tokenizer a `response_template`"
    )


def _by_template(tokenizer: Any) -> tuple[Callable[[str], list[Call]], Callable[[str], str]]:
    def parsed(text: str) -> dict[str, Any]:
        found: dict[str, Any] = tokenizer.parse_response(text, prefix="")
        return found

    def read(text: str) -> list[Call]:
        try:
            return [_call(call.get("function")) for call in parsed(text).get("tool_calls") or ()]
        except Exception as error:  # a template of anybody's, on any text
            return [Call(error=f"the call cannot be read: {type(error).__name__}: {str(error)[:200]}")]

    def plain(text: str) -> str:
        try:
            return str(parsed(text).get("content") or "")
        except Exception:
            return ""

    return read, plain
