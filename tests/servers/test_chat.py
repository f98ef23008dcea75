"""The chat client against a server on this machine that answers, refuses, stumbles, or is not there."""

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lightning_focal.servers import AgainError, ChatClient, ChatRefused, ChatReply, ChatUnavailable, ChatUnusable
from lightning_focal.servers.replies import retry_after
from tests.servers.fake import serving

CHAT = ({"role": "user", "content": "Hi"},)
KEY = "sk-very-secret-1234"


def ask(url, count=1, body=None, model="tiny", client=None, **kwargs):
    """Ask ``count`` times, as often at once as the client allows; return the replies."""
    options = {"first_wait_s": 0.02, "max_wait_s": 0.05, "deadline_s": 10.0, **kwargs}
    with client or ChatClient(url, model, **options) as client:
        jobs = (client.ask(lambda: {"messages": CHAT, **(body or {})}, lambda reply: reply) for _ in range(count))
        return list(client.run(lambda: next(jobs, None)))


def models(url, **kwargs):
    with ChatClient(url, "tiny", **kwargs) as client:
        return client.start(client.models()).result()


def test_messages_in_text_and_usage_out(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)  # of another server
    with serving(["Hello."]) as server:
        body = {"temperature": 0.5, "response_format": {"type": "json_object"}, "top_k": 3}
        (reply,) = ask(server.url, body={**body, "seed": None})
        assert reply == ChatReply("Hello.", "stop", 7, 3)
        assert server.requests == [{"model": "tiny", "messages": [*CHAT], **body}]
        assert "authorization" not in server.headers[0]
        assert KEY not in str(server.headers)


@pytest.mark.parametrize(("content", "reply"), [
    ('{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}', ChatReply("", "length", instead="empty content")),
    ('{"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}], "usage": null}', ChatReply("ab")),
    ('{"choices": [{"message": {"content": [{"type": "thinking", "text": "no"}, {"type": "text", "text": "met"}]}}]}', ChatReply("met")),
    ('{"choices": [{"message": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "met"}]}]}}]}',
     ChatReply("", instead="empty content, text in `thinking` alone")),
    ('{"choices": [{"message": {"content": [{"type": "refusal", "refusal": "No."}]}}]}', ChatReply("", instead="a refusal: No.")),
    ('{"choices": [{"message": {"content": "met"}, "finish_reason": "MAX_TOKENS"}]}', ChatReply("met", "length")),
    ('{"choices": [{"message": {"role": "assistant"}}]}', ChatReply("", instead="empty content")),
    ('{"choices": [{"message": {"content": " ", "refusal": "I am sorry."}}]}', ChatReply(" ", instead="a refusal: I am sorry.")),
    ('{"choices": [{"message": {"content": "met"}, "finish_reason": "content_filter"}]}',
     ChatReply("met", "content_filter", instead="the server's content filter ended the reply")),
    ('{"choices": [{"message": {"tool_calls": [{"function": {"name": "submit"}}, {"function": {"name": "a"}}]}}]}',
     ChatReply("", instead="a tool call in place of text (submit, a)")),
    ('{"choices": [{"message": {"content": "a", "tool_calls": [{"function": {"name": "f"}}]}}]}', ChatReply("a")),
    ('{"choices": [{"message": {"reasoning": null, "reasoning_content": "met"}}]}',
     ChatReply("", instead="empty content, text in `reasoning_content` alone")),
    ('{"choices": [{"message": {"content": "", "reasoning": "met"}}]}',
     ChatReply("", instead="empty content, text in `reasoning` alone")),
    ('{"choices": [{"message": {"content": "a", "reasoning": "met"}}]}', ChatReply("a")),
    ('{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "7", "completion_tokens": true}}', ChatReply("a")),
])  # fmt: skip
def test_unusual_completions(content, reply):
    with serving([(200, {}, content)]) as server:
        assert ask(server.url) == [reply]


@pytest.mark.parametrize("first", [
    (500, {}, "boom"),
    (503, {"Retry-After": "soon"}, ""),
    (429, {}, "slow down"),
    (408, {}, ""),
    (200, {}, "{not json"),
    (200, {}, '{"choices": []}'),
    (200, {}, '["a list"]'),
    (200, {}, '{"choices": [{"message": {"content": 7}}]}'),
    (200, {"Content-Type": "text/html"}, "<html>"),
    lambda handler: handler.connection.close(),
], ids=["500", "503", "429", "408", "broken json", "no choice", "a list", "a number", "html", "hung up"])  # fmt: skip
def test_what_may_succeed_later_is_tried_again(first):
    with serving([first, first, "ok"]) as server:
        state = random.getstate()
        assert ask(server.url)[0].text == "ok"
        assert len(server.requests) == 3
        assert random.getstate() == state  # jitter leaves the global dice alone


