"""The data that flows through one step: prompts -> rollouts -> criterion scores -> shaped rewards.

Axes: ``P`` prompts, ``G`` rollouts of a prompt (its *group*), ``C`` criteria (padded to the longest rubric of the batch),
``T`` response tokens, ``L`` prompt tokens. Groups stay whole: ``P`` is sharded over ranks, ``G`` and ``C`` never are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from lightning_focal.keys import level_key, log_key
from lightning_focal.thoughts import Response, split_thought

__all__ = ["CriterionScores", "Message", "Prompts", "Rollouts", "Shaped"]

Message = Mapping[str, str]
"""One chat turn: ``{"role": "user", "content": "..."}``."""


@dataclass(frozen=True)
class _Data:
    def to(self, device: torch.device | str) -> Self:
        """Return a copy with every tensor on ``device``; other fields are shared."""
        moved = copy.copy(self)  # not built anew: what was checked once is not read back from a device
        vars(moved).update({name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)})
        return moved


def _expect(name: str, value: Tensor, shape: tuple[int | None, ...], axes: str, dtype: torch.dtype | None = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor [{axes}], got {type(value).__name__}")
    if value.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, value.shape, strict=True)):
        wanted = ", ".join("?" if size is None else str(size) for size in shape)
        raise ValueError(f"`{name}` must be [{axes}] = ({wanted}), got {tuple(value.shape)}")
    if dtype is not None and value.dtype != dtype:
        raise TypeError(f"`{name}` must be {dtype}, got {value.dtype}")


def _expect_len(name: str, value: Sequence[Any], length: int, what: str) -> None:
    if len(value) != length:
        raise ValueError(f"`{name}` must hold one entry per {what} ({length}), got {len(value)}")


def _expect_rows(name: str, rows: Sequence[Sequence[Any]], names: Sequence[Sequence[str]]) -> None:
    """Raise unless there is a row for each of ``names``, with one entry per criterion."""
    _expect_len(name, rows, len(names), "prompt")
    for i, row in enumerate(rows):
        _expect_len(f"{name}[{i}]", row, len(names[i]), "criterion")


@dataclass(frozen=True)
class Prompts(_Data):
    """A batch of ``P`` prompts.

    Args:
        ids: unique within the data set, stable over runs; seeds are derived from them.
        messages: one chat (a sequence of messages) a prompt.
        rubrics: one :class:`~lightning_focal.rubrics.Rubric` a prompt, or ``None`` where there is none.
        answers: gold answers where known, else ``None``.
        tokens: the chats as token ids, filled once by the module; unpadded.
        extra: further columns of the data set, one mapping a prompt.
        questions: name of what each prompt asks; prompts that share one are views of one question. Empty = each its own.
        views: 0 = the original, 1 = a rephrasing; the loss is a sum over views (arXiv:2508.00410 eq. 8). Empty = all originals.
        graders: the data's own scorer of an extracted answer (``None`` = none was found), in [0, 1]; or ``None``.

    Raises:
        ValueError: if two fields disagree about ``P``, an id occurs twice, or a view of a question.

    >>> Prompts(("a", "a/rephrased"), ((), ()), questions=("a", "a"), views=(0, 1)).partners
    (1, 0)
    """

    ids: tuple[str, ...]
    messages: tuple[tuple[Message, ...], ...]
    rubrics: tuple[Any, ...] = ()
    answers: tuple[str | None, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    extra: tuple[Mapping[str, Any], ...] = ()
    questions: tuple[str, ...] = ()
    views: tuple[int, ...] = ()
    graders: tuple[Callable[[str | None], float] | None, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"`ids` must be unique within a batch, got {list(self.ids)}")
        for name, value in vars(self).items():
            if name == "messages" or value:
                _expect_len(name, value, len(self.ids), "prompt")
        if not {*self.views} <= {0, 1}:
            raise ValueError(f"`views` must be 0 (the original) or 1 (its rephrasing), got {sorted({*self.views})}")
        if self.questions and self.views and len(set(zip(self.questions, self.views, strict=True))) != len(self.ids):
            raise ValueError("`questions` and `views` must not repeat: a batch holds each view of a question once")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def partners(self) -> tuple[int | None, ...]:
        """``[P]`` row of the next view of each prompt's question, ``None`` where it is the only one."""
        rows: dict[str, list[int]] = {}
        for row, question in enumerate(self.questions or self.ids):
            rows.setdefault(question, []).append(row)
        after = {row: views[(i + 1) % len(views)] for views in rows.values() for i, row in enumerate(views) if len(views) > 1}
        return tuple(after.get(row) for row in range(len(self.ids)))


