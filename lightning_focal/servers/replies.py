"""What a chat server gives: a reply, or a reason why there is none."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = [
    "AgainError",
    "ChatError",
    "ChatRefused",
    "ChatReply",
    "ChatUnavailable",
    "ChatUnusable",
    "read_reply",
    "retry_after",
    "shortened",
]


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
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


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
    """Return the chat completion that was received.

    Raises:
        AgainError: if it is none.
    """
    try:
        received = json.loads(content)
        choice = received["choices"][0]
        text = choice["message"].get("content")
        if isinstance(text, list):  # in parts
            text = "".join(part.get("text") or "" for part in text)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"content of type {type(text).__name__}")
        usage, reason = received.get("usage") or {}, choice.get("finish_reason")
        tokens = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
        return ChatReply(text or "", None if reason is None else str(reason), *tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        got = shortened(content[:1000].decode("utf-8", errors="replace"), 100)
        raise AgainError(f"the reply is no chat completion ({type(error).__name__}: {error}; got {got!r})") from None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
