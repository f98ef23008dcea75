"""What a chat server gives: a reply, or a reason why there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lightning_focal.thoughts import is_empty

__all__ = ["AgainError", "ChatError", "ChatRefused", "ChatReply", "ChatUnavailable", "ChatUnusable", "read_reply", "retry_after"]
__all__ += ["shortened"]


_TEXTS = (None, "text", "output_text")  # types of parts that are said: others are thoughts, refusals, pictures
_CUT = ("max_tokens", "max_output_tokens", "model_length")  # what servers call `length`


class ChatError(RuntimeError):
    """A request without a reply; the message says why, and never holds the key."""


class ChatUnusable(ChatError):
    """No request will succeed: nobody is there, the key is rejected, or the model is unknown."""


class ChatRefused(ChatError):
    """This request was refused, a repetition would be, too: the prompt is too long, or an option unknown."""


class ChatUnavailable(ChatError):
    """No reply although the request was repeated until attempts or time ran out; a later one may succeed."""


class AgainError(ChatError):
    """The request may succeed if it is repeated, after ``retry_after`` seconds where the server names a time."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class ChatReply:
    """What a server answered.

    Args:
        text: of the first choice; empty where the server gave none.
        finish_reason: ``stop``, ``length`` (cut off by the limit), ...; None where the server does not say.
        prompt_tokens: read, or None where the server does not say.
        completion_tokens: written, or None.
        instead: what came in place of a text that can be used, in words: a refusal, a tool call, a thought alone; else empty.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    instead: str = ""


def shortened(text: str, limit: int = 200) -> str:
    """Return the text on one line, of at most ``limit`` characters, and without halves of surrogate pairs."""
    line = " ".join(text[: 10 * limit].encode("utf-8", errors="replace").decode("utf-8").split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def retry_after(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date; None where it says neither.

    >>> retry_after("7"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after("soon")
    (7.0, 0.0, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def read_reply(content: bytes) -> ChatReply:
    """Return the chat completion that was received; AgainError if it is none."""
    try:
        received = json.loads(content)
        choice = received["choices"][0]
        message = choice["message"]
        text = message.get("content")
        if isinstance(text, list):  # in parts
            text = "".join(part.get("text") or "" for part in text if part.get("type") in _TEXTS)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"content of type {type(text).__name__}")
        usage, reason = received.get("usage") or {}, choice.get("finish_reason")
        reason = "length" if str(reason).lower() in _CUT else reason
        read, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        instead = _instead(message, text or "", reason)
        return ChatReply(text or "", None if reason is None else str(reason), read, written, instead)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        got = shortened(content[:1000].decode("utf-8", errors="replace"), 100)
        raise AgainError(f"the reply is no chat completion ({type(error).__name__}: {error}; got {got!r})") from None


def _instead(message: Mapping[str, Any], text: str, reason: Any) -> str:
    """What came in place of a text, in words; empty where a text came."""
    content = message.get("content")
    parts = {part.get("type"): part for part in content} if isinstance(content, list) else {}
    if refusal := message.get("refusal") or parts.get("refusal", {}).get("refusal"):
        return f"a refusal: {shortened(str(refusal), 100)}"
    if reason == "content_filter":
        return "the server's content filter ended the reply"
    if not is_empty(text):
        return ""
    calls = [*(message.get("tool_calls") or ()), *filter(None, [message.get("function_call")])]
    if calls:
        named = (call.get("function") or call for call in calls)
        return f"a tool call in place of text ({', '.join(shortened(str(call.get('name')), 40) for call in named)})"
    thought = next((name for name in ("reasoning_content", "reasoning", "reasoning_details") if message.get(name)), None)
    thought = thought or next((kind for kind in parts if kind not in _TEXTS), None)
    return f"empty content, text in `{thought}` alone" if thought else "empty content"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
