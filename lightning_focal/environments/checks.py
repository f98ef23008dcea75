"""What an environment and a data set must agree about, found out before a policy is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_focal.environments.base import Environment
from lightning_focal.judges.rules.programs import environment_score
from lightning_focal.types import Prompts

__all__ = ["check_environment"]


def check_environment(environment: Environment | None, splits: Iterable[Prompts]) -> None:
    """Check criteria that an environment scores, prompts that it must play, and refuse questions in two views.

    Raises:
        ValueError: for a criterion with the check ``environment`` and no environment, or none with such a score; for two views; for
            prompts whose column ``played_by`` names another environment, or that it refuses itself.
    """
    names = () if environment is None else tuple(environment.score_names)
    for prompts in splits:
        if environment is not None and any(prompts.views):
            raise ValueError("`data.pairs` must be false with `model.environment`: an episode has no second view")
        needed = next((row["played_by"] for row in prompts.extra if row.get("played_by")), None)
        if needed is not None and (environment is None or needed != type(environment).__name__):
            raise ValueError(f"the data's tasks take several turns: write `model.environment: {needed}`")
        if environment is not None:
            environment.validate(prompts)
        for rubric in filter(None, prompts.rubrics):
            for criterion in rubric.criteria:
                score = environment_score(criterion)
                if score is not None and score not in names:
                    known = f"whose scores are {', '.join(names) or 'none'}" if environment is not None else "and there is none"
                    raise ValueError(
                        f"{criterion.place}: the check `environment` takes {score!r} of `model.environment`, {known}"
                    )
