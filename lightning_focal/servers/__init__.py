"""Servers that are asked over HTTP."""

from lightning_focal.servers.chat import ChatClient, ChatReply
from lightning_focal.servers.errors import ChatError, ChatRefused, ChatUnavailable, ChatUnusable

__all__ = ["ChatClient", "ChatError", "ChatRefused", "ChatReply", "ChatUnavailable", "ChatUnusable"]
