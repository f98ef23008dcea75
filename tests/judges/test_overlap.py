"""Requests that come one after another get the verdicts that they get together."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from lightning_focal.judges import (
    HTTPJudge,
    Judge,
    JudgeThread,
    LocalJudge,
    MajorityJudge,
    Outcome,
    RoutedJudge,
    RuleJudge,
    Verdict,
)
from lightning_focal.rewards.early import EarlyVerdicts
from lightning_focal.rubrics import Criterion
from lightning_focal.servers import ChatUnusable
from tests.judges.faulty_server import serving
from tests.judges.judges import Saying, request
from tests.judges.test_http_judge import CRITERIA, judge_of, requests
from tests.modules.helpers import metrics

SHORT = Criterion("short", "Is short.", check={"kind": "max_words", "words": 4})


def streamed(judge, asked):
    thread = JudgeThread(judge)
    for one in asked:
        thread.add([one])
    return thread.finish()


def test_a_stream_is_one_batch(tmp_path):
    """As many requests, equal ones once, the numbers of all; empty responses and the cache as ever."""
    asked = [*requests(6), *requests(3), replace(requests(1)[0], repeat=1), request(" ", *CRITERIA)]
    with serving(latency=0.02) as server:
        whole, parts = (
            judge_of(server.url, cache=str(tmp_path / "a.sqlite")),
            judge_of(server.url, cache=str(tmp_path / "b.sqlite")),
        )
        expected = whole.judge(asked)
        assert len(server.requests) == 7
        assert streamed(parts, asked) == expected
        assert len(server.requests) == 14
        for name in ("requests", "retries", "prompt_tokens", "completion_tokens", "cache_hit_rate"):
            assert parts.measures()[name] == whole.measures()[name]
        assert streamed(parts, asked) == expected
        assert parts.measures()["cache_hit_rate"] == 1.0
        assert len(server.requests) == 14
        assert server.most_at_once <= 16
        assert streamed(parts, []) == []
        assert parts.measures()["requests"] == 0


@pytest.mark.parametrize("make", [
    lambda url: RoutedJudge(other=judge_of(url)),
    lambda url: MajorityJudge([judge_of(url), judge_of(url, per="criterion")]),
    lambda url: RoutedJudge(other=MajorityJudge([judge_of(url), judge_of(url)])),
], ids=["routed", "majority", "both"])  # fmt: skip
def test_judges_of_judges(make):
    criteria = CRITERIA if isinstance(make("http://h"), MajorityJudge) else (CRITERIA[0], SHORT, *CRITERIA[1:])
    with serving() as server:
        asked, judge = [*requests(5, criteria), request("", *criteria)], make(server.url)
        assert all(judge.overlaps(criterion) for criterion in criteria)
        assert streamed(judge, asked) == judge.judge(asked)
        assert judge.measures().keys() == make(server.url).measures().keys()


def test_who_may_be_asked_beside_generation():
    function = Criterion("mine", "Mine.", check={"kind": "python", "target": "tests.judges.functions:shouts"})
    assert RuleJudge().overlaps(SHORT)
    assert not RuleJudge().overlaps(function)  # it may be bound to the main thread
    assert HTTPJudge("http://h", "m").overlaps(SHORT)
    local = LocalJudge("random:tiny-llama")
    assert not local.overlaps(SHORT)
    assert not Saying().overlaps(SHORT)
    assert RoutedJudge(other=local).overlaps(SHORT)
    assert not RoutedJudge(other=local).overlaps(CRITERIA[0])
    assert not MajorityJudge([RuleJudge(), local]).overlaps(SHORT)


def test_what_a_judge_raises_reaches_who_waits():
    with serving("key rejected", when=lambda exchange: True) as server, pytest.raises(ChatUnusable, match="wants a key"):
        streamed(judge_of(server.url), requests(3))


class Slow(Judge):
    """Holds the first call until it is let go; notes what it was asked at once."""

    def __init__(self):
        self.go, self.calls = threading.Event(), []

    def judge(self, requests):
        self.calls.append([one.response for one in requests])
        self.go.wait(20)
        return [(Verdict(Outcome.MET, reason=one.response),) for one in requests]


def test_what_waits_is_handed_over_together_and_a_stopped_judge_begins_nothing():
    thread, judge = JudgeThread(slow := Slow()), slow
    thread.add([request("a", SHORT)])
    while not judge.calls:
        time.sleep(0.01)
    for text in "bcd":
        thread.add([request(text, SHORT)])
    judge.go.set()
    assert [row[0].reason for row in thread.finish()] == ["a", "b", "c", "d"]
    assert judge.calls == [["a"], ["b", "c", "d"]]
    stopped, judge = JudgeThread(slow := Slow()), slow
    stopped.add([request("a", SHORT)])
    while not judge.calls:
        time.sleep(0.01)
    stopped.add([request("b", SHORT)])
    threading.Timer(0.05, judge.go.set).start()
    stopped.stop()
    assert judge.calls == [["a"]]


def test_a_verdict_counts_for_the_text_that_it_was_given_on():
    judge = Slow()
    judge.go.set()
    early = EarlyVerdicts(judge, group_size=2)
    early.add((0, 1, 0), request("b", SHORT))
    early.add((0, 1, 1), replace(request("b", SHORT), repeat=1))
    early.add((0, 0, 0), request("as it was told", SHORT))
    taken = early.take(
        {(0, 0, 0): request("as it became", SHORT), (0, 1, 0): request("b", SHORT), (1, 0, 0): request("c", SHORT)}
    )
    assert [row[0].reason for row in taken.values()] == ["as it became", "b", "c"]
    count = len(judge.calls)
    assert early.take({(0, 1, 1): replace(request("b", SHORT), repeat=1)})[0, 1, 1][0].reason == "b"
    assert len(judge.calls) == count  # known already


# -- a run -----------------------------------------------------------------------------------------------------------------------

RUN = """
import sys
import yaml
from lightning_focal.cli import main
main(["fit", "--config", sys.argv[1], "--run_dir", sys.argv[2]])
"""


@pytest.mark.slow  # a process that imports everything, and half a second for each reply
def test_ctrl_c_loses_no_verdict(tmp_path):
    """SIGINT while responses are written: every request that had reached the server has its verdicts in the cache."""
    import json

    import yaml

    rubric = [{"name": name, "description": f"Says {name}."} for name in ("apple", "pear")]
    rows = [{"prompt": f"Number {i}?", "rubric": rubric} for i in range(8)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
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
        arguments = [sys.executable, "-c", RUN, str(tmp_path / "config.yaml"), str(tmp_path / "run")]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
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


class Watched:
    """A generator that does not return before the judge has been asked."""

    def __new__(cls, server):
        from lightning_focal.generation import HFGenerator

        class Generator(HFGenerator):
            early = 0

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


def test_a_run_is_the_same_with_and_without(run_tiny, tmp_path):
    """Scores, weights and numbers of the judge; a share of rollouts is judged twice, uninformative groups are refilled."""
    import json

    from lightning_focal.modules.dynamic_sampling import DynamicSampling
    from lightning_focal.rewards import FocalReward
    from tests.judges.faulty_server import asked
    from tests.modules.helpers import same, weights_of

    rubric = [{"criterion": f"Says {axis}.", "points": 1, "tags": [f"axis:{axis}"]} for axis in ("tone", "accuracy")]
    rows = [{"prompt_id": f"p{i}", "prompt": [{"role": "user", "content": f"{i}?"}], "rubrics": rubric} for i in range(6)]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def by_length(prompt):
        response, criteria = asked(prompt)
        said = [(id_, "met" if len(response) % 2 == j else "not_met") for j, (id_, _) in enumerate(criteria)]
        return json.dumps({"verdicts": [{"id": i, "verdict": v, "value": None, "reason": ""} for i, v in said]})

    runs, generators = [], []
    for beside in (False, True):
        with serving(reply=by_length) as server:
            generators.append(Watched(server))
            type(generators[-1]).tells_finished = beside
            runs.append(run_tiny(
                FocalReward(judge=HTTPJudge(server.url, "judge")), folder=f"run-{beside}", generator=generators[-1],
                data_train=str(tmp_path / "h.jsonl"), data_val=str(tmp_path / "h.jsonl"), dynamic_sampling=DynamicSampling(),
                trainer_limit_train_batches=2,
            ))  # fmt: skip
    assert (generators[0].early, generators[1].early > 2) == (0, True)
    without, beside = ([{k: v for k, v in row.items() if "latency" not in k} for row in metrics(run.folder)] for run in runs)
    assert without == beside
    assert same(*(weights_of(run.module) for run in runs))
    assert [run.module.describe_judging() for run in runs] == [
        "judging: HTTPJudge behind generation (Generator gives all at once)", "judging: HTTPJudge beside generation"
    ]  # fmt: skip
