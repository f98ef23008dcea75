"""Why a server gave no reply."""

from __future__ import annotations

__all__ = ["ChatError", "ChatRefused", "ChatUnavailable", "ChatUnusable"]


class ChatError(RuntimeError):
    """A request without a reply; the message says why, and never holds the key."""


class ChatUnusable(ChatError):
    """No request will succeed: nobody is there, the key is rejected, or the model is unknown."""


class ChatRefused(ChatError):
    """This request was refused, a repetition would be, too: the prompt is too long, or an option unknown."""


class ChatUnavailable(ChatError):
    """No reply although the request was repeated until attempts or time ran out; a later one may succeed."""
