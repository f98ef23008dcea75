"""Held-out rubric scoring as a task of lm-evaluation-harness: ``configs/eval/rubric.yaml``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lightning_focal.evaluation.model import register
from lightning_focal.functional import weighted_reward
from lightning_focal.judges import Judge, JudgeRequest, RuleJudge, Verdict, verdicts_to_scores
from lightning_focal.rubrics import Rubric, RubricRow, read_rows

__all__ = ["mean_of_judged", "response_scores"]

METRICS = ("score", "all_met", "judged")


def mean_of_judged(values: Sequence[float]) -> float:
    """Return the mean without what could not be judged (NaN); NaN where nothing could.

    >>> mean_of_judged([1.0, float("nan"), 0.5])
    0.75
    """
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def response_scores(verdicts: Sequence[Verdict], rubric: Rubric) -> dict[str, float]:
    """Score one response as the held-out score does.

    Returns:
        ``score``, the prior-weighted mean over judged criteria, NaN where none was judged that has weight; ``all_met``, 1.0 where
        every judged criterion is fully met, NaN where none was judged; ``judged``, the share of criteria that were.
    """
    scores = verdicts_to_scores([[verdicts]], [rubric])
    known = scores.mask[0, 0]
    if not bool(scores.judged(scores.weights)):
        return {"score": math.nan, "all_met": math.nan, "judged": float(known.double().mean())}
    return {
        "score": float(weighted_reward(scores.scores, scores.weights, scores.mask)),
        "all_met": float(bool((scores.scores[0, 0][known] >= 1).all())),
        "judged": float(known.double().mean()),
    }


@cache
def _task_class() -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    class RubricTask(ConfigurableTask):  # type: ignore[misc]
        """Prompts of a rubric file, answered greedily and judged all at once.

        ``dataset_kwargs`` of the task file: ``file``, in any format that is read; ``judge``, a ``class_path`` with ``init_args``, rules by
        default; ``system_prompt``, before every chat without one.
        """

        def __init__(self, config: dict[str, Any]) -> None:
            given = {key: value for key, value in config.items() if key != "class"}
            self.rows: list[RubricRow] = []
            self.judge: Judge = RuleJudge()
            self._verdicts: dict[tuple[int, str], tuple[Verdict, ...]] = {}
            super().__init__(
                config={
                    "output_type": "generate_until",
                    "test_split": "test",
                    "num_fewshot": 0,
                    "doc_to_text": "prompt",
                    "doc_to_target": "",
                    "process_results": self.score_document,
                    "metric_list": [
                        {"metric": name, "aggregation": mean_of_judged, "higher_is_better": True} for name in METRICS
                    ],
                    **given,
                }
            )

        def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            """Read the rubrics and see that each criterion can be judged."""
            settings = dict(dataset_kwargs or {})
            if "file" not in settings or set(settings) - {"file", "judge", "system_prompt"}:
                raise ValueError(
                    f"`dataset_kwargs` must hold `file`, and may hold `judge` and `system_prompt`, got {sorted(settings)}"
                )
            self.rows = read_rows(Path(settings["file"]))
            if settings.get("judge") is not None:
                parser = ArgumentParser(exit_on_error=False)
                parser.add_subclass_arguments(Judge, "judge")
                self.judge = parser.instantiate_classes(parser.parse_object({"judge": dict(settings["judge"])})).judge
            for row in self.rows:
                for criterion in row.rubric.criteria:
                    if criterion.scope != "answer":
                        raise ValueError(
                            f"{criterion.place}: `scope` must be answer, got {criterion.scope!r}: the harness keeps no thought"
                        )
                    self.judge.validate(criterion)
            self.judge.prepare()
            self.system_prompt = settings.get("system_prompt")
            documents = [{"index": i, "prompt": row.messages[-1]["content"]} for i, row in enumerate(self.rows)]
            self.dataset = {"test": datasets.Dataset.from_list(documents)}

        def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> str:
            return str(doc["prompt"])

        def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> str:
            return ""

        def fewshot_context(
            self,
            doc: Any,
            num_fewshot: int = 0,
            system_instruction: str | None = None,
            apply_chat_template: bool = False,
            fewshot_as_multiturn: bool = False,
            chat_template: Any = None,
            gen_prefix: str | None = None,
        ) -> str:
            """Put the row's whole chat."""
            chat = [dict(message) for message in self.rows[doc["index"]].messages]
            system = system_instruction or self.system_prompt
            if system and chat[0]["role"] != "system":
                chat.insert(0, {"role": "system", "content": system})
            if apply_chat_template:
                return str(chat_template(chat))
            if len(chat) > 1:
                raise ValueError(
                    f"row {self.rows[doc['index']].id!r} is a chat of {len(chat)} turns: pass `--apply_chat_template`"
                )
            return str(chat[0]["content"])

        def apply_filters(self) -> Any:
            """Judge all responses at once: a server or a model is then kept busy."""
            filtered = super().apply_filters()
            answers = {(i.doc["index"], text): None for i in self.instances for text in i.filtered_resps.values()}
            requests = [JudgeRequest(tuple(self.rows[i].messages), text, self.rows[i].rubric.criteria) for i, text in answers]
            self._verdicts = dict(zip(answers, self.judge.judge(requests), strict=True))
            return filtered

        def score_document(self, doc: Any, results: Sequence[str]) -> dict[str, float]:
            """Return the metrics of one response."""
            return response_scores(self._verdicts[doc["index"], results[0]], self.rows[doc["index"]].rubric)

    return RubricTask


def __getattr__(name: str) -> Any:
    """Build the task class once a task file names it; it derives from a class of a package that may not be there."""
    if name == "RubricTask":
        register()  # a plain `lm-eval run` with this task knows our model class, too
        return _task_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
