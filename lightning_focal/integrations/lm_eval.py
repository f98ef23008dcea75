"""Tasks of lm-evaluation-harness to train on: their questions as prompts, their own filters and metrics as criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_focal.data.module import PromptDataModule
from lightning_focal.evaluation import load_tasks
from lightning_focal.functional.choices import expect_choice
from lightning_focal.integrations.columns import named_scores
from lightning_focal.rewards import ScoreSource
from lightning_focal.types import CriterionScores, Message, Prompts, Rollouts

__all__ = ["HarnessData", "HarnessScores"]

Split = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class _Row:
    id: str
    messages: tuple[Message, ...]
    extra: Mapping[str, Any]


class HarnessData(PromptDataModule):
    """Questions of tasks that let a model write (``generate_until``), as ``lm-eval run`` puts them without examples.

    Args:
        tasks: names and YAML files, see :func:`~lightning_focal.evaluation.load_tasks`.
        train: the task's own split to train on: ``training``, ``validation`` or ``test``; None = no training.
        val: the same for held-out questions.
        include_path: a folder of further tasks.
        allow_code: allow tasks that run what the model writes.
        **kwargs: of :class:`~lightning_focal.data.PromptDataModule`.

    Raises:
        ValueError: for another split.
    """

    unit = "questions"

    def __init__(
        self,
        tasks: str | list[str],
        train: Split | None = None,
        val: Split | None = None,
        include_path: str | None = None,
        allow_code: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, split in (("train", train), ("val", val)):
            if split is not None:
                expect_choice(f"data.{name}", split, ("training", "validation", "test"))
        if train == val and train is not None:
            raise ValueError(f"`data.train` and `data.val` must be different splits, got {train!r} for both")
        self.tasks, self.include_path, self.allow_code = tasks, include_path, allow_code
        self.files = {"train": train, "val": val, "test": val, "predict": val}
        self.expect_files()

    def read_split(self, split: str, path: str) -> list[_Row]:
        """Load the tasks and take their questions.

        Raises:
            ValueError: for a task that compares likelihoods, or has no such split.
        """
        rows = []
        for name, task in (
            load_tasks(self.tasks, include_path=self.include_path, allow_code=self.allow_code).loaded["tasks"].items()
        ):
            if task.OUTPUT_TYPE != "generate_until":
                raise ValueError(
                    f"`data.tasks`: {name} compares likelihoods ({task.OUTPUT_TYPE}), a response cannot be scored by it"
                )
            if not getattr(task, f"has_{path}_docs")():
                raise ValueError(f"`data.{split}`: {name} has no {path} split")
            for i, doc in enumerate(getattr(task, f"{path}_docs")()):
                chat = ({"role": "user", "content": task.fewshot_context(doc, 0)},)
                rows.append(_Row(f"{name}/{path}/{i}", chat, {"task": name, "scorer": task, "doc": doc}))
        return rows

    def make_prompts(self, split: str, rows: Sequence[_Row]) -> Prompts:
        """Make a batch of questions."""
        return Prompts(tuple(r.id for r in rows), tuple(r.messages for r in rows), extra=tuple(r.extra for r in rows))


class HarnessScores(ScoreSource):
    """Every metric of a task under each of its filters as a criterion, ``exact_match/strict-match`` say; all weigh alike.

    A response is cut at the task's stop words first. A metric of which less is better is turned round. A scorer that fails has failed to
    judge.

    Args:
        metrics: names as above to keep; None = all that give a number for one response.
        bounds: by name the lowest and highest score, (0, 1) by default.
    """

    def __init__(self, metrics: list[str] | None = None, bounds: dict[str, tuple[float, float]] | None = None) -> None:
        self.metrics, self.bounds, self._weights = metrics, bounds, dict[str, dict[str, float]]()

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`; an empty response says which metrics a task has."""
        for extra in prompts.extra or ({},) * len(prompts):
            if "scorer" not in extra:
                raise ValueError(f"{type(self).__name__} scores tasks of lm-evaluation-harness: write `data: HarnessData`")
            self._weights_of(extra)

    def level_keys(self) -> list[str]:
        """See :class:`ScoreSource`."""
        return sorted({name for weights in self._weights.values() for name in weights})

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """See :class:`ScoreSource`."""
        extras, given, reasons = rollouts.prompts.extra, [], []
        for extra, group in zip(extras, rollouts.answers, strict=True):
            scored = [_scored(extra, answer) for answer in group]
            given.append([scores for scores, _ in scored])
            reasons.append([why for _, why in scored])
        return named_scores(given, [self._weights_of(extra) for extra in extras], self.bounds, reasons)

    def _weights_of(self, extra: Mapping[str, Any]) -> dict[str, float]:
        if extra["task"] not in self._weights:
            found, why = _scored(extra, "")
            better = extra["scorer"].higher_is_better()
            signs = {name: 1.0 if better.get(name.split("/")[0], True) else -1.0 for name in found}
            kept = {name: sign for name, sign in signs.items() if self.metrics is None or name in self.metrics}
            if not kept:
                raise ValueError(
                    f"`reward.source.metrics`: {extra['task']} scores a response by {why or sorted(found)}, got {self.metrics}"
                )
            self._weights[extra["task"]] = kept
        return self._weights[extra["task"]]


def _scored(extra: Mapping[str, Any], text: str) -> tuple[dict[str, float | None], str]:
    """Scores of a response by metric and filter, as the harness makes them, and why there are none."""
    from lm_eval.api.instance import Instance
    from lm_eval.filters import build_filter_ensemble

    task, doc, scores = extra["scorer"], extra["doc"], dict[str, float | None]()
    for stop in filter(None, (task.config.generation_kwargs or {}).get("until") or ()):
        text = text.split(stop)[0]
    try:
        for made in task.config.filter_list or [{"name": "none", "filter": [{"function": "take_first"}]}]:
            steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in made["filter"]]
            request = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0, resps=[text])
            build_filter_ensemble(made["name"], steps).apply([request])
            for metric, value in task.process_results(doc, [request.filtered_resps[made["name"]]]).items():
                if isinstance(value, (int, float)):
                    scores[metric if made["name"] == "none" else f"{metric}/{made['name']}"] = float(value)
    except Exception as error:  # a scorer of others must not end the run
        return {}, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return scores, ""
