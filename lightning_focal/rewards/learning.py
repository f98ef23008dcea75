"""Weightings that remember: POW3R, and what any weighting can be wrapped in (informedness, patience, Rubric Dropout)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_focal.functional import (
    base_weights,
    disagreement_sums,
    give_back,
    informed_weights,
    informedness,
    informedness_of_confusion,
    patience_step,
    pow3r_factors,
    pow3r_weights,
    repeat_variance,
    rubric_dropout,
    scatter_sums,
)
from lightning_focal.rewards.stages import StaticWeighting, Weighting, all_reduce_sum, key_columns
from lightning_focal.types import CriterionScores

__all__ = ["InformedWeighting", "PatientWeighting", "Pow3rWeighting", "RubricDropout", "refined"]

Informedness = float | dict[str, float] | str
"""A share of rollouts to judge twice, informedness by criterion, or a file that ``lightning_focal judge --agreement --json`` wrote."""


class LearningWeighting(Weighting):
    """A weighting that keeps numbers by criterion key, and may be wrapped around another one.

    Args:
        weighting: the one inside; base weights by default.

    Attributes:
        fields: what is kept of each key.
        kept: ``[len(fields), K]`` float64, NaN = nothing yet.
    """

    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, weighting: Weighting | None = None) -> None:
        self.inner = weighting or StaticWeighting()
        self.kept = torch.full((len(self.fields), 0), torch.nan, dtype=torch.float64)
        self.learns, self.repeats = bool(self.fields) or self.inner.learns, self.inner.repeats

    def learn_keys(self, keys: Iterable[str]) -> None:
        """See :class:`Stage`."""
        super().learn_keys(keys)
        self.kept = torch.nn.functional.pad(self.kept, (0, len(self.keys) - self.kept.shape[1]), value=torch.nan)
        self.inner.learn_keys(self.keys)

    def observe(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> None:
        """See :class:`Weighting`."""
        if self.inner.learns:
            self.inner.observe(scores, saturation, base)

    def measures(self, scores: CriterionScores) -> dict[str, Tensor]:
        """See :class:`Weighting`."""
        return self.inner.measures(scores)

    def validate(self, names: Iterable[str]) -> None:
        """See :class:`Weighting`."""
        self.inner.validate(names)

    def by_criterion(self, values: Tensor, scores: CriterionScores) -> Tensor:
        """``[P, C]``: the value of each criterion's key among ``values`` ``[K]``, NaN for padding and keys that are not known."""
        padded = torch.nn.functional.pad(values, (0, 1), value=torch.nan).to(scores.scores.device)
        return padded[key_columns(scores, self.keys)]  # -1 reads the NaN

    def sums_by_key(self, scores: CriterionScores, *values: Tensor) -> Tensor:
        """``[len(values), K]`` float64 on the CPU: sums of ``[P, C]`` by key over the batch, all processes together."""
        columns = key_columns(scores, self.keys)
        return all_reduce_sum(torch.stack([scatter_sums(v, columns, len(self.keys)) for v in values])).cpu().double()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Weighting`."""
        own = {"keys": list(self.keys), **dict(zip(self.fields, self.kept.clone(), strict=True))} if self.fields else {}
        inner = self.inner.state_dict()
        return own | {"inner": inner} if inner else own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :class:`Weighting`; keys are found whatever their order."""
        if "inner" in state_dict:
            self.inner.load_state_dict(state_dict["inner"])
        if missing := [field for field in self.fields if state_dict and field not in state_dict]:
            raise ValueError(f"the checkpoint's weighting kept no {missing[0]!r}: {type(self).__name__} did not write it")
        if not self.fields or not state_dict:
            return
        self.learn_keys(dict.fromkeys([*self.keys, *state_dict["keys"]]))
        self.kept = torch.full_like(self.kept, torch.nan)
        places = torch.tensor([self.keys[key] for key in state_dict["keys"]], dtype=torch.long)
        for row, field in zip(self.kept, self.fields, strict=True):
            row[places] = state_dict[field].to(row)


class Pow3rWeighting(LearningWeighting):
    """Base weights times a moving average of contrast (POW3R, arXiv:2605.20164), see :func:`~lightning_focal.functional.pow3r_factors`.

    The average is kept by criterion key, over all processes; every category keeps the weight that it had. A criterion's category is its
    first ``category:`` tag; those without one are a category together.

    Args:
        strength: how far contrast moves the weights, in [0, 1]; 0 is static.
        decay: of the average, in [0, 1).
        clip: lowest and highest factor.
        epsilon: added to variances, in units of score squared.
    """

    fields = ("factor",)

    def __init__(
        self, strength: float = 0.5, decay: float = 0.9, clip: tuple[float, float] = (0.2, 3.0), epsilon: float = 1e-3
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        pow3r_factors(torch.zeros(0, 1, 0), torch.zeros(0, 0), strength=strength, clip=clip, epsilon=epsilon)  # checks them
        self.strength, self.decay, self.clip, self.epsilon = strength, decay, clip, epsilon

    def observe(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> None:
        """See :class:`Weighting`."""
        total, count = self.sums_by_key(scores, self._factors(scores, base) * (base > 0), base > 0)
        self.kept[0] = _averaged(self.kept[0], total / count, self.decay)

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`; a key without an average has the factor of its group."""
        known = self.by_criterion(self.kept[0], scores).to(base.dtype)
        factors = torch.where(known.isnan(), self._factors(scores, base), known)
        return pow3r_weights(base, factors, _categories(scores))

    def measures(self, scores: CriterionScores) -> dict[str, Tensor]:
        """See :class:`Weighting`."""
        return {"pow3r": self.by_criterion(self.kept[0], scores)}

    def _factors(self, scores: CriterionScores, base: Tensor) -> Tensor:
        categories = _categories(scores)
        return pow3r_factors(scores.scores, base, scores.mask, categories, self.strength, self.clip, self.epsilon)


class InformedWeighting(LearningWeighting):
    """Base weights times how far the judge's verdicts on a criterion can be trusted, under any weighting (ours).

    What the weighting inside is given as base weights is ``b_c J_c^power``, see :func:`~lightning_focal.functional.informed_weights`;
    ``J`` is logged as ``train/informedness/<key>``, the variance that a judge asked twice adds as ``train/judge_variance/<key>``. Where
    ``J`` comes from says ``informedness``:

    * a share: so many rollouts of a training batch, by seed, are judged twice, and ``J = sqrt(max(0, 1 - 2 d))`` with the rate ``d`` at
      which the two disagree, by criterion key, over all processes and over batches. A judge that always repeats itself (rules, a language
      model at temperature 0) has ``J`` = 1 by this measure, right or wrong;
    * a mapping of criterion names or keys to ``J`` in [0, 1]; those it does not name count in full;
    * a file that ``lightning_focal judge --agreement --json`` wrote: ``J`` = 1 - false positives - false negatives against gold.

    Args:
        weighting: turns informed base weights into the weights in force; takes them as they are by default.
        informedness: the share in (0, 1], the mapping, or the path of the file.
        power: >= 0; 0 = the weighting alone.
        decay: in [0, 1): counts of earlier batches lose so much a batch, where rollouts are judged twice.
    """

    fields = ("differing", "pairs")

    def __init__(
        self, weighting: Weighting | None = None, informedness: Informedness = 0.1, power: float = 2.0, decay: float = 0.95
    ) -> None:
        super().__init__(weighting)
        if self.inner.ignores_base:
            raise ValueError(f"informedness would be lost: {type(self.inner).__name__} takes no notice of base weights")
        if not power >= 0:
            raise ValueError(f"`power` must be >= 0, got {power}")
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        self.power, self.decay = power, decay
        self.given: dict[str, float] = {}
        if isinstance(informedness, str):
            self.given = _read_agreement(Path(informedness))
        elif isinstance(informedness, Mapping):
            self.given = dict(informedness)
            bad = {name: value for name, value in self.given.items() if not 0 <= value <= 1}
            if bad or not self.given:
                raise ValueError(f"`informedness` must map names to numbers in [0, 1], got {bad or self.given}")
        elif not 0 < informedness <= 1:
            raise ValueError(f"`informedness` must be a share in (0, 1], a mapping or a file, got {informedness}")
        else:
            self.repeats = max(self.repeats, float(informedness))

    def validate(self, names: Iterable[str]) -> None:
        """See :class:`Weighting`."""
        known = set(names)
        if known and (unknown := [name for name in self.given if name not in known]):
            raise ValueError(f"`informedness` names {unknown[0]!r}, no criterion of the data; those are {sorted(known)[:20]}")
        super().validate(known)

    def observe(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> None:
        """See :class:`Weighting`."""
        if not self.given:
            columns, n = key_columns(scores, self.keys), len(self.keys)
            repeated = torch.full_like(scores.scores, torch.nan) if scores.repeated is None else scores.repeated
            sums = disagreement_sums(scores.scores, repeated, scores.mask, columns, n)
            self.kept = self.decay * self.kept.nan_to_num(0.0) + all_reduce_sum(sums).cpu().double()
        super().observe(scores, saturation, self._informed(scores, base))

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        return self.inner(scores, saturation, self._informed(scores, base))

    def informedness(self, scores: CriterionScores) -> Tensor:
        """``[P, C]`` informedness of each criterion, NaN = not known."""
        if not self.given:
            return self.by_criterion(informedness(self.kept[0] / self.kept[1]), scores)
        nan, width = float("nan"), scores.scores.shape[2]
        triples = zip(scores.names, scores.keys, scores.log_keys, strict=True)
        rows = [[next((self.given[n] for n in of if n in self.given), nan) for of in zip(*row, strict=True)] for row in triples]
        rows = [row + [nan] * (width - len(row)) for row in rows]
        return torch.tensor(rows, dtype=torch.float64, device=scores.scores.device).reshape(len(rows), width)

    def measures(self, scores: CriterionScores) -> dict[str, Tensor]:
        """See :class:`Weighting`."""
        measures = {"informedness": self.informedness(scores)}
        if not self.given:  # on every process, also by one that had nothing to judge twice
            repeated = torch.full_like(scores.scores, torch.nan) if scores.repeated is None else scores.repeated
            measures["judge_variance"] = repeat_variance(scores.scores, repeated, scores.mask)
        return super().measures(scores) | measures

    def _informed(self, scores: CriterionScores, base: Tensor) -> Tensor:
        return informed_weights(base, self.informedness(scores), power=self.power)


class PatientWeighting(LearningWeighting):
    """Takes back the extra weight of a criterion that does not move, under any weighting (ours).

    A criterion key that got, or would have got, more than its base weight for ``patience`` batches while its saturation stayed
    within ``margin`` has no more than its base weight from then on, until its saturation moves. See
    ``functional.patience_step`` and ``functional.give_back``. Base weights are those that this weighting is given. Whether a key
    gives back is logged as ``train/gives_back/<key>``.

    Args:
        weighting: what is limited; base weights by default.
        patience: batches, >= 1.
        margin: how far a level must go to have moved, in units of score; above what the noise of a batch moves it.
    """

    fields = ("reference", "waited")

    def __init__(self, weighting: Weighting | None = None, patience: int = 20, margin: float = 0.05) -> None:
        super().__init__(weighting)
        if patience < 1 or not margin > 0:
            raise ValueError(f"`patience` must be >= 1 and `margin` > 0, got {patience} and {margin}")
        self.patience, self.margin = patience, margin

    def observe(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> None:
        """See :class:`Weighting`."""
        super().observe(scores, saturation, base)
        counts = base > 0
        weights = self.inner(scores, saturation, base)
        level, count, got, due = self.sums_by_key(scores, saturation * counts, counts, weights, base)
        extra = got > due * (1 + 1e-6)
        reference, waited = self.kept
        self.kept = torch.stack(patience_step(reference, waited.nan_to_num(0.0), level / count, extra, self.margin))

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        return give_back(self.inner(scores, saturation, base), base, self._spent(scores) > 0)

    def measures(self, scores: CriterionScores) -> dict[str, Tensor]:
        """See :class:`Weighting`."""
        return super().measures(scores) | {"gives_back": self._spent(scores)}

    def _spent(self, scores: CriterionScores) -> Tensor:
        spent = torch.where(self.kept[1].isnan(), torch.nan, (self.kept[1] >= self.patience).double())
        return self.by_criterion(spent, scores)


class RubricDropout(LearningWeighting):
    """Leaves some criteria of each prompt out of a step, under any weighting (Rubric Dropout, arXiv:2608.11669).

    One draw a prompt and batch, the same for its whole group, on any number of processes and after a resumption
    (see :func:`~lightning_focal.functional.rubric_dropout`). Held-out rollouts are scored on whole rubrics. Where all that weighs would be
    dropped nothing is (ours).

    Args:
        weighting: weighs the criteria that are left; base weights by default.
        share: of a prompt's criteria that is dropped, rounded down; the paper's are 0.3 to 0.5.
        least: criteria that are kept at least.
    """

    def __init__(self, weighting: Weighting | None = None, share: float = 0.4, least: int = 3) -> None:
        super().__init__(weighting)
        rubric_dropout(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool), share, least)  # checks them
        self.share, self.least = share, least

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        if scores.seeds is None:
            return self.inner(scores, saturation, base)
        noise = torch.zeros(base.shape)
        for row, names, seed in zip(noise, scores.names, scores.seeds.tolist(), strict=True):
            # As many as the rubric is long: a draw must not depend on the padding of the batch.
            row[: len(names)] = torch.rand(len(names), generator=torch.Generator().manual_seed(seed))
        stays = base * rubric_dropout(noise.to(base.device), base > 0, self.share, self.least)
        return self.inner(scores, saturation, base_weights(torch.where(stays.sum(-1, keepdim=True) > 0, stays, base)))


def refined(weighting: Weighting, informedness: Informedness | None = None, patience: int = 0) -> Weighting:
    """Return a weighting with the wrappers that are asked for; ``patience`` 0 = without."""
    if patience < 0:
        raise ValueError(f"`patience` must be >= 0, got {patience}")
    if informedness is not None:
        weighting = InformedWeighting(weighting, informedness)
    return PatientWeighting(weighting, patience) if patience else weighting


def _averaged(old: Tensor, new: Tensor, decay: float) -> Tensor:
    """Moving average; NaN in ``new`` leaves the old one, a first value is not blended with anything."""
    return torch.where(new.isnan(), old, torch.where(old.isnan(), new, decay * old + (1 - decay) * new))


def _categories(scores: CriterionScores) -> Tensor | None:
    """``[P, C]`` number of each criterion's category within its prompt; None = no criterion has one."""
    if not any(tag.startswith("category:") for tags in scores.tags for of in tags for tag in of):
        return None
    rows = torch.zeros(scores.mask.shape[0], scores.mask.shape[2], dtype=torch.long)
    for row, tags in zip(rows, scores.tags, strict=True):
        names = [next((tag for tag in of if tag.startswith("category:")), "") for of in tags]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        row[: len(names)] = torch.tensor([numbers[name] for name in names], dtype=torch.long)
    return rows.to(scores.scores.device)


def _read_agreement(path: Path) -> dict[str, float]:
    """Informedness by criterion of a file that ``lightning_focal judge --agreement --json`` wrote."""
    if not path.is_file():
        raise FileNotFoundError(f"`informedness` must be an existing file, got {str(path)!r} (looked in {Path.cwd()})")
    labels = ("not_met", "met")
    try:
        criteria = json.loads(path.read_text(encoding="utf-8"))["criteria"]
        counts = {key: [[of["confusion"][a][b] for b in labels] for a in labels] for key, of in criteria.items()}
        values = {key: float(informedness_of_confusion(torch.tensor(of))) for key, of in counts.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        expected = "what `lightning_focal judge --agreement FILE --json` writes: `criteria`, each with its `confusion`"
        raise ValueError(f"`informedness`: {path} is not {expected} ({type(error).__name__}: {error})") from None
    known = {key: value for key, value in values.items() if value == value}
    if not known:
        raise ValueError(f"`informedness`: {path} has no criterion with gold verdicts of both kinds, met and not met")
    return known
