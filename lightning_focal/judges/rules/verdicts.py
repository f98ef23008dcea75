"""Small helpers the checks share: verdicts with a reason, and bounds on counts."""

from __future__ import annotations

from collections.abc import Callable

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Run
from lightning_focal.judges.rules.view import ResponseView

__all__ = ["count_between", "listed", "verdict"]


def verdict(met: bool, reason: str) -> Verdict:
    """Met or not met, with what was measured."""
    return Verdict(Outcome.MET if met else Outcome.NOT_MET, None, reason)


def listed(words: list[str], most: int = 5) -> str:
    """Show the first few of a list.

    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(repr, words[:most]))
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"


def count_between(
    count: Callable[[ResponseView], float],
    unit: str,
    low: float | None,
    high: float | None,
    names: tuple[str, str] = ("min", "max"),
) -> Run:
    """Make a check that a count lies within bounds, both ends included.

    Args:
        count: what is counted.
        unit: its name in the reason.
        low: least count, or None.
        high: greatest count, or None.
        names: what the arguments are called, for errors.

    Raises:
        ValueError: if both bounds are None, a bound is negative, or they cross.
    """
    if low is None and high is None:
        raise ValueError(f"`{names[0]}` or `{names[1]}` must be given, got neither")
    for name, bound in zip(names, (low, high), strict=True):
        if bound is not None and bound < 0:
            raise ValueError(f"`{name}` must be at least 0, got {bound}")
    if low is not None and high is not None and low > high:
        raise ValueError(f"`{names[0]}` must be at most `{names[1]}` ({high}), got {low}")
    if low is None:
        asked = f"at most {high:g} allowed" if high else "none allowed"
    elif high is None:
        asked = f"at least {low:g} asked"
    else:
        asked = f"{low:g} asked" if low == high else f"{low:g} to {high:g} asked"
    least, most = -1.0 if low is None else low, float("inf") if high is None else high

    def run(view: ResponseView) -> Verdict:
        found = count(view)
        return Verdict(Outcome.MET if least <= found <= most else Outcome.NOT_MET, None, f"{found:g} {unit}, {asked}")

    return run
