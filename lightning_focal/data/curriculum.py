"""Which prompts come next, by how well each was answered so far."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Curriculum"]


@dataclass(frozen=True)
class Curriculum:
    """Passes over prompts whose running level lies outside a band, and gives their places to others.

    A prompt's level is the mean reward of its rollouts under base weights, in [0, 1], as a moving average over the batches it was part of;
    that of a question in two views is over both. A prompt that was not met yet is always taken.

    Args:
        band: lowest and highest level that is taken.
        decay: of the moving average, in [0, 1): what the old level counts for.
        revisit: share of the prompts outside the band that are taken all the same, drawn anew each epoch, so that one that has become
            easier, or is forgotten, is noticed; in [0, 1].

    Raises:
        ValueError: for an argument out of range.

    >>> Curriculum(band=(0.2, 0.8)).takes(0.5), Curriculum(band=(0.2, 0.8)).takes(1.0), Curriculum().takes(None)
    (True, False, True)
    """

    band: tuple[float, float] = (0.05, 0.95)
    decay: float = 0.5
    revisit: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.band[0] <= self.band[1] <= 1:
            raise ValueError(f"`curriculum.band` must be two levels in [0, 1], the lower one first, got {tuple(self.band)}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"`curriculum.decay` must be in [0, 1), got {self.decay}")
        if not 0 <= self.revisit <= 1:
            raise ValueError(f"`curriculum.revisit` must be in [0, 1], got {self.revisit}")

    def takes(self, level: float | None) -> bool:
        """Whether a prompt of this level is taken; None = not met yet."""
        return level is None or self.band[0] <= level <= self.band[1]

    def moved(self, old: float | None, new: float) -> float:
        """Return the running level after another group.

        >>> Curriculum(decay=0.5).moved(None, 1.0), Curriculum(decay=0.5).moved(0.5, 1.0)
        (1.0, 0.75)
        """
        return new if old is None else self.decay * old + (1 - self.decay) * new
