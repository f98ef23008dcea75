"""Where an API stands, and the way there."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

__all__ = ["base_url", "proxy_of"]


def proxy_of(url: str) -> str | None:
    """Return the environment's proxy for an address (``HTTPS_PROXY``, ``NO_PROXY``, ...); None = it is asked directly."""
    parts = urlsplit(url)
    return None if urllib.request.proxy_bypass(str(parts.hostname)) else urllib.request.getproxies().get(parts.scheme)


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
