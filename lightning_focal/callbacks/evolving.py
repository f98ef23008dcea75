"""Rubrics that grow while a policy trains: criteria are proposed for each prompt, and retired once they say nothing more."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts, batches_done
from lightning_focal.files import set_aside_of, write_text
from lightning_focal.judges import JudgeRequest, verdicts_to_scores
from lightning_focal.rewards import RewardStrategy, find_strategy
from lightning_focal.rewards.sources import Answerer, RubricScores, ScoreSource
from lightning_focal.rubrics import Criterion, Rubric
from lightning_focal.rubrics.proposals import PROPOSAL_FORMAT, Known, Rejected, proposal_chat, read_proposals, screen
from lightning_focal.servers import AgainError, ChatClient, ChatError
from lightning_focal.types import CriterionScores, Message, Prompts, Rollouts

__all__ = ["EvolvingRubrics"]

_log = logging.getLogger(__name__)
_LOGGED_AS = "evolved"
_COUNTED = ("proposed", "kept", "retired", "failed")

Event = dict[str, Any]


class EvolvingRubrics(RolloutObserver):
    """Adds criteria to the rubrics of training prompts, and retires them (ours).

    After each training batch a model behind an OpenAI-compatible server is shown, for every prompt with room for a criterion and rollouts
    of different reward, up to two rollouts above and two below the mean reward of the group, and proposes criteria that tell them apart. The
    strategy's judge tries each on the whole group. Kept are those that do not judge all alike and do not repeat another one, retired
    ones included (:func:`~lightning_focal.rubrics.proposals.screen`). From the prompt's next visit on they are part of its rubric.
    A criterion that scored all rollouts of its prompt alike, or ``saturated`` and more on average, ``visits`` times in a row is retired.

    Held-out prompts keep their rubrics. Evolved criteria are logged together under the key ``evolved``; each has a level of its
    own, which begins as that of its group. ``train/rubrics/proposed``, ``kept``, ``retired`` and ``failed`` count over a batch and all
    processes, ``active`` over all prompts. A proposal or judgement that fails is counted and never stops a run. Everything that happens to
    a criterion is a line of ``rubrics/evolved.jsonl`` in the run folder; what is active and what was retired is in the checkpoint.

    Args:
        url: of the API that proposes, such as ``http://localhost:8000/v1``.
        model: as the server calls it.
        key_env: name of the environment variable that holds the key; None = the server wants none.
        most: evolved criteria of a prompt that are active at a time.
        share: of the prior weight of a rubric that all its evolved criteria have together, in (0, 1), by their points.
        saturated: mean score over a group, in (0, 1], from which on a criterion is saturated.
        visits: of a prompt in a row, with its criterion saturated or unanimous, that retire it.
        body: further parameters of each request, ``{temperature: 0.7, max_tokens: 1024}``; ``{response_format: null}`` for a server that
            refuses a schema.
        concurrency: requests at a time, of this process.
        attempts: times a request is tried, replies without a list of criteria included.
        timeout_s: seconds for one try.
        deadline_s: seconds for all requests of a batch.

    Raises:
        ValueError: on an argument out of range; in `setup` where the strategy does not score by rubrics, weighs criteria by a mapping of
            names, or has a judge that cannot judge a criterion without a check.

    >>> evolving = EvolvingRubrics("http://localhost:8000/v1", "tiny", share=0.25)
    >>> evolving.apply(
    ...     [{"prompt": "a", "action": "kept", "criterion": {"name": "dose", "description": "Names the dose.", "points": 5.0}}], batch=0
    ... )
    >>> rubric = evolving.rubric("a", Rubric((Criterion("right", "Is right.", 2), Criterion("short", "Is short.", 1))))
    >>> rubric.names, rubric.prior_weights
    (('right', 'short', 'dose'), (0.5, 0.25, 0.25))
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str | None = None,
        most: int = 3,
        share: float = 0.3,
        saturated: float = 0.9,
        visits: int = 2,
        body: dict[str, Any] | None = None,
        concurrency: int = 8,
        attempts: int = 3,
        timeout_s: float = 120.0,
        deadline_s: float = 600.0,
    ) -> None:
        for name, count in {"most": most, "visits": visits}.items():
            if count < 1:
                raise ValueError(f"`{name}` must be >= 1, got {count}")
        if not 0 < share < 1 or not 0 < saturated <= 1:
            raise ValueError(f"`share` must be in (0, 1) and `saturated` in (0, 1], got {share} and {saturated}")
        self.most, self.share, self.saturated, self.visits = most, share, saturated, visits
        self.body, self.deadline_s = dict(body or {}), deadline_s
        limits: dict[str, Any] = {
            "concurrency": concurrency,
            "attempts": attempts,
            "timeout_s": timeout_s,
            "deadline_s": deadline_s,
        }
        self._client = bind(ChatClient, url, model, key_env, **limits)
        self._client()  # says what is wrong with the arguments
        self.criteria: dict[str, list[Event]] = {}
        self._strategy: RewardStrategy | None = None

    # -- rubrics ----------------------------------------------------------------------------------------------------------

    def active(self, prompt: str) -> list[Event]:
        """Return the active criteria of a prompt: ``name``, ``description``, ``points``, ``tired`` (visits in a row without use)."""
        return [one for one in self.criteria.get(prompt, ()) if not one["retired"]]

    def rubric(self, prompt: str, rubric: Rubric) -> Rubric:
        """Return a rubric with the active criteria of its prompt."""
        active = self.active(prompt)
        if not active:
            return rubric
        own, added = (
            sum(abs(points) for points in of) for of in ([c.points for c in rubric.criteria], [c["points"] for c in active])
        )
        unit = self.share / (1 - self.share) * own / added
        return replace(rubric, criteria=(*rubric.criteria, *(replace(_criterion(c), points=c["points"] * unit) for c in active)))

    def apply(self, events: Sequence[Event], batch: int) -> None:
        """Take in what happened in a batch, on every process the same."""
        for event in events:
            of_prompt = self.criteria.setdefault(event["prompt"], [])
            if event["action"] == "kept":
                of_prompt.append({**event["criterion"], "since": batch, "tired": 0, "retired": ""})
            elif event["action"] in ("visited", "retired"):
                one = next(one for one in of_prompt if one["name"] == event["criterion"]["name"])
                one |= {"tired": event["tired"], "retired": event["reason"]}
        if self._strategy is not None:
            self._strategy.learn_criteria(_criterion(event["criterion"]) for event in events if event["action"] == "kept")

    # -- a batch ----------------------------------------------------------------------------------------------------------

    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """Look at the criteria that were judged, and have others proposed."""
        if scored.stage != "train":
            return
        batch, before = batches_done(trainer), dict[str, Counter[str]]()
        events = [event for part in filter(None, (scored, scored.rejected)) for event in self._visited(part)]
        for event in events:
            before.setdefault(event["prompt"], Counter())[event["action"]] += 1
        room = [self.most - len(self.active(p)) + before.get(p, Counter())["retired"] for p in scored.rollouts.prompts.ids]
        events += self._proposed(scored, room)
        gather = cast(Any, pl_module).processes.gather
        events = sorted(gather(events), key=lambda event: str(event["prompt"]))  # a prompt is on one process
        self.apply(events, batch)
        counts = Counter(event["action"] for event in events)
        counts["proposed"] = counts["kept"] + counts["rejected"]
        logged = {name: float(counts[name]) for name in _COUNTED} | {
            "active": float(sum(map(len, map(self.active, self.criteria))))
        }
        pl_module.log_dict({f"train/rubrics/{name}": value for name, value in logged.items()})
        for reason in {event["reason"]: None for event in events if event["action"] == "failed"}:
            _log.warning("no criteria for a prompt in batch %d: %s", batch, reason)
        self._write(trainer, batch, [event for event in events if event["action"] != "visited"])

    def _visited(self, scored: ScoredRollouts) -> Iterator[Event]:
        """Say of each active criterion that was judged whether it still tells rollouts apart."""
        for p, prompt in enumerate(scored.rollouts.prompts.ids):
            for one in self.active(prompt):
                if one["name"] not in scored.scores.names[p]:  # kept by this batch
                    continue
                judged = [s for s in _scores(scored.scores, p, scored.scores.names[p].index(one["name"])) if s is not None]
                if not judged:
                    continue
                full, alike = sum(judged) / len(judged) >= self.saturated, max(judged) == min(judged)
                tired = one["tired"] + 1 if full or alike else 0
                reason = "" if tired < self.visits else "saturated" if full else "unanimous"
                event = {"prompt": prompt, "action": "retired" if reason else "visited", "reason": reason, "tired": tired}
                yield event | {"criterion": {name: one[name] for name in ("name", "description", "points")}}

    def _proposed(self, scored: ScoredRollouts, room: Sequence[int]) -> list[Event]:
        """Have criteria proposed for the groups of this process, and try them."""
        asked: dict[int, tuple[Message, ...]] = {}
        known: dict[int, list[Known]] = {}
        rollouts, prompts = scored.rollouts, scored.rollouts.prompts
        for p, prompt in enumerate(prompts.ids):
            good, bad = _apart(rollouts.answers[p], scored.shaped.rewards[p].tolist(), scored.shaped.valid[p].tolist())
            if room[p] > 0 and good:
                rubric = self.rubric(prompt, prompts.rubrics[p]).criteria
                columns = {name: _scores(scored.scores, p, c) for c, name in enumerate(scored.scores.names[p])}
                known[p] = [Known(c.description or c.name, columns.get(c.name)) for c in rubric]
                known[p] += [Known(one["description"]) for one in self.criteria.get(prompt, ()) if one["retired"]]
                asked[p] = proposal_chat(prompts.messages[p], good, bad, room[p], [each.words for each in known[p]])
        replies = self._ask(asked)
        events = [
            {"prompt": prompts.ids[p], "action": "failed", "reason": str(replies[p])} for p in asked if not _read(replies[p])
        ]
        found = {p: read for p in asked if (read := _read(replies[p]))}
        try:
            scores = self._try(rollouts, {p: criteria for p, (criteria, _) in found.items()})
        except ChatError as error:
            return events + [{"prompt": prompts.ids[p], "action": "failed", "reason": str(error)} for p in found]
        for p, (criteria, malformed) in found.items():
            kept, rejected = screen(criteria, scores[p], room[p], known[p])
            events += [_event(prompts.ids[p], "rejected", one.reason, {"description": one.what}) for one in malformed + rejected]
            for criterion in kept:
                mark = hashlib.sha256(json.dumps([prompts.ids[p], criterion.description]).encode()).hexdigest()[:8]
                fields = {"name": f"{criterion.name}.{mark}", "description": criterion.description, "points": criterion.points}
                events.append(_event(prompts.ids[p], "kept", "", fields))
        return events

    def _ask(self, asked: dict[int, tuple[Message, ...]]) -> dict[int, str | ChatError]:
        """The reply to each chat, or why there is none."""
        replies: dict[int, str | ChatError] = {
            p: ChatError(f"no reply within the {self.deadline_s:g} s of the batch") for p in asked
        }
        if not asked:
            return replies

        def readable(reply: Any) -> str:
            try:
                read_proposals(reply.text)
            except ValueError as error:
                raise AgainError(str(error)) from None
            return str(reply.text)

        async def job(p: int) -> tuple[int, str | ChatError]:
            request = {"messages": asked[p], "response_format": PROPOSAL_FORMAT, **self.body}
            try:
                return p, await client.ask(lambda: request, readable)
            except ChatError as error:
                return p, error

        waiting: Iterator[Coroutine[Any, Any, tuple[int, str | ChatError]]] = map(job, asked)
        with self._client() as client:
            return replies | dict(client.run(lambda: next(waiting, None), self.deadline_s))

    def _try(self, rollouts: Rollouts, proposed: dict[int, list[Criterion]]) -> dict[int, list[tuple[float | None, ...]]]:
        """Scores of each proposed criterion over its group, by prompt."""
        requests = [
            JudgeRequest(tuple(rollouts.prompts.messages[p]), text, tuple(criteria), rollouts.thinks)
            for p, criteria in proposed.items()
            if criteria
            for text in rollouts.texts[p]
        ]
        verdicts = iter(self._source.judge.judge(requests) if requests else [])
        scores: dict[int, list[tuple[float | None, ...]]] = {}
        for p, criteria in proposed.items():
            given = [next(verdicts) for _ in rollouts.texts[p]] if criteria else []
            named = Rubric(tuple(replace(c, name=str(i)) for i, c in enumerate(criteria))) if criteria else None
            found = verdicts_to_scores([given], [named]) if named else None
            scores[p] = [_scores(found, 0, c) for c in range(len(criteria))] if found else []
        return scores

    # -- the run ----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the evolved criteria between training prompts and the judge, and look whether the server is there."""
        strategy = self._strategy = find_strategy(trainer)
        source = strategy.source.inner if isinstance(strategy.source, _EvolvedScores) else strategy.source
        name = type(strategy).__name__
        if not isinstance(source, RubricScores):
            raise ValueError(f"EvolvingRubrics needs a strategy that scores by rubrics, {name} scores by {type(source).__name__}")
        self._source, strategy.source = source, _EvolvedScores(source, self)
        strategy.learn_keys([_LOGGED_AS])
        if stage != "fit":
            return
        if isinstance(strategy.weights, dict):
            raise ValueError(
                f"`reward.weights` of {name} must be 'prior' or 'uniform' with EvolvingRubrics: nobody knows its names"
            )
        try:
            source.judge.validate(Criterion("greets", "Greets the reader."))
        except ValueError as error:
            raise ValueError(
                f"EvolvingRubrics needs a judge of criteria in words as `reward.judge`, such as RoutedJudge with an HTTPJudge: {error}"
            ) from error
        with self._client() as client:
            client.start(client.models()).result()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut off what a run wrote behind the checkpoint that this one goes on from."""
        path, done = self._file(trainer), batches_done(trainer)  # a collective: asked for on every process
        if self._strategy is not None:
            self._strategy.learn_criteria(map(_criterion, (one for some in self.criteria.values() for one in some)))
        if trainer.is_global_zero and path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _batch_of(line) < done]
            if len(kept) < len(lines):
                set_aside_of(trainer, path.parent.parent, done).keep(path, copy=True)
                write_text(path, "".join(kept))

    def _write(self, trainer: Trainer, batch: int, events: Sequence[Event]) -> None:
        path = self._file(trainer)
        if not trainer.is_global_zero or path is None or not events:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps({"batch": batch, **event}, ensure_ascii=False) + "\n" for event in events))

    @staticmethod
    def _file(trainer: Trainer) -> Path | None:
        folder = trainer.log_dir
        trial = getattr(trainer, "fast_dev_run", False) or folder is None
        return None if trial else Path(str(folder)) / "rubrics" / "evolved.jsonl"

    def state_dict(self) -> dict[str, Any]:
        """Return all criteria that were kept, retired ones included, by prompt."""
        return {"criteria": {prompt: [dict(one) for one in some] for prompt, some in self.criteria.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.criteria = {prompt: [dict(one) for one in some] for prompt, some in state_dict["criteria"].items()}


@dataclass(eq=False)
class _EvolvedScores(ScoreSource):
    """Scores training rollouts by rubrics with their evolved criteria; what a response scores changes, so that none is kept."""

    inner: RubricScores
    evolving: EvolvingRubrics

    def validate(self, prompts: Prompts) -> None:
        self.inner.validate(prompts)

    def bind(self, answerer: Answerer) -> None:
        self.inner.bind(answerer)

    def level_keys(self) -> list[str]:
        return [_LOGGED_AS, *(one["name"] for some in self.evolving.criteria.values() for one in some)]

    def begin(
        self, prompts: Prompts, group_size: int, thinks: bool = True, again: Tensor | None = None
    ) -> Callable[[int, int, str], None] | None:
        return self.inner.begin(self._evolved(prompts), group_size, thinks, again)

    def end(self) -> None:
        self.inner.end()

    def describe(self) -> str:
        return self.inner.describe()

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        return self.inner(replace(rollouts, prompts=self._evolved(rollouts.prompts)))

    def judge_again(self, rollouts: Rollouts, chosen: Tensor) -> Tensor:
        return self.inner.judge_again(replace(rollouts, prompts=self._evolved(rollouts.prompts)), chosen)

    def _evolved(self, prompts: Prompts) -> Prompts:
        return (
            replace(prompts, rubrics=tuple(map(self.evolving.rubric, prompts.ids, prompts.rubrics)))
            if prompts.rubrics
            else prompts
        )


def _criterion(fields: Event) -> Criterion:
    return Criterion(fields["name"], fields["description"], fields["points"], (f"pool:{_LOGGED_AS}",))


def _event(prompt: str, action: str, reason: str, criterion: Event) -> Event:
    return {"prompt": prompt, "action": action, "reason": reason, "criterion": criterion}


def _scores(scores: CriterionScores, prompt: int, column: int) -> tuple[float | None, ...]:
    """A criterion's score of each rollout, None = not judged."""
    value, mask = scores.scores[prompt, :, column].tolist(), scores.mask[prompt, :, column].tolist()
    return tuple(score if judged else None for score, judged in zip(value, mask, strict=True))


def _apart(texts: Sequence[str], rewards: Sequence[float], valid: Sequence[bool]) -> tuple[list[str], list[str]]:
    """Up to two texts above the mean reward, best first, and two below it, worst first; none where all rewards are alike."""
    known = {g: reward for g, (reward, counts) in enumerate(zip(rewards, valid, strict=True)) if counts}
    mean = sum(known.values()) / len(known) if known else 0.0
    best = [g for g in sorted(known, key=lambda g: -known[g]) if known[g] > mean + 1e-6]
    worst = [g for g in sorted(known, key=lambda g: known[g]) if known[g] < mean - 1e-6]
    return [texts[g] for g in best[:2]] if worst else [], [texts[g] for g in worst[:2]] if best else []


def _read(reply: str | ChatError) -> tuple[list[Criterion], list[Rejected]] | None:
    return read_proposals(reply) if isinstance(reply, str) else None


def _batch_of(line: str) -> float:
    """The batch of a line; a torn one is behind everything."""
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["batch"])
    return float("inf")
