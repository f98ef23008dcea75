"""Requests that come one after another get the verdicts that they get together."""

import threading
import time
from dataclasses import replace

import pytest

from lightning_focal.judges import HTTPJudge, Judge, JudgeThread, LocalJudge, MajorityJudge, RoutedJudge, RuleJudge
from lightning_focal.rewards.early import EarlyVerdicts
from lightning_focal.rubrics import Criterion
from lightning_focal.servers import ChatUnusable
from tests.judges.faulty_server import serving
from tests.judges.judges import WORDS, Saying, request
from tests.judges.test_http_judge import CRITERIA, judge_of, requests

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
        whole, parts = (judge_of(server.url, cache=str(tmp_path / name)) for name in ("a.sqlite", "b.sqlite"))
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
    lambda url: MajorityJudge([judge_of(url), judge_of(url, per="criterion")]),
    lambda url: RoutedJudge(other=MajorityJudge([judge_of(url), judge_of(url)])),
], ids=["majority", "routed"])  # fmt: skip
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
        return [(replace(WORDS["yes"], reason=one.response),) for one in requests]


def begun():
    """A thread whose judge holds the first request, and that judge."""
    thread = JudgeThread(judge := Slow())
    thread.add([request("a", SHORT)])
    while not judge.calls:
        time.sleep(0.01)
    return thread, judge


def test_what_waits_is_handed_over_together_and_a_stopped_judge_begins_nothing():
    thread, judge = begun()
    for text in "bcd":
        thread.add([request(text, SHORT)])
    judge.go.set()
    assert [row[0].reason for row in thread.finish()] == ["a", "b", "c", "d"]
    assert judge.calls == [["a"], ["b", "c", "d"]]
    stopped, judge = begun()
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
    became = {(0, 0, 0): "as it became", (0, 1, 0): "b", (1, 0, 0): "c"}
    taken = early.take({place: request(text, SHORT) for place, text in became.items()})
    assert [row[0].reason for row in taken.values()] == ["as it became", "b", "c"]
    count = len(judge.calls)
    assert early.take({(0, 1, 1): replace(request("b", SHORT), repeat=1)})[0, 1, 1][0].reason == "b"
    assert len(judge.calls) == count  # known already
