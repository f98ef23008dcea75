"""What an environment and a data set must agree about, found out before a policy is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_focal.environments.base import Environment
from lightning_focal.judges.rules.programs import environment_score
from lightning_focal.types import Prompts

__all__ = ["check_environment"]


def check_environment(environment: Environment | None, splits: Iterable[Prompts]) -> None:
    """Check criteria that an environment scores, and refuse questions in two views.

    Raises:
        ValueError: for a criterion with the check ``environment`` and no environment, or none with such a score; for two views.
    """
    names = () if environment is None else tuple(environment.score_names)
    for prompts in splits:
        if environment is not None and any(prompts.views):
            raise ValueError("`data.pairs` must be false with `model.environment`: an episode has no second view")
        for rubric in filter(None, prompts.rubrics):
            for criterion in rubric.criteria:
                score = environment_score(criterion)
                if score is not None and score not in names:
                    known = f"whose scores are {', '.join(names) or 'none'}" if environment is not None else "and there is none"
                    raise ValueError(
                        f"{criterion.place}: the check `environment` takes {score!r} of `model.environment`, {known}"
                    )
