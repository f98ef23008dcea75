"""The HTTP judge against a server that knows the right verdicts, and misbehaves when told to."""

import asyncio
import copy
import logging
import os
import pickle
import signal
import threading
import time
from dataclasses import replace

import pytest

from lightning_focal.judges import HTTPJudge, JudgeRequest, Outcome
from lightning_focal.rubrics import Criterion
from lightning_focal.servers import ChatUnusable
from tests.judges.faulty_server import AT_ONCE, FAULTS, HARMLESS, asked, entries, http, serving, truth, verdicts

KEY = "sk-very-secret-1234"
CHAT = ({"role": "user", "content": "List some fruit."},)
APPLE, PEAR = Criterion("apple", "Says apple."), Criterion("pear", "Says pear.", -1)
PLUM = Criterion("plum", "Counts plum, from 0 to 9.", low=0, high=9)
CRITERIA = (APPLE, PEAR, PLUM)
GONE = ("connection refused", "server dies in mid-run and returns")


def judge_of(url, **kwargs):
    return HTTPJudge(url, "judge", **{"first_wait_s": 0.02, "max_wait_s": 0.05, "deadline_s": 20.0, "attempts": 3, **kwargs})


def requests(count=6, criteria=CRITERIA):
    texts = [" ".join([f"List {i}:", *["apple"] * (i % 2), *["pear"] * (i % 3 == 0), *["plum"] * (i % 5)]) for i in range(count)]
    return [JudgeRequest(CHAT, text, criteria) for text in texts]


def is_right(verdict, criterion, response):
    return (verdict.outcome.value, verdict.value) == truth(criterion.description, response)


def all_right(asked_for, rows):
    return len(asked_for) == len(rows) and all(
        is_right(verdict, criterion, request.response)
        for request, row in zip(asked_for, rows, strict=True)
        for criterion, verdict in zip(request.criteria, row, strict=True)
    )


@pytest.mark.parametrize(("per", "count"), [("response", 6), ("criterion", 18)])
def test_verdicts_in_their_places(per, count):
    async def within_a_running_loop(judge):
        return judge.judge(requests(2))

    with serving() as server:
        judge = judge_of(server.url, per=per)
        assert all_right(requests(), judge.judge(requests()))
        assert len(server.requests) == count
        body = server.requests[0]
    assert (body["model"], body["temperature"], body["response_format"]["json_schema"]["strict"]) == ("judge", 0.0, True)
    assert set(body) == {"model", "messages", "temperature", "response_format"}
    assert judge.judge([]) == []
    with serving() as server:
        judge = judge_of(server.url, per=per, temperature=None, structured=False, body={"max_tokens": 64, "seed": 1})
        assert all_right(requests(2), asyncio.run(within_a_running_loop(judge)))
        assert set(server.requests[0]) == {"model", "messages", "max_tokens", "seed"}


def test_empty_and_equal_and_broken_responses():
    with serving() as server:
        (row,) = judge_of(server.url).judge([JudgeRequest(CHAT, " \n\u200b", CRITERIA)])
        assert [verdict.outcome for verdict in row] == [Outcome.NOT_MET, Outcome.MET, Outcome.NOT_MET]
        assert [verdict.met(criterion) for verdict, criterion in zip(row, CRITERIA, strict=True)] == [0.0, 1.0, 0.0]
        assert server.requests == []  # of the empty one
        twice = [*requests(2), *requests(2)]
        assert all_right(twice, judge_of(server.url).judge(twice))
        assert len(server.requests) == 2
        (row,) = judge_of(server.url).judge([JudgeRequest(CHAT, "apple \ud800 plum", CRITERIA)])
        assert is_right(row[0], APPLE, "apple")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in (*AT_ONCE, *GONE)])
def test_a_fault_gives_no_wrong_verdict(fault):
    timeout = 5.0 if fault == "10 MB body" else 0.4
    with serving(fault) as server:
        assert all_right(requests(4), judge_of(server.url, attempts=4, timeout_s=timeout).judge(requests(4)))
        server.when = lambda exchange: True
        rows = judge_of(server.url, attempts=2, timeout_s=timeout).judge(requests(4))
    failed = [verdict for row in rows for verdict in row if verdict.outcome is Outcome.ERROR]
    assert bool(failed) is (fault not in HARMLESS)
    assert all(verdict.reason for verdict in failed)
    for request, row in zip(requests(4), rows, strict=True):
        for criterion, verdict in zip(CRITERIA, row, strict=True):
            assert verdict in failed or is_right(verdict, criterion, request.response)


