"""Servers that are asked over HTTP."""

from lightning_focal.servers.chat import ChatClient
from lightning_focal.servers.replies import AgainError, ChatError, ChatRefused, ChatReply, ChatUnavailable, ChatUnusable

__all__ = ["AgainError", "ChatClient", "ChatError", "ChatRefused", "ChatReply", "ChatUnavailable", "ChatUnusable"]