@dataclass(frozen=True)
class Rollouts(_Data):
    """``G`` responses to each of ``P`` prompts.

    Args:
        prompts: what was answered.
        texts: decoded responses, ``[P][G]``: without special tokens other than the marks of a thought, with the opening mark before them
            where the prompt ended in one.
        prompt_ids: ``[P, L]`` int64, **left**-padded.
        prompt_mask: ``[P, L]`` bool, True = a real token.
        response_ids: ``[P, G, T]`` int64, **right**-padded; an eos that ended the response is part of it.
        response_mask: ``[P, G, T]`` bool, True = a token of the response.
        truncated: ``[P, G]`` bool, True = the length limit cut it off before an eos.
        logp: ``[P, G, T]`` float32, ``log softmax(logits / temperature)`` of the tokens before ``top_k`` and ``top_p`` (temperature 1
            where greedy), as an update computes them; or None.
        version: number of policy updates behind the weights that wrote these responses.
        thinks: thoughts are told from answers; False: a text is an answer as it stands.
        thought_tokens: ``[P, G]`` int64 tokens of the thoughts, 0 where there is none; or None.
        openings: ``[P]`` the mark by which each prompt opened a thought, as it stands before its texts, or empty; none at all = unknown.
        versions: ``[P, G]`` int64 the same as ``version`` of each response, where some are older ones that were kept; their ``logp`` is of
            the policy that wrote them. None = all are new.
        sampled_mask: ``[P, G, T]`` bool, True = a token that the policy drew, False = an environment's or padding; the loss, its means and
            lengths are of these, attention is of ``response_mask``. None = the policy drew every token of a response.
        trajectories: ``[P][G]`` what was said after the prompt, message by message, where there were turns; ``texts`` then are the last
            of the policy's, without tool calls. None = one turn.
        own_scores: ``[P][G]`` an environment's own scores in [0, 1] by name, None = it failed; empty without an environment.
        episodes: ``[P][G]`` the environment's episodes themselves, for a source of scores that goes on with them; likewise.
    """

    prompts: Prompts
    texts: tuple[tuple[str, ...], ...]
    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    truncated: Tensor
    logp: Tensor | None = None
    version: int = 0
    thinks: bool = True
    thought_tokens: Tensor | None = None
    openings: tuple[str, ...] = ()
    versions: Tensor | None = None
    sampled_mask: Tensor | None = None
    trajectories: tuple[tuple[tuple[Message, ...], ...], ...] | None = None
    own_scores: tuple[tuple[Mapping[str, float | None], ...], ...] = ()
    episodes: tuple[tuple[Any, ...], ...] = ()

    def __post_init__(self) -> None:
        p = len(self.prompts)
        _expect("response_ids", self.response_ids, (p, None, None), "P, G, T", torch.int64)
        g, t = self.response_ids.shape[1:]
        _expect("response_mask", self.response_mask, (p, g, t), "P, G, T", torch.bool)
        _expect("truncated", self.truncated, (p, g), "P, G", torch.bool)
        _expect("prompt_ids", self.prompt_ids, (p, None), "P, L", torch.int64)
        _expect("prompt_mask", self.prompt_mask, tuple(self.prompt_ids.shape), "P, L", torch.bool)
        if self.logp is not None:
            _expect("logp", self.logp, (p, g, t), "P, G, T", torch.float32)
        if self.thought_tokens is not None:
            _expect("thought_tokens", self.thought_tokens, (p, g), "P, G", torch.int64)
        if self.versions is not None:
            _expect("versions", self.versions, (p, g), "P, G", torch.int64)
        if self.sampled_mask is not None:
            _expect("sampled_mask", self.sampled_mask, (p, g, t), "P, G, T", torch.bool)
            if (self.sampled_mask & ~self.response_mask).any():
                raise ValueError("`sampled_mask` must be False wherever `response_mask` is: padding is no token that was drawn")
        _expect_len("texts", self.texts, p, "prompt")
        for texts in self.texts:
            _expect_len("texts", texts, g, "rollout")

    @property
    def group_size(self) -> int:
        """``G``."""
        return int(self.response_ids.shape[1])

    @property
    def responses(self) -> tuple[tuple[Response, ...], ...]:
        """``[P][G]`` thought and answer of each response, see :func:`~lightning_focal.thoughts.split_thought`."""
        part = split_thought if self.thinks else (lambda text: Response(None, text))
        return tuple(tuple(map(part, texts)) for texts in self.texts)

    @property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """``[P][G]`` what is judged of each response: all but its thought; empty where a thought did not end."""
        return tuple(tuple(response.answer for response in group) for group in self.responses)

    @property
    def own(self) -> Tensor:
        """``[P, G]`` bool, True = written by the policy that is trained, False = an older response that was kept."""
        return torch.ones_like(self.truncated) if self.versions is None else self.versions == self.version

    @property
    def sampled(self) -> Tensor:
        """``[P, G, T]`` bool, True = a token that the policy drew."""
        return self.response_mask if self.sampled_mask is None else self.sampled_mask

    @property
    def lengths(self) -> Tensor:
        """Tokens of each response that the policy drew, ``[P, G]`` int64."""
        return self.sampled.sum(-1)


