"""Servers that are asked over HTTP."""

from lightning_focal.servers.chat import ChatClient
from lightning_focal.servers.errors import ChatError, ChatRefused, ChatUnavailable, ChatUnusable
from lightning_focal.servers.pace import Pace
from lightning_focal.servers.replies import AgainError, ChatReply
from lightning_focal.servers.tally import Tally

__all__ = [
    "AgainError",
    "ChatClient",
    "ChatError",
    "ChatRefused",
    "ChatReply",
    "ChatUnavailable",
    "ChatUnusable",
    "Pace",
    "Tally",
]
