"""A run whose rubrics a served judge scores."""

import json

import pytest

from lightning_focal.judges import HTTPJudge
from lightning_focal.rewards import FocalReward
from lightning_focal.servers import ChatUnusable
from tests.judges.faulty_server import asked, serving
from tests.modules.helpers import column, metrics

RUBRICS = [
    {"criterion": f"Says {axis}.", "points": points, "tags": ["level:example", f"axis:{axis}"]}
    for axis, points in (("accuracy", 5), ("completeness", 3), ("tone", -2))
]
CHATS = [[{"role": "user", "content": f"Number {i}?"}] for i in range(4)]
ROWS = [{"prompt_id": f"p{i}", "prompt": chat, "rubrics": RUBRICS, "example_tags": []} for i, chat in enumerate(CHATS)]


@pytest.fixture
def health(tmp_path):
    path = tmp_path / "health.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


def by_length(prompt):
    """The words of a tiny policy mean nothing: what it is judged by is how many characters it wrote."""
    response, criteria = asked(prompt)
    said = [(id_, "met" if len(response) % 3 == j else "not_met") for j, (id_, _) in enumerate(criteria)]
    made = [{"id": id_, "verdict": verdict, "value": None, "reason": ""} for id_, verdict in said]
    return json.dumps({"verdicts": made})


def test_numbers_are_logged(run_tiny, health, tmp_path):
    with serving(reply=by_length) as server:
        judge = HTTPJudge(server.url, "judge", cache=str(tmp_path / "v.sqlite"), prompt_price=1.0, completion_price=1.0)
        run = run_tiny(FocalReward(judge=judge), data_train=health, data_val=health)
        assert len(server.requests) > 0
    rows = metrics(run.folder)
    names = ("requests", "retries", "prompt_tokens", "completion_tokens", "latency_s", "latency_max_s", "cost", "cache_hit_rate")
    assert {f"{stage}/judge/{name}" for stage in ("train", "val") for name in names} <= rows[0].keys()
    requests = column(run.folder, "train/judge/requests")
    assert requests[0] > 0
    assert column(run.folder, "train/judge/prompt_tokens") == [200 * count for count in requests]
    assert column(run.folder, "train/judge/failure_rate") == [0.0] * len(requests)
    assert column(run.folder, "train/criterion/accuracy/score")[0] >= 0


def test_the_server_is_looked_for_before_the_policy_is_read(run_tiny, health):
    with pytest.raises(ChatUnusable, match="is it running"):
        run_tiny(FocalReward(judge=HTTPJudge("http://127.0.0.1:9", "judge")), data_train=health)
