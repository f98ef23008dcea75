"""An early warning: says in words when a run that trains on its own answers comes to nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_focal.callbacks.held_out import find_held_out
from lightning_focal.callbacks.observer import batches_done

__all__ = ["CollapseWatch", "Course"]

_log = logging.getLogger(__name__)

_LABELS, _ANSWERS, _HELD_OUT = "train/vote/accuracy", "train/answer/accuracy", "val/held_out/mean"
_ACCURACY = {_ANSWERS: "accuracy of the answers", _LABELS: "accuracy of the labels", _HELD_OUT: "held-out score"}
"""What tells a policy that has become right from one that agrees on something wrong; the first that is known counts.

That of the answers comes first: where nobody answers it is 0, and that of the labels is not known.
"""
_SEEN = (
    _LABELS,
    _ANSWERS,
    "train/vote/share",
    "train/vote/distinct",
    "train/vote/unanswered",
    "train/vote/teacher_agreement",
    "train/rollout/length",
    "train/rollout/truncated",
    "train/policy/entropy",
)


@dataclass
class Course:
    """The course of one logged value: its mean over the first batches, over the latest, and its highest mean so far.

    >>> course = Course(window=2)
    >>> for value in (0.5, 0.7, 0.9, float("nan"), 0.1):
    ...     course.add(value)
    >>> [round(value, 2) for value in (course.start, course.now, course.peak)]
    [0.6, 0.5, 0.8]
    """

    window: int
    first: list[float] = field(default_factory=list)
    latest: list[float] = field(default_factory=list)
    peak: float = math.nan
    jumps: float = 0.0
    pairs: int = 0

    def add(self, value: float) -> None:
        """Add the value of a batch; NaN, not known in this batch, is left out."""
        if math.isnan(value):
            return
        if self.latest:
            self.jumps, self.pairs = self.jumps + (value - self.latest[-1]) ** 2, self.pairs + 1
        if not self.known:
            self.first.append(value)
        self.latest = [*self.latest, value][-self.window :]
        if self.known:
            self.peak = self.now if math.isnan(self.peak) else max(self.peak, self.now)

    @property
    def known(self) -> bool:
        """Whether a whole window was seen."""
        return len(self.first) == self.window

    @property
    def start(self) -> float:
        """Mean over the first batches, NaN before a whole window was seen."""
        return sum(self.first) / self.window if self.known else math.nan

    @property
    def now(self) -> float:
        """Mean over the latest batches, NaN before a whole window was seen."""
        return sum(self.latest) / self.window if self.known else math.nan

    @property
    def error(self) -> float:
        """Standard error of a mean over a window, from the differences of successive batches: a trend hardly enters."""
        return math.sqrt(self.jumps / max(1, 2 * self.pairs) / self.window)

    def fell(self, drop: float) -> bool:
        """Whether it is ``drop`` below its peak, and more than small batches go up and down: eight standard errors.

        The lowest of some hundred means lies five to six standard errors below the highest by chance alone, in a long run seven.
        """
        return self.peak - self.now >= max(drop, 8 * self.error)

    def words(self, name: str) -> str:
        """Return ``name 0.42 -> 0.97``."""
        digits = 0 if max(self.start, self.now) >= 10 else 2
        return f"{name} {self.start:.{digits}f} -> {self.now:.{digits}f}"


class CollapseWatch(Callback):
    """Reads what is logged of each training batch and says "collapse", with its evidence, once an episode (ours).

    Signs, each a mean over the latest ``window`` batches against the mean over the first ``window`` ones; NaN batches are left out:

    * the votes agree: their share has risen to ``share``, with at most ``distinct`` distinct answers;
    * labels, or answers, are right less often than they were: ``accuracy_drop`` below their best;
    * responses shrink to ``shrink`` of their length, or are cut off by the limit (``truncated``);
    * no answer can be found in them (``unanswered``);
    * student and teacher vote differently (``disagreement``);
    * the entropy is near 0 (``entropy``), or is ``explode`` times what it was.

    Votes also agree where a policy has become right, and short responses may be right. So nothing is a sign where accuracy is known (of
    the answers, of the labels, or on held-out prompts) and is high (``solved``), or has risen by ``rise`` and not fallen from its best
    since. Where no gold answer is known the message says that it cannot tell.

    An episode ends after ``window`` batches without a sign. ``train/collapse/signs`` is the number of signs in force. The state
    is in the checkpoint; the values are those of all processes, which therefore decide alike.

    Args:
        window: batches in a mean; nothing is said before twice as many.
        share: share of the votes for the label, at least ``rise`` above its start.
        distinct: distinct answers in a group.
        rise: change that counts as one, for shares.
        solved: accuracy that is high enough to stop asking.
        accuracy_drop: fall of the accuracy below its best mean, beyond what small batches bring.
        shrink: share of the first responses' length.
        truncated: share of responses cut off, at least 0.25 above its start.
        unanswered: share of responses without an answer, at least 0.25 above its start.
        disagreement: share of prompts on which student and teacher differ, at least 0.25 above its start.
        entropy: nats a token; at least a factor of 5 below its start.
        explode: factor on the first batches' entropy, at least 1 nat above its start.
        stop: end the run at a collapse, also where it cannot be told for certain.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        window: int = 10,
        share: float = 0.95,
        distinct: float = 1.25,
        rise: float = 0.05,
        solved: float = 0.9,
        accuracy_drop: float = 0.15,
        shrink: float = 0.33,
        truncated: float = 0.5,
        unanswered: float = 0.5,
        disagreement: float = 0.5,
        entropy: float = 0.02,
        explode: float = 3.0,
        stop: bool = False,
    ) -> None:
        if window < 1:
            raise ValueError(f"`window` must be >= 1 batches, got {window}")
        shares = {"share": share, "rise": rise, "solved": solved, "accuracy_drop": accuracy_drop, "shrink": shrink}
        shares |= {"truncated": truncated, "unanswered": unanswered, "disagreement": disagreement}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise ValueError(f"`{name}` must be in (0, 1], got {value}")
        for name, value, least in (("distinct", distinct, 1.0), ("explode", explode, 1.0), ("entropy", entropy, 0.0)):
            if not value >= least:
                raise ValueError(f"`{name}` must be >= {least:g}, got {value}")
        self.window, self.share, self.distinct, self.rise, self.solved = window, share, distinct, rise, solved
        self.accuracy_drop, self.shrink, self.truncated, self.unanswered = accuracy_drop, shrink, truncated, unanswered
        self.disagreement, self.entropy, self.explode, self.stop = disagreement, entropy, explode, stop
        self.courses = {name: Course(window) for name in (*_SEEN, _HELD_OUT)}
        self.batches = self.quiet = 0
        self.episode = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at a batch and speak where it is time to."""
        seen = {name: float(trainer.callback_metrics.get(name, math.nan)) for name in _SEEN}
        held_out = find_held_out(trainer)  # from before training on, and in the checkpoint, unlike what was logged
        if held_out is not None and held_out.history:
            seen[_HELD_OUT] = float(held_out.history[-1]["measures"].get(_HELD_OUT, math.nan))
        signs = self.look(seen)
        pl_module.log("train/collapse/signs", float(len(signs)), rank_zero_only=False)
        begins = bool(signs) and not self.episode
        self.quiet = 0 if signs else self.quiet + 1
        self.episode = bool(signs) or (self.episode and self.quiet < self.window)
        if begins:
            if trainer.is_global_zero:
                _log.warning("%s", self.message(signs, batches_done(trainer)))
            trainer.should_stop = trainer.should_stop or self.stop

    def look(self, values: Mapping[str, float]) -> list[str]:
        """Take the values of one training batch by the names they are logged under; return the signs in force, in words."""
        self.batches += 1
        for name, course in self.courses.items():
            course.add(values.get(name, math.nan))
        accuracy = self.courses.get(self._accuracy() or "")
        if self.batches < 2 * self.window:
            return []
        if accuracy is not None:
            risen = accuracy.now >= accuracy.start + self.rise and not accuracy.fell(self.accuracy_drop)
            if accuracy.now >= self.solved or risen:  # the policy is right, or on its way there
                return []
        return self._signs()

    def _accuracy(self) -> str | None:
        """Name of the accuracy that is known, if any."""
        return next((name for name in _ACCURACY if self.courses[name].known), None)

    def _signs(self) -> list[str]:
        share, distinct, unanswered, agreement = (
            self.courses[f"train/vote/{name}"] for name in ("share", "distinct", "unanswered", "teacher_agreement")
        )
        length, truncated = self.courses["train/rollout/length"], self.courses["train/rollout/truncated"]
        entropy, signs = self.courses["train/policy/entropy"], []
        if share.now >= self.share and share.now >= share.start + self.rise and distinct.now <= self.distinct:
            signs.append(f"the votes agree ({share.words('share')}, {distinct.words('distinct answers')})")
        for name in dict.fromkeys((_LABELS, self._accuracy())):
            if name is not None and self.courses[name].fell(self.accuracy_drop):
                course = self.courses[name]
                signs.append(f"{_ACCURACY[name]} fell from its best ({course.peak:.2f} -> {course.now:.2f})")
        if 1 - agreement.now >= self.disagreement and agreement.now <= agreement.start - 0.25:
            signs.append(f"student and teacher vote differently ({agreement.words('agreement')})")
        if length.now <= self.shrink * length.start:
            signs.append(f"responses shrink ({length.words('tokens')})")
        if truncated.now >= self.truncated and truncated.now >= truncated.start + 0.25:
            signs.append(f"responses hit the length limit ({truncated.words('share')})")
        if unanswered.now >= self.unanswered and unanswered.now >= unanswered.start + 0.25:
            signs.append(f"no answer can be found in responses ({unanswered.words('share')})")
        if entropy.now <= self.entropy and entropy.now <= entropy.start / 5:
            signs.append(f"the policy hardly varies ({entropy.words('entropy')} nats a token)")
        if entropy.now >= self.explode * entropy.start and entropy.now >= entropy.start + 1:
            signs.append(f"the policy falls apart ({entropy.words('entropy')} nats a token)")
        return signs

    def message(self, signs: list[str], batch: int) -> str:
        """Return what is said at the beginning of an episode; ``signs`` are words."""
        name, first = self._accuracy(), batch - self.batches + 1
        window = f"batches {first}-{first + self.window - 1} against {batch - self.window + 1}-{batch}"
        if name is None:
            verdict = "possible collapse"
            meaning = (
                "no gold answer is known, so this cannot tell a policy that has become right from one that agrees on something "
                "wrong: read a few of the run folder's rollouts"
            )
        else:
            verdict, course = "collapse", self.courses[name]
            moved = "falls" if course.fell(self.accuracy_drop) or course.now < course.start - self.rise else "does not rise"
            meaning = f"{course.words(_ACCURACY[name])}: it {moved}, so this is not a policy that has become right"
        end = "; the run stops here (`stop: true`)" if self.stop else ""
        return f"{verdict} after batch {batch} ({window}): {'; '.join(signs)}; {meaning}{end}"

    def state_dict(self) -> dict[str, Any]:
        """Return the courses seen so far and whether an episode is under way."""
        courses = {name: asdict(course) for name, course in self.courses.items()}
        return {"courses": courses, "batches": self.batches, "episode": self.episode, "quiet": self.quiet}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back; ValueError where they were taken with another ``window``."""
        windows = {course["window"] for course in state_dict["courses"].values()}
        if windows != {self.window}:
            raise ValueError(f"`CollapseWatch.window` must be as in the checkpoint, {sorted(windows)[0]}, got {self.window}")
        self.courses |= {name: Course(**course) for name, course in state_dict["courses"].items()}
        self.batches, self.episode, self.quiet = state_dict["batches"], state_dict["episode"], state_dict["quiet"]