def test_waits_grow_and_have_a_bound():
    with serving([(500, {}, "")] * 4 + ["ok"]) as server:
        ask(server.url, first_wait_s=0.1, max_wait_s=0.3)
    waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert len(waits) == 4
    for wait, bound in zip(waits, [0.1, 0.2, 0.3, 0.3], strict=True):
        assert bound / 2 <= wait <= bound + 0.5  # the rest is this machine's


def test_retry_after_is_honoured():
    with serving([(429, {"Retry-After": "1"}, "wait"), "ok"]) as server:
        assert ask(server.url)[0].text == "ok"
        assert server.times[1] - server.times[0] >= 1.0
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 <= retry_after(later) <= 30
    assert [retry_after(value) for value in ("-3", "nan", None)] == [0.0, None, None]


def test_attempts_and_time_run_out():
    said = r"gave no usable reply in 3 of at most 3 tries and 10 s: status 500: boom boom"
    with serving([(500, {}, "boom\nboom")]) as server:
        with pytest.raises(ChatUnavailable, match=said):
            ask(server.url, attempts=3)
        assert len(server.requests) == 3
    with serving([(429, {"Retry-After": "3600"}, "quota")]) as server:  # what is beyond the deadline is not slept through
        began = time.monotonic()
        with pytest.raises(ChatUnavailable, match=r"1 of at most 6 tries and 10 s: status 429, asks to wait 3600 s: quota"):
            ask(server.url)
        assert time.monotonic() - began < 2
    with serving(lambda request, number: lambda handler: time.sleep(2)) as server:
        began = time.monotonic()
        with pytest.raises(ChatUnavailable, match=r"0.5 s"):
            ask(server.url, deadline_s=0.5)
        assert time.monotonic() - began < 1.5


def test_a_try_has_a_time_limit_even_where_the_server_trickles():
    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    with serving([trickle, "ok"]) as server:
        assert ask(server.url, timeout_s=0.3)[0].text == "ok"
        assert server.times[1] - server.times[0] < 1.5


