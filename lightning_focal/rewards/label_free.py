"""Co-rewarding-I, -II and -III (arXiv:2508.00410) and what they are compared with, as strategies."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer

from lightning_focal.rewards.answers import AnswerScores, EquivalenceKind, GoldAnswers
from lightning_focal.rewards.certainty import NegativeEntropy, SelfCertainty
from lightning_focal.rewards.stages import Advantage, BaseWeights, RewardRule, Weighting
from lightning_focal.rewards.strategy import RewardStrategy
from lightning_focal.rewards.votes import FrozenVotes, OwnVotes, PairedTeacherVotes, PairVotes, TeacherVotes

__all__ = [
    "AnswerReward",
    "CoRewardingI",
    "CoRewardingII",
    "CoRewardingIII",
    "EntropyReward",
    "FrozenVoteReward",
    "GroundTruthReward",
    "MajorityVoteReward",
    "SelfCertaintyReward",
]


class AnswerReward(RewardStrategy):
    """A reward made of extracted answers; held-out prompts are measured against gold answers, whatever trains the policy.

    ``val/criterion/correct/score`` is the held-out accuracy, and ``val/held_out/mean``, too.

    Args:
        equivalence: when two answers are one: ``math`` (equal strings, or equal by math-verify) or ``string`` (the released
            code's choice).
        format: weight of the criterion ``format`` (there is a boxed answer) beside the method's own, which weighs 1; 0 = without.
        length: weight of the criterion ``length`` (ended before the length limit); 0 = without.
        weighting: a rule for the weights in force, :class:`FocalWeighting` say; the base weights by default.
        weights: base weights: ``prior`` = those above, ``uniform`` = equal over the applying criteria, a mapping = by name.
        temperature: of the projection that measures saturation.
        scope: where saturation is measured: ``group``, ``batch`` or ``running``, see :class:`RewardStrategy`.
        decay: of the running level.
        warmup: training batches with base weights.
        reward: folds criteria into one reward; a weighted sum by default.
        advantage: GRPO's by default.

    Attributes:
        source_class: the source of training scores, which a subclass names; what else it takes stands in ``source_args``.
    """

    source_class: ClassVar[type[AnswerScores]]
    source_args: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        equivalence: EquivalenceKind = "math",
        format: float = 0.0,
        length: float = 0.0,
        weighting: Weighting | None = None,
        weights: BaseWeights = "prior",
        temperature: float = 1.0,
        scope: Literal["group", "batch", "running"] = "group",
        decay: float = 0.9,
        warmup: int = 0,
        reward: RewardRule | None = None,
        advantage: Advantage | None = None,
    ) -> None:
        arguments = {"equivalence": equivalence, "format": format, "length": length, **self.source_args}
        super().__init__(
            self.source_class(**arguments),
            weighting,
            weights=weights,
            temperature=temperature,
            scope=scope,
            decay=decay,
            warmup=warmup,
            reward=reward,
            advantage=advantage,
            held_out=GoldAnswers(unknown="warn", equivalence=equivalence),
        )


class CoRewardingI(AnswerReward):
    """Co-rewarding-I, the data side (arXiv:2508.00410 eq. 6-8): each wording of a question is rewarded by the vote on the other.

    The data come in pairs: write ``data.pairs: true``. See :class:`PairVotes`.
    """

    source_class = PairVotes


@runtime_checkable
class Teacher(Protocol):
    """What the module asks of a callback that keeps a teacher."""

    def advance(self, policy: Any, batch: int, planned: int | None) -> float:
        """Move the teacher towards the policy."""

    def use_weights(self, policy: Any) -> Any:
        """Put the teacher's weights in the policy's place for a while."""


class CoRewardingII(AnswerReward):
    """Co-rewarding-II, the model side (arXiv:2508.00410 eq. 9-11): the student is rewarded by the vote of a teacher, its moving average.

    Write :class:`~lightning_focal.callbacks.EMATeacher` among `trainer.callbacks`. See :class:`TeacherVotes`.

    Args:
        teacher_rollouts: answers of the teacher to a prompt, ``G~``; None = as many as the student's.

    Raises:
        ValueError: in ``setup``, where no teacher is found.
    """

    source_class = TeacherVotes

    def __init__(self, teacher_rollouts: int | None = None, **kwargs: Any) -> None:
        self.source_args = {"group_size": teacher_rollouts}
        super().__init__(**kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Expect a teacher where a run is to train."""
        if stage == "fit" and not any(isinstance(callback, Teacher) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                f"{type(self).__name__} needs a teacher: add one to `trainer.callbacks`:\n"
                "  trainer:\n    callbacks:\n      - class_path: lightning_focal.callbacks.EMATeacher"
            )
        super().setup(trainer, pl_module, stage)


class CoRewardingIII(CoRewardingII):
    """Co-rewarding-III (arXiv:2508.00410 v3), both sides at once: the teacher's vote on each wording rewards the student on the other.

    The data come in pairs, ``data.pairs: true``, and :class:`~lightning_focal.callbacks.EMATeacher` stands among `trainer.callbacks`.
    See :class:`PairedTeacherVotes`.
    """

    source_class = PairedTeacherVotes


class MajorityVoteReward(AnswerReward):
    """Majority voting (a baseline of arXiv:2508.00410): the label is the vote of the group itself. See :class:`OwnVotes`.

    Args:
        equivalence: see :class:`AnswerReward`.
        voters: answers that vote on a prompt, the trained ones among them; None = the group alone.
    """

    source_class = OwnVotes

    def __init__(self, equivalence: EquivalenceKind = "math", voters: int | None = None, **kwargs: Any) -> None:
        self.source_args = {"voters": voters}
        super().__init__(equivalence, **kwargs)


class FrozenVoteReward(AnswerReward):
    """Votes recorded before training as labels (arXiv:2505.21444). See :class:`FrozenVotes`.

    Args:
        votes: folder of recorded rollouts, ``<run folder>/rollouts``.
    """

    source_class = FrozenVotes

    def __init__(self, votes: str, **kwargs: Any) -> None:
        self.source_args = {"votes": votes}
        super().__init__(**kwargs)


class SelfCertaintyReward(AnswerReward):
    """Self-certainty (a baseline of arXiv:2508.00410): KL from uniform to the policy, mean over tokens. See :class:`SelfCertainty`.

    Args:
        ceiling: nats that score 1; larger values are clamped.
    """

    source_class = SelfCertainty

    def __init__(self, ceiling: float = 50.0, **kwargs: Any) -> None:
        self.source_args = {"ceiling": ceiling}
        super().__init__(**kwargs)


class EntropyReward(AnswerReward):
    """Minus the entropy (a baseline of arXiv:2508.00410), mean over tokens. See :class:`NegativeEntropy`.

    Args:
        ceiling: nats that score 0; ``ln`` of the vocabulary or more.
    """

    source_class = NegativeEntropy

    def __init__(self, ceiling: float = 12.5, **kwargs: Any) -> None:
        self.source_args = {"ceiling": ceiling}
        super().__init__(**kwargs)


class GroundTruthReward(AnswerReward):
    """The yardstick with labels: 1 where the answer is right (a baseline of arXiv:2508.00410). See :class:`GoldAnswers`."""

    source_class = GoldAnswers
