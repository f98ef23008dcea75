"""A server's key, which is kept nowhere."""

from __future__ import annotations

import os
import re

__all__ = ["Key"]


class Key:
    """Reads the key from the environment each time it is wanted.

    Args:
        env: name of the environment variable that holds it; None = the server wants none.

    Raises:
        ValueError: if there is no such variable, or it holds no key. What may itself be the key is not repeated.
    """

    def __init__(self, env: str | None) -> None:
        self.env = env
        self._read()

    def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        key = self._read()
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def hidden(self, text: str) -> str:
        """Return a server's words without the key, should it repeat it."""
        key = self._read()
        return text if key is None else text.replace(key, "***")

    def _read(self) -> str | None:
        if self.env is None:
            return None
        if not re.fullmatch(r"[A-Za-z_]\w*", self.env, re.ASCII):
            raise ValueError("`key_env` must be the name of an environment variable that holds the key, not the key itself")
        key = os.environ.get(self.env, "").strip()
        if not key:
            shown = repr(self.env) if self.env == self.env.upper() else "what it names"
            raise ValueError(f"`key_env` must name an environment variable that holds the key, {shown} is not set")
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"the environment variable {self.env!r} must hold a key of plain characters; it holds others")
        return key