@dataclass(frozen=True)
class CriterionScores(_Data):
    """How well each rollout meets each criterion: the centre of the library.

    Args:
        scores: ``[P, G, C]`` float in [0, 1], larger is better for every criterion (faults are already turned round).
        mask: ``[P, G, C]`` bool, True = this score counts. False: padding, not applicable, or the judge failed.
        weights: ``[P, C]`` float >= 0, the rubric's own ("prior") weights; each row sums to 1 over its criteria, padding is 0.
        names: ``[P][<=C]`` names of the criteria; a row shorter than ``C`` is padded.
        tags: ``[P][<=C]`` tags of each criterion.
        failed: ``[P, G, C]`` bool, True = the judge failed here (always masked), or None when nothing failed.
        outcomes: ``[P][G][<=C]`` verdicts in words (``met``, ``not_met``, ``graded``, ``not_applicable``, ``error``), or None.
        reasons: ``[P][G][<=C]`` the judge's reasons, or None.
        measures: what else is worth watching, by name: tensors of any shape, NaN = not known; the mean over what is known is
            logged as ``stage/<name>``. The same names in every batch and on every rank.
        repeated: ``[P, G, C]`` scores of a second judgement of the same, NaN where there is none; None = nothing was judged twice.
        seeds: ``[P]`` int64 seed of what a stage draws for each prompt, a function of run, batch and prompt; None = nothing is drawn,
            as with held-out prompts.

    Raises:
        ValueError: on a shape that does not fit, a score outside [0, 1] or not finite where the mask is True, a negative weight, a
            mask that is True at padding or where the judge failed.
    """

    scores: Tensor
    mask: Tensor
    weights: Tensor
    names: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[tuple[str, ...], ...], ...] = ()
    failed: Tensor | None = None
    outcomes: tuple[tuple[tuple[str, ...], ...], ...] | None = field(default=None, repr=False)
    reasons: tuple[tuple[tuple[str, ...], ...], ...] | None = field(default=None, repr=False)
    measures: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    repeated: Tensor | None = None
    seeds: Tensor | None = None

    def __post_init__(self) -> None:
        _expect("scores", self.scores, (None, None, None), "P, G, C")
        p, g, c = self.scores.shape
        for name, value, dtype in (
            ("mask", self.mask, torch.bool),
            ("failed", self.failed, torch.bool),
            ("repeated", self.repeated, None),
        ):
            if value is not None:
                _expect(name, value, (p, g, c), "P, G, C", dtype)
        if self.seeds is not None:
            _expect("seeds", self.seeds, (p,), "P", torch.int64)
        _expect("weights", self.weights, (p, c), "P, C")
        if not self.scores.is_floating_point() or not self.weights.is_floating_point():
            raise TypeError(f"`scores` and `weights` must be floating point, got {self.scores.dtype} and {self.weights.dtype}")
        _expect_len("names", self.names, p, "prompt")
        for i, names in enumerate(self.names):
            if len(names) > c:
                raise ValueError(f"`names[{i}]` must hold at most C = {c} entries, got {len(names)}")
        if self.tags:
            _expect_rows("tags", self.tags, self.names)
        for name in ("outcomes", "reasons"):
            words = getattr(self, name)
            if words is not None:
                _expect_len(name, words, p, "prompt")
                for i, group in enumerate(words):
                    _expect_len(f"{name}[{i}]", group, g, "rollout")
                    _expect_rows(f"{name}[{i}]", group, self.names[i : i + 1] * g)
        if (self.mask.any(1) & ~self.present).any():
            raise ValueError("`mask` must be False at padding, got True behind the last of `names`")
        if self.failed is not None and (self.mask & self.failed).any():
            raise ValueError("`mask` must be False wherever `failed` is True: a failed judgement has no score")
        counted = self.scores[self.mask]
        if not ((counted >= 0) & (counted <= 1)).all():  # NaN fails this too
            raise ValueError("`scores` must be finite and in [0, 1] wherever `mask` is True")
        if self.repeated is not None and not (self.repeated.isnan() | ((self.repeated >= 0) & (self.repeated <= 1))).all():
            raise ValueError("`repeated` must be in [0, 1], or NaN where nothing was judged twice")
        if not ((self.weights >= 0) & (self.weights < torch.inf)).all():
            raise ValueError("`weights` must be finite and >= 0")

    @classmethod
    def of_rewards(
        cls,
        rewards: Tensor,
        names: Sequence[str],
        weights: Sequence[float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        **fields: Any,
    ) -> Self:
        """Make scores of what reward functions gave, each a criterion: ``(r - low) / (high - low)``.

        Args:
            rewards: ``[P, G, C]``, NaN = the function gave none, which is masked.
            names: ``[C]`` of the functions, each once.
            weights: ``[C]`` by which rewards are summed, all 1 by default. A criterion weighs ``|weight| (high - low)``; a negative
                weight turns its score round.
            bounds: lowest and highest reward of a function, by its name; ``(0, 1)`` by default.
            **fields: the other ones.

        Raises:
            ValueError: on names that repeat or are not known, bounds that are none, weights that are all 0, or a reward outside its bounds.

        >>> rewards = torch.tensor([[[1.0, -0.25], [torch.nan, 0.0]]])
        >>> made = CriterionScores.of_rewards(rewards, ["right", "length"], [3.0, 1.0], {"length": (-1.0, 0.0)})
        >>> made.scores.tolist(), made.mask.tolist(), made.weights.tolist()
        ([[[1.0, 0.75], [0.0, 1.0]]], [[[True, True], [False, True]]], [[0.75, 0.25]])
        """
        bounds = bounds or {}
        if len(set(names)) != len(names):
            raise ValueError(f"reward functions must have different names (set `__name__`), got {list(names)}")
        for name, pair in bounds.items():
            if name not in names or not -float("inf") < pair[0] < pair[1] < float("inf"):
                raise ValueError(f"`bounds` must map names of {list(names)} to (lowest, highest), got {name!r}: {tuple(pair)}")
        low, high = rewards.new_tensor([bounds.get(name, (0.0, 1.0)) for name in names]).unbind(-1)
        for p, g, c in ((rewards < low) | (rewards > high)).nonzero().tolist():
            got = f"the reward function {names[c]!r} gave {rewards[p, g, c]:g}, outside ({low[c]:g}, {high[c]:g})"
            raise ValueError(f"{got}: say which rewards it can give, bounds={{{names[c]!r}: (lowest, highest)}}")
        signed = torch.ones_like(low) if weights is None else rewards.new_tensor(weights)
        if not signed.any():
            raise ValueError(f"`weights` of {list(names)} must not all be zero")
        scores = torch.where(signed < 0, high - rewards, rewards - low) / (high - low)
        base = torch.nn.functional.normalize(signed * (high - low), p=1, dim=0).abs()
        p, mask = len(rewards), ~rewards.isnan()
        return cls(scores.masked_fill(~mask, 0), mask, base.expand(p, -1), (tuple(names),) * p, **fields)

    @property
    def present(self) -> Tensor:
        """``[P, C]`` bool, True = a criterion of the rubric, False = padding."""
        lengths = torch.tensor([len(names) for names in self.names], device=self.scores.device)
        return torch.arange(self.scores.shape[2], device=self.scores.device) < lengths[:, None]

    @property
    def valid(self) -> Tensor:
        """``[P, G]`` bool, True = at least one criterion of this rollout was judged, whatever it weighs; see :meth:`judged`."""
        return self.mask.any(-1)

    def judged(self, weights: Tensor) -> Tensor:
        """``[P, G]`` bool, True = this rollout was judged on at least one criterion that ``weights`` ``[P, C]`` give weight to.

        Where it is False a weighted reward has nothing to say; its 0 is no score.
        """
        return (self.mask & (weights > 0)[:, None]).any(-1)

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """``[P][<=C]`` the name under which each criterion's level is kept, see :func:`level_key`."""
        return self._by(level_key)

    @property
    def log_keys(self) -> tuple[tuple[str, ...], ...]:
        """``[P][<=C]`` the name under which each criterion is logged, see :func:`log_key`."""
        return self._by(log_key)

    def _by(self, key: Callable[[str, Sequence[str]], str]) -> tuple[tuple[str, ...], ...]:
        tags = self.tags or tuple(tuple(() for _ in names) for names in self.names)
        return tuple(tuple(map(key, n, t)) for n, t in zip(self.names, tags, strict=True))


@dataclass(frozen=True)
class Shaped(_Data):
    """What a strategy makes of :class:`CriterionScores`.

    Args:
        rewards: ``[P, G]`` the shaped reward; 0 where not valid.
        advantages: ``[P, G]`` centred; exactly 0 where not valid.
        weights: ``[P, C]`` weights in force, rows sum to 1 (or are all 0 where nothing was judged).
        saturation: ``[P, C]`` in [0, 1]; 0 at padding.
        static: ``[P, G]`` the reward under the base weights, shown beside every other reward.
        valid: ``[P, G]`` bool, True = this rollout takes part in the update.
        measures: what else is worth watching of each criterion, by name: ``[P, C]``, NaN = not known; the mean over what is known is
            logged as ``stage/<name>/<key>``. The same names on every rank.
    """

    rewards: Tensor
    advantages: Tensor
    weights: Tensor
    saturation: Tensor
    static: Tensor
    valid: Tensor
    measures: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _expect("rewards", self.rewards, (None, None), "P, G")
        p, g = self.rewards.shape
        for name in ("advantages", "static"):
            _expect(name, getattr(self, name), (p, g), "P, G")
        _expect("valid", self.valid, (p, g), "P, G", torch.bool)
        _expect("weights", self.weights, (p, None), "P, C")
        _expect("saturation", self.saturation, (p, self.weights.shape[1]), "P, C")
        for name, values in self.measures.items():
            _expect(f"measures[{name!r}]", values, (p, self.weights.shape[1]), "P, C")
