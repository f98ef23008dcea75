"""Several processes share the questions and come to the scores of one."""

import json

import pytest

from lightning_focal.models import load_policy
from tests.evaluation.helpers import choice_task, generate_task, half_right
from tests.evaluation.parallel import worker
from tests.modules.parallel import LAYERS
from tests.processes import run_ranks


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 1], ids=["shared", "too few to share"])
def test_two_processes_score_as_one(tmp_path, limit):
    gold, share = half_right(*load_policy(LAYERS))
    tasks = [generate_task(tmp_path, gold), choice_task(tmp_path)]
    run_ranks(worker, str(tmp_path), tasks, ("ddp", "fsdp2"), limit, init=True)
    for name in ("ddp", "fsdp2"):
        left, right = (json.loads((tmp_path / name / f"history-{rank}.json").read_text()) for rank in range(2))
        assert left == right
        assert [entry["batch"] for entry in left["history"]] == [0, 1]
        if limit is None:
            assert left["history"][0]["scores"]["words/exact_match/word"] == share
        final = left["history"][-1]["scores"]
        for key in ("words/exact_match/word", "choices/acc"):
            assert final[key] == pytest.approx(left["alone"][key], abs=1e-12)