def test_limits_of_concurrency_and_pace():
    def slow(request, number):
        time.sleep(0.05)
        return "ok"

    with serving(slow) as server:
        assert len(ask(server.url, count=12, concurrency=3)) == 12
        assert 1 < server.most_at_once <= 3
        began = time.monotonic()
        ask(server.url, count=4, requests_per_minute=600)
        assert 0.3 <= time.monotonic() - began < 2.0


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_has_a_bound(announced):
    def huge(handler):
        handler.send_response(200)
        if announced:
            handler.send_header("Content-Length", str(10 << 20))
        handler.end_headers()
        for _ in range(160):
            handler.wfile.write(b" " * 65536)
        handler.close_connection = True

    with serving(lambda request, number: huge) as server, pytest.raises(ChatUnavailable, match="is longer than 4 MiB"):
        ask(server.url, attempts=1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key(status, monkeypatch, caplog):
    with serving(["ok", (403, {}, "flagged")]) as server, pytest.raises(ChatRefused, match="status 403: flagged"):
        ask(server.url, count=2, concurrency=1)  # about one request: the key was taken before
    monkeypatch.setenv("MY_KEY", KEY)
    said = rf"rejects the key in 'MY_KEY' \(status {status}: Incorrect API key provided: \*\*\*"
    with serving([(status, {}, f"Incorrect API key provided: {KEY}")]) as server, caplog.at_level(logging.DEBUG):
        with pytest.raises(ChatUnusable, match=said) as caught:
            ask(server.url, key_env="MY_KEY")
        assert len(server.requests) == 1
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        with pytest.raises(ChatUnusable, match=r"wants a key: name the variable that holds it"):
            ask(server.url)
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text
    with serving([f"your key is {KEY}"]) as server:
        client = ChatClient(server.url, "tiny", "MY_KEY")
        assert ask(server.url, client=client)[0].text == "your key is ***"
        assert KEY not in repr(vars(client))


@pytest.mark.parametrize(("env", "value", "said"), [
    ("MY_KEY", "", "`key_env` must name an environment variable that holds the key, 'MY_KEY' is not set"),
    ("MY_KEY", "sécret", "'MY_KEY' must hold a key of plain characters"),
    ("sk-secret-1", "", "`key_env` must be the name of an environment variable that holds the key, not the key itself"),
    ("sk_secret_1", "", "`key_env` must name an environment variable that holds the key, what it names is not set"),
    ("secret key", "", "not the key itself"), ("", "", "not the key itself"),
])  # fmt: skip
def test_keys_that_are_none_are_not_repeated(env, value, said, monkeypatch):
    if value:
        monkeypatch.setenv(env, value)
    with pytest.raises(ValueError, match=said) as caught:
        ChatClient("http://localhost", "tiny", env)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(("status", "body", "offered", "error", "said"), [
    (404, "no such model", ("small", "large"), ChatUnusable, r"knows no model 'tiny'.*such model\); it offers small, large"),
    (404, "", None, ChatUnusable, "knows no model 'tiny'"),
    (400, '{"error": {"code": "model_not_found"}}', None, ChatUnusable, "knows no model 'tiny'"),
    (400, '{"error": "the prompt says model_not_found"}', None, ChatRefused, "refuses the request"),
    (400, "Server is pinned to 'small'; requested 'tiny'", ("small",), ChatUnusable, "knows no model 'tiny'"),
    (400, "Server is pinned to 'small'; requested 'tiny'", None, ChatUnusable, "knows no model 'tiny'"),
    (400, "tiny takes no temperature", ("tiny",), ChatRefused, r"status 400: tiny takes"),  # it is offered
    (413, "context length exceeded", ("tiny",), ChatRefused, r"refuses the request \(status 413: context length exceeded\)"),
    (422, "context length exceeded", ("tiny",), ChatRefused, r"refuses the request \(status 422: context length exceeded\)"),
    (302, "elsewhere", ("tiny",), ChatRefused, r"refuses the request \(status 302: elsewhere\)"),
])  # fmt: skip
def test_unknown_models_and_refused_requests(status, body, offered, error, said):
    with serving([(status, {}, body)], models=offered) as server:
        with pytest.raises(error, match=said):
            ask(server.url)
        assert len(server.requests) == 1


def test_which_models_there_are_and_nobody_is_there(monkeypatch):
    for offered, said in ((("tiny", "large"), ["tiny", "large"]), (None, [])):
        with serving(["ok"], models=offered) as server:
            assert models(server.url) == said
            assert server.requests == []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ChatUnusable, match=rf"no server answers at {closed}/v1 .*is it running\?"):
        models(closed)
    with pytest.raises(ChatUnavailable, match=r"2 of at most 2 tries.*ClientConnectorError"):
        ask(closed, attempts=2)
    with serving(["by proxy"]) as server:  # that of the environment
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        assert ask("http://judge.example/v1")[0].text == "by proxy"
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        assert ask(server.url)[0].text == "by proxy"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"url": "localhost:8000"}, "`url` must be the address of an API such as http://localhost:8000/v1, got 'localhost:8000'"),
    ({"url": "http://host:port"}, "`url` must be the address"),
    ({"url": "http://me:pass@host"}, r"`url` must hold no user or password \(host\)"),
    ({"url": "http://host/v1?key=secret"}, r"`url` must end with its path \(host\)"),
    ({"requests_per_minute": 0}, "`requests_per_minute` must be > 0, or null for no limit, got 0"),
    ({"model": " "}, "`model` must name the model"), ({"attempts": 0}, "`attempts` must be >= 1, got 0"),
    ({"deadline_s": float("nan")}, "`deadline_s` must be > 0 seconds, got nan"),
])  # fmt: skip
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChatClient(**{"url": "http://localhost", "model": "tiny", **arguments})


def test_a_reply_that_cannot_be_read_is_asked_for_anew():
    asked = []

    def compose():
        asked.append(len(asked))
        return {"messages": CHAT, "seed": len(asked)}

    def read(reply):
        if reply.text != "good":
            raise AgainError(f"no use: {reply.text}")
        return 42

    with serving(["bad", "worse", "good", "bad"]) as server:
        client = ChatClient(server.url, "tiny", attempts=3, first_wait_s=0.01)
        with client:
            assert client.start(client.ask(compose, read)).result() == 42
        assert [request["seed"] for request in server.requests] == [1, 2, 3]
        took = client.measures()
        assert [took[name] for name in ("requests", "retries", "prompt_tokens", "completion_tokens")] == [3, 2, 21, 9]
        assert 0 < took["latency_s"] <= took["latency_max_s"]
        with client, pytest.raises(ChatUnavailable, match=r"no use: bad$"):  # closed, and used again
            client.start(client.ask(compose, read)).result()


def test_ctrl_c_ends_the_wait_and_leaves_nothing_behind(caplog):
    def stuck(handler):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(3)

    with serving(lambda request, number: stuck if number == 2 else "ok") as server, caplog.at_level(logging.ERROR, "asyncio"):
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask(server.url, count=9, concurrency=2)
        assert time.monotonic() - began < 2
        assert all(thread.name != "chat" for thread in threading.enumerate())
    gc.collect()  # asyncio complains of an error that nobody asked for when its task goes
    assert not caplog.records


def test_the_time_that_is_waited_for_jobs():
    with ChatClient("http://localhost", "tiny", concurrency=2) as client:
        jobs = iter([asyncio.sleep(0, "a"), asyncio.sleep(9, "b")])
        assert list(client.run(lambda: next(jobs, None), seconds=0.3)) == ["a"]