def test_a_server_that_is_away_for_a_while_or_stays_away_costs_verdicts_not_the_run():
    with serving() as server:
        server.go_down(0.5)
        time.sleep(0.1)
        assert all_right(requests(), judge_of(server.url, attempts=30).judge(requests()))
    with serving() as server:
        server.go_down()
        time.sleep(0.1)
        judge = judge_of(server.url, attempts=2)
        rows = judge.judge(requests(3))
        assert {verdict.outcome for row in rows for verdict in row} == {Outcome.ERROR}
        assert "ClientConnectorError" in rows[0][0].reason
        assert judge.measures()["requests"] == 6
        with pytest.raises(ChatUnusable, match=r"no server answers at .*; is it running\?"):
            judge.prepare()


@pytest.mark.parametrize("fault", AT_ONCE)
def test_what_ends_the_run(fault, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(fault, when=lambda exchange: True) as server:
        judge = judge_of(server.url, key_env="MY_KEY", concurrency=2, attempts=10)
        began = time.monotonic()
        with pytest.raises(ChatUnusable, match=AT_ONCE[fault]) as caught:
            judge.judge(requests(50))
        assert time.monotonic() - began < 2
        assert len(server.requests) <= 2
        assert KEY not in str(caught.value)


def test_only_what_is_missing_is_asked_again():
    with serving("missing criteria") as server:
        judge = judge_of(server.url)
        assert all_right(requests(1), judge.judge(requests(1)))
        again = asked(server.requests[1]["messages"][0]["content"])[1]
        assert [words for _, words in again] == ["Says apple."]
        assert judge.measures()["retries"] == 1


def test_a_refused_request_is_masked():
    with serving(lambda exchange: exchange.send(http(400, b"context length exceeded")), when=lambda exchange: True) as server:
        judge = judge_of(server.url)
        rows = judge.judge(requests(2))
        assert {verdict.outcome for row in rows for verdict in row} == {Outcome.ERROR}
        assert "context length exceeded" in rows[0][0].reason
        assert len(server.requests) == 4  # each with a schema, and without
        assert not judge.schema_refused


def test_a_server_without_schemas(caplog):
    async def refuse(exchange):
        await exchange.send(http(400, b"response_format is not supported"))

    with serving(refuse, when=lambda exchange: "response_format" in exchange.request) as server, caplog.at_level(logging.WARNING):
        judge = judge_of(server.url, concurrency=1)
        assert all_right(requests(), judge.judge(requests()))
        assert all_right(requests(), judge.judge(requests()))
        assert [("response_format" in request) for request in server.requests] == [True] + [False] * 12
    assert judge.schema_refused
    assert caplog.text.count("goes on without `response_format`") == 1


def test_a_batch_has_a_deadline():
    async def hang(exchange):
        await asyncio.sleep(5)

    with serving(hang, when=lambda exchange: "List 2" in exchange.prompt) as server:
        began = time.monotonic()
        rows = judge_of(server.url, deadline_s=0.6).judge(requests(4))
        assert time.monotonic() - began < 2
    assert all(verdict.outcome is Outcome.ERROR and "0.6 s" in verdict.reason for verdict in rows[2])
    assert all_right(requests(2), rows[:2])


def test_ctrl_c_comes_through_and_loses_nothing(tmp_path):
    with serving(latency=0.1) as server:
        judge = judge_of(server.url, concurrency=2, cache=str(tmp_path / "v.sqlite"), timeout_s=30.0)
        pressed = []

        def interrupt():
            while len(server.requests) < 8:
                time.sleep(0.01)
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        person = threading.Thread(target=interrupt, daemon=True)
        person.start()
        with pytest.raises(KeyboardInterrupt):
            judge.judge(requests(200))
        assert time.monotonic() - pressed[0] < 2
        person.join()
        replied = judge.measures()["completion_tokens"] / 20  # the server says 20 each
        assert replied >= 4
        assert len(judge.cache) == 3 * replied
        before = len(server.requests)
        judge.judge(requests(4))
        assert len(server.requests) == before


def test_what_is_known_is_not_asked(tmp_path):
    with serving() as server:
        path = str(tmp_path / "v.sqlite")
        first = judge_of(server.url, cache=path)
        rows = first.judge(requests(4))
        assert first.measures()["cache_hit_rate"] == 0.0
        second = judge_of(server.url, cache=path)
        assert second.judge(requests(6))[:4] == rows
        assert second.measures()["cache_hit_rate"] == 12 / 18
        assert len(server.requests) == 6
        assert second.judge(requests(6))[:4] == rows
        assert second.measures()["cache_hit_rate"] == 1.0
        assert second.measures()["requests"] == 0.0
        second.judge([JudgeRequest(CHAT, "apple", (APPLE,))])
        assert all_right([JudgeRequest(CHAT, "apple", CRITERIA)], second.judge([JudgeRequest(CHAT, "apple", CRITERIA)]))
        asked_for = [words for _, words in asked(server.requests[-1]["messages"][0]["content"])[1]]
        assert asked_for == ["Says pear.", "(graded, a number from 0 to 9) Counts plum, from 0 to 9."]
        count, again = len(server.requests), [replace(request, repeat=1) for request in requests(4)]  # judged by themselves
        assert all_right(requests(4) + again, second.judge(requests(4) + again))
        assert len(server.requests) == count + 4
        second.judge(again)
        assert len(server.requests) == count + 4


def test_errors_are_not_kept(tmp_path):
    with serving("status 500", when=lambda exchange: True) as server:
        judge = judge_of(server.url, cache=str(tmp_path / "v.sqlite"), attempts=1)
        judge.judge(requests(2))
        assert len(judge.cache) == 0
        server.fault = None
        assert all_right(requests(2), judge.judge(requests(2)))
        assert len(judge.cache) == 6


def test_another_judge_has_other_verdicts_and_one_that_moves_keeps_its_name(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("Judge!\n{response}\n{criteria}\n{format}", encoding="utf-8")
    same = {"url": "http://localhost:1", "model": "a", "concurrency": 1}
    changes = {"temperature": 1.0, "per": "criterion", "body": {"seed": 1}, "partial": True, "template": str(path), "model": "b"}
    others = [HTTPJudge(**{**same, name: value}).identity for name, value in {**changes, "url": "http://localhost:2"}.items()]
    assert len({HTTPJudge(**same).identity, *others}) == 8
    assert HTTPJudge(**same).identity == HTTPJudge(**{**same, "concurrency": 9, "attempts": 1}).identity
    first = HTTPJudge("http://a", "m", identity="judge-1")
    assert first.identity == HTTPJudge("http://b", "n", identity="judge-1").identity


def test_numbers_of_a_batch():
    with serving("status 500") as server:
        judge = judge_of(server.url, prompt_price=2.0, completion_price=10.0)
        names = set(judge.measures())
        judge.judge(requests(4))
        numbers = judge.measures()
    assert set(numbers) == names
    counted = {"requests": 8, "retries": 4, "prompt_tokens": 800, "completion_tokens": 80}
    assert numbers.items() >= counted.items()
    assert numbers["cost"] == pytest.approx((800 * 2 + 80 * 10) / 1e6)
    assert 0 < numbers["latency_s"] <= numbers["latency_max_s"] < 5
    assert "cost" not in judge_of("http://localhost").measures()
    assert "cache_hit_rate" not in names


def test_the_key_is_nowhere(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("MY_KEY", KEY)

    def tell(prompt):
        return verdicts([{**entry, "reason": f"the key is {KEY}"} for entry in entries(prompt)])

    with serving(reply=tell) as server, caplog.at_level(logging.DEBUG):
        judge = judge_of(server.url, key_env="MY_KEY", cache=str(tmp_path / "v.sqlite"))
        rows = judge.judge(requests(2))
        for twin in (copy.deepcopy(judge), pickle.loads(pickle.dumps(judge))):
            assert twin.judge(requests(2)) == rows
        assert len(server.requests) == 2
        assert server.headers[0]["authorization"] == f"bearer {KEY}"  # the server lowers headers
    assert rows[0][0].reason == "the key is ***"
    judge.cache.close()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for place in (repr(judge), repr(vars(judge)), str(pickle.dumps(judge)), caplog.text, str(judge.measures())):
        assert KEY not in place
    assert KEY.encode() not in files


@pytest.mark.parametrize(("arguments", "message"), [
    ({"per": "rubric"}, "`per` must be 'response' or 'criterion', got 'rubric'"), ({"temperature": -1.0}, "`temperature` must be >= 0"),
    ({"body": {"messages": []}}, "`body` must hold further parameters, got 'messages'"),
    ({"prompt_price": -1.0}, "`prompt_price` must be >= 0"), ({"key_env": "sk-secret-1"}, "not the key itself"),
    ({"url": "http://h/v1?api_key=s"}, r"`url` must end with its path \(h\)"),
    ({"template": "/nowhere"}, "`template` must be a readable file"),
    ({"cache_bytes": 5, "cache": "x"}, "`max_bytes` must be >= 65536, got 5"),
])  # fmt: skip
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HTTPJudge(**{"url": "http://localhost", "model": "m", **arguments})
