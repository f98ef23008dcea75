"""A run whose rubrics a served judge scores, behind generation and beside it."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import yaml

from lightning_focal.generation import HFGenerator
from lightning_focal.judges import HTTPJudge
from lightning_focal.modules.dynamic_sampling import DynamicSampling
from lightning_focal.rewards import FocalReward
from lightning_focal.servers import ChatUnusable
from tests.conftest import write_rows
from tests.judges.faulty_server import asked, serving
from tests.modules.helpers import column, metrics, same, weights_of

RUBRICS = [
    {"criterion": f"Says {axis}.", "points": points, "tags": ["level:example", f"axis:{axis}"]}
    for axis, points in (("accuracy", 5), ("completeness", 3), ("tone", -2))
]
CHATS = [[{"role": "user", "content": f"Number {i}?"}] for i in range(6)]


@pytest.fixture
def health(tmp_path):
    rows = [{"prompt_id": f"p{i}", "prompt": chat, "rubrics": RUBRICS, "example_tags": []} for i, chat in enumerate(CHATS)]
    return str(write_rows(tmp_path / "health.jsonl", rows))


def by_length(prompt):
    """The words of a tiny policy mean nothing: what it is judged by is how many characters it wrote."""
    response, criteria = asked(prompt)
    said = [(id_, "met" if len(response) % 3 == j else "not_met") for j, (id_, _) in enumerate(criteria)]
    made = [{"id": id_, "verdict": verdict, "value": None, "reason": ""} for id_, verdict in said]
    return json.dumps({"verdicts": made})


def watched(server, beside):
    """A generator that does not return before the judge has been asked, if it tells of responses that are finished."""

    class Generator(HFGenerator):
        early, tells_finished = 0, beside

        def generate(self, *args, finished=None, **kwargs):
            told = threading.Event()

            def tell(*response):
                finished(*response)
                told.set()

            before = len(server.requests)
            rollouts = super().generate(*args, finished=finished and tell, **kwargs)
            until = time.monotonic() + 20
            while finished and told.is_set() and len(server.requests) == before and time.monotonic() < until:
                time.sleep(0.01)
            Generator.early += len(server.requests) > before
            return rollouts

    return Generator()


def test_a_run_is_the_same_behind_generation_and_beside_it(run_tiny, health, tmp_path):
    """Scores, weights and numbers of the judge; a share of rollouts is judged twice, uninformative groups are refilled."""
    runs, generators = [], []
    for beside in (False, True):
        with serving(reply=by_length) as server:
            generators.append(watched(server, beside))
            priced = {"prompt_price": 1.0, "completion_price": 1.0, "cache": str(tmp_path / f"{beside}.sqlite")}
            judge = HTTPJudge(server.url, "judge", **priced)
            options = {"data_train": health, "data_val": health, "trainer_limit_train_batches": 2, "generator": generators[-1]}
            runs.append(run_tiny(FocalReward(judge=judge), folder=f"run-{beside}", dynamic_sampling=DynamicSampling(), **options))
    assert (generators[0].early, generators[1].early > 2) == (0, True)
    without, beside = ([{k: v for k, v in row.items() if "latency" not in k} for row in metrics(run.folder)] for run in runs)
    assert without == beside
    assert same(*(weights_of(run.module) for run in runs))
    assert [run.module.describe_judging() for run in runs] == [
        "judging: HTTPJudge behind generation (Generator gives all at once)", "judging: HTTPJudge beside generation"
    ]  # fmt: skip
    names = ("requests", "retries", "prompt_tokens", "completion_tokens", "latency_s", "latency_max_s", "cost", "cache_hit_rate")
    folder = runs[0].folder
    assert {f"{stage}/judge/{name}" for stage in ("train", "val") for name in names} <= metrics(folder)[0].keys()
    requests = column(folder, "train/judge/requests")
    assert requests[0] > 0
    assert column(folder, "train/judge/prompt_tokens") == [200 * count for count in requests]
    assert column(folder, "train/judge/failure_rate") == [0.0] * len(requests)
    assert column(folder, "train/criterion/accuracy/score")[0] >= 0


def test_the_server_is_looked_for_before_the_policy_is_read(run_tiny, health):
    with pytest.raises(ChatUnusable, match="is it running"):
        run_tiny(FocalReward(judge=HTTPJudge("http://127.0.0.1:9", "judge")), data_train=health)


@pytest.mark.slow  # a process that imports everything, and half a second for each reply
def test_ctrl_c_loses_no_verdict(tmp_path):
    """SIGINT while responses are written: every request that had reached the server has its verdicts in the cache."""
    rubric = [{"name": name, "description": f"Says {name}."} for name in ("apple", "pear")]
    (tmp_path / "train.json").write_text(json.dumps([{"prompt": f"Number {i}?", "rubric": rubric} for i in range(8)]))
    with serving(latency=0.5) as server:
        judge = {"url": server.url, "model": "judge", "cache": str(tmp_path / "v.sqlite"), "concurrency": 4}
        content = {
            "reward": {"class_path": "FocalReward", "init_args": {"judge": {"class_path": "HTTPJudge", "init_args": judge}}},
            "model": {
                "policy": "random:tiny-llama?hidden=32&layers=1",
                "group_size": 8,
                "sampling": {"max_new_tokens": 400, "min_new_tokens": 200},
                "generator": {"class_path": "HFGenerator", "init_args": {"batch_size": 2}},
            },
            "data": {"class_path": "RubricDataModule", "init_args": {"train": str(tmp_path / "train.json"), "batch_size": 8}},
            "trainer": {"max_epochs": 1, "accelerator": "cpu", "precision": "32-true"},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "lightning_focal", "fit", "--config", "config.yaml", "--run_dir", "run"]
        how = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, **how) as process:
            try:
                until = time.monotonic() + 120
                while len(server.requests) < 6:
                    assert process.poll() is None, process.communicate()[0]
                    assert time.monotonic() < until
                    time.sleep(0.01)
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 130, said
        asked = len(server.requests)
    assert "Traceback" not in said
    assert "judging: HTTPJudge beside generation" in said
    with sqlite3.connect(tmp_path / "v.sqlite") as kept:
        assert kept.execute("SELECT count(*) FROM verdicts").fetchone()[0] == 2 * asked
    assert asked < 64  # most were still to be written
