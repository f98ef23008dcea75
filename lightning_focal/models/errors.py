"""What goes wrong when a policy is looked up."""

from __future__ import annotations

__all__ = ["PolicySourceError"]


class PolicySourceError(ValueError):
    """A policy source that cannot be used; the message says what is missing, where, and what would work."""
