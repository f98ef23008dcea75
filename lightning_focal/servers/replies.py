"""What a chat server's response means."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lightning_focal.servers.errors import ChatError, ChatRefused

__all__ = ["AgainError", "ChatReply", "Received", "expect_accepted", "read_reply", "retry_after", "shortened"]

_AGAIN = (408, 425, 429)


class AgainError(ChatError):
    """The request may succeed if it is repeated.

    Args:
        message: what happened.
        retry_after: seconds the server asks to wait; None = it does not say.
    """

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


@dataclass(frozen=True)
class Received:
    """A response as it came.

    Args:
        status: of HTTP.
        body: whole.
        headers: by their names in lower case.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        """The body as text; what is no UTF-8 is replaced."""
        return self.body.decode("utf-8", errors="replace")


def shortened(text: str, limit: int = 200) -> str:
    """Return the text on one line, of at most ``limit`` characters."""
    line = " ".join(text[: 10 * limit].split())
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
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def expect_accepted(received: Received, said: str) -> None:
    """Do nothing with a status of 2xx.

    Args:
        received: from the server.
        said: its text for a person to read.

    Raises:
        AgainError: on 408, 425, 429 and 5xx.
        ChatRefused: on any other status.
    """
    status = received.status
    if status in _AGAIN or status >= 500:
        seconds = retry_after(received.headers.get("retry-after"))
        asked = "" if seconds is None else f", asks to wait {seconds:g} s"
        raise AgainError(f"status {status}{asked}: {said}", seconds)
    if not 200 <= status < 300:
        raise ChatRefused(f"the server refuses the request (status {status}: {said})")


def read_reply(received: Received) -> ChatReply:
    """Return the chat completion that was received.

    Raises:
        AgainError: if it is none.
    """
    try:
        content = json.loads(received.body)
        choice = content["choices"][0]
        text = choice["message"].get("content")
        if isinstance(text, list):  # in parts
            text = "".join(part.get("text") or "" for part in text)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"content of type {type(text).__name__}")
        usage, reason = content.get("usage") or {}, choice.get("finish_reason")
        return ChatReply(
            text or "",
            None if reason is None else str(reason),
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        got = shortened(received.text, 100)
        raise AgainError(f"the reply is no chat completion ({type(error).__name__}: {error}; got {got!r})") from None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
