"""Where an API stands, and the key it wants."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

__all__ = ["Key", "base_url"]


def base_url(url: str) -> str:
    """Check an address and return it without a slash at the end, or what stands behind the API's root.

    Raises:
        ValueError: if it is not http(s), or holds a password, a query or a fragment.

    >>> base_url("http://localhost:8000"), base_url("https://host/api/v2/chat/completions")
    ('http://localhost:8000/v1', 'https://host/api/v2')
    """
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        raise ValueError(f"`url` must be the address of an API such as http://localhost:8000/v1, got {url!r}")
    if "@" in parts.netloc:
        raise ValueError(f"`url` must hold no user or password ({parts.hostname}): keys come from the environment")
    if parts.query or parts.fragment:
        raise ValueError(f"`url` must end with its path ({parts.hostname}): keys come from the environment, options from `body`")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


class Key:
    """A server's key, read from the environment each time it is wanted and kept in no attribute.

    Args:
        env: name of the environment variable that holds it; None = the server wants none.

    Raises:
        ValueError: if there is no such variable, or it holds no key. What may itself be the key is not repeated.
    """

    def __init__(self, env: str | None) -> None:
        self.env = env
        self.read()

    def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        key = self.read()
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def hidden(self, text: str) -> str:
        """Return a server's words without the key, should it repeat it."""
        key = self.read()
        return text if key is None else text.replace(key, "***")

    def read(self) -> str | None:
        """Return the key; None where the server wants none."""
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
