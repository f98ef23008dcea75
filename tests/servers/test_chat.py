"""The chat client against a server on this machine that answers, refuses, stumbles, or is not there."""

import asyncio
import logging
import random
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lightning_focal.servers import AgainError, ChatClient, ChatRefused, ChatReply, ChatUnavailable, ChatUnusable, Pace
from lightning_focal.servers.address import proxy_of
from lightning_focal.servers.replies import retry_after
from tests.servers.fake import completion, serving

CHAT = ({"role": "user", "content": "Hi"},)
KEY = "sk-very-secret-1234"


def ask(url, chat=CHAT, count=1, body=None, model="tiny", **kwargs):
    """Ask ``count`` times at once; return the replies."""
    options = {"first_wait_s": 0.02, "max_wait_s": 0.05, "deadline_s": 10.0, **kwargs}

    async def run():
        async with ChatClient(url, model, **options) as client:
            return await asyncio.gather(*(client.complete(chat, **(body or {})) for _ in range(count)))

    return asyncio.run(run())


def check(url, **kwargs):
    async def run():
        async with ChatClient(url, "tiny", **kwargs) as client:
            await client.check()

    asyncio.run(run())


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_messages_in_text_and_usage_out():
    with serving(["Hello."]) as server:
        (reply,) = ask(server.url, body={"temperature": 0.5, "seed": None, "response_format": {"type": "json_object"}})
        assert reply == ChatReply("Hello.", "stop", 7, 3)
        assert server.requests == [
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": "Hi"}],
                "temperature": 0.5,
                "response_format": {"type": "json_object"},
            }
        ]
        assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        ('{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}', ChatReply("", "length")),
        (
            '{"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}], "usage": null}',
            ChatReply("ab"),
        ),
        ('{"choices": [{"message": {"role": "assistant"}}]}', ChatReply("")),
    ],
)
def test_unusual_completions(content, reply):
    with serving([(200, {}, content)]) as server:
        assert ask(server.url) == [reply]


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:{}", "http://127.0.0.1:{}/", "http://127.0.0.1:{}/v1/", "http://127.0.0.1:{}/v1/chat/completions"],
)
def test_addresses(address):
    with serving(["ok"]) as server:
        assert ask(address.format(server.http.server_port))[0].text == "ok"


@pytest.mark.parametrize(
    "first",
    [
        (500, {}, "boom"),
        (503, {"Retry-After": "soon"}, ""),
        (429, {}, "slow down"),
        (408, {}, ""),
        (200, {}, "{not json"),
        (200, {}, '{"choices": []}'),
        (200, {}, '["a list"]'),
        (200, {}, '{"choices": [{"message": {"content": 7}}]}'),
        lambda handler: handler.connection.close(),
    ],
    ids=["500", "503", "429", "408", "broken json", "no choice", "a list", "a number", "hung up"],
)
def test_what_may_succeed_later_is_tried_again(first):
    with serving([first, first, "ok"]) as server:
        assert ask(server.url)[0].text == "ok"
        assert len(server.requests) == 3


def test_waits_grow_and_have_a_bound():
    with serving([(500, {}, "")] * 4 + ["ok"]) as server:
        ask(server.url, first_wait_s=0.1, max_wait_s=0.3)
    waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert len(waits) == 4
    for wait, bound in zip(waits, [0.1, 0.2, 0.3, 0.3], strict=True):
        assert bound / 2 <= wait <= bound + 0.5  # the rest is this machine's


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status):
    with serving([(status, {"Retry-After": "1"}, "wait"), "ok"]) as server:
        assert ask(server.url)[0].text == "ok"
        assert server.times[1] - server.times[0] >= 1.0


def test_retry_after_beyond_the_deadline_is_not_slept_through():
    with serving([(429, {"Retry-After": "3600"}, "quota")]) as server:
        began = time.monotonic()
        with pytest.raises(ChatUnavailable, match=r"1 of at most 6 tries and 10 s: status 429, asks to wait 3600 s: quota"):
            ask(server.url)
        assert time.monotonic() - began < 2


def test_retry_after_as_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 <= retry_after(later) <= 30
    assert retry_after("-3") == 0.0
    assert retry_after("nan") is None
    assert retry_after(None) is None


def test_attempts_run_out():
    with serving([(500, {}, "boom\nboom")]) as server:
        with pytest.raises(
            ChatUnavailable, match=r"gave no usable reply in 3 of at most 3 tries and 10 s: status 500: boom boom"
        ):
            ask(server.url, attempts=3)
        assert len(server.requests) == 3


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


def test_a_request_has_a_deadline():
    def stuck(handler):
        time.sleep(2)

    with serving(lambda request, number: stuck) as server:
        began = time.monotonic()
        with pytest.raises(ChatUnavailable, match=r"0.5 s"):
            ask(server.url, deadline_s=0.5)
        assert time.monotonic() - began < 1.5


def test_the_limit_of_requests_at_a_time():
    def slow(request, number):
        time.sleep(0.05)
        return "ok"

    with serving(slow) as server:
        assert len(ask(server.url, count=12, concurrency=3)) == 12
        assert 1 < server.most_at_once <= 3


# -- what is told at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key(status, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    with serving([(status, {}, f"Incorrect API key provided: {KEY}")]) as server, caplog.at_level(logging.DEBUG):
        with pytest.raises(
            ChatUnusable, match=rf"rejects the key in 'MY_KEY' \(status {status}: Incorrect API key provided: \*\*\*"
        ) as caught:
            ask(server.url, key_env="MY_KEY")
        assert len(server.requests) == 1
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        with pytest.raises(ChatUnusable, match=r"wants a key: name the variable that holds it"):
            ask(server.url)
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text


def test_the_key_is_in_no_attribute(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    client = ChatClient("http://localhost:1", "tiny", "MY_KEY")
    assert KEY not in repr(vars(client))


def test_keys_that_are_none(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ValueError, match=r"`key_env` must name an environment variable that holds the key, 'MY_KEY' is not set"):
        ChatClient("http://localhost", "tiny", "MY_KEY")
    monkeypatch.setenv("MY_KEY", "sécret")
    with pytest.raises(ValueError, match="'MY_KEY' must hold a key of plain characters") as caught:
        ChatClient("http://localhost", "tiny", "MY_KEY")
    assert "cret" not in str(caught.value).replace("secret", "")


def test_an_unknown_model_says_what_there_is():
    with serving([(404, {}, "no such model")], models=("small", "large")) as server:
        with pytest.raises(ChatUnusable, match=r"knows no model 'tiny'.*no such model\); it offers small, large"):
            ask(server.url)
        assert len(server.requests) == 1
    with serving([(404, {}, "")], models=None) as server, pytest.raises(ChatUnusable, match=r"knows no model 'tiny'"):
        ask(server.url)


@pytest.mark.parametrize("status", [400, 413, 422, 302])
def test_a_refused_request(status):
    with serving([(status, {}, "context length exceeded")]) as server:
        with pytest.raises(ChatRefused, match=rf"refuses the request \(status {status}: context length exceeded"):
            ask(server.url)
        assert len(server.requests) == 1


def test_nobody_is_there(closed_port):
    with pytest.raises(ChatUnusable, match=rf"no server answers at http://127.0.0.1:{closed_port}/v1 .*is it running\?"):
        check(f"http://127.0.0.1:{closed_port}")
    with pytest.raises(ChatUnavailable, match=r"2 of at most 2 tries.*ConnectorError"):
        ask(f"http://127.0.0.1:{closed_port}", attempts=2)


def test_check_asks_for_nothing(monkeypatch):
    for models in (("tiny",), None):
        with serving(["ok"], models=models) as server:
            check(server.url)
            assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "localhost:8000"}, "`url` must be the address of an API such as http://localhost:8000/v1, got 'localhost:8000'"),
        ({"url": "http://host:port"}, "`url` must be the address"),
        ({"url": "ftp://host"}, "`url` must be the address"),
        ({"url": "http://me:pass@host"}, r"`url` must hold no user or password \(host\)"),
        ({"url": "http://host/v1?key=secret"}, r"`url` must end with its path \(host\)"),
        ({"requests_per_minute": 0}, "`requests_per_minute` must be > 0, or null for no limit, got 0"),
        ({"model": " "}, "`model` must name the model"),
        ({"concurrency": 0}, "`concurrency` must be >= 1, got 0"),
        ({"attempts": 0}, "`attempts` must be >= 1, got 0"),
        ({"timeout_s": 0}, "`timeout_s` must be > 0 seconds, got 0"),
        ({"deadline_s": float("nan")}, "`deadline_s` must be > 0 seconds, got nan"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChatClient(**{"url": "http://localhost", "model": "tiny", **arguments})


def test_the_global_random_state_is_left_alone():
    state = random.getstate()
    with serving([(500, {}, ""), "ok"]) as server:
        ask(server.url)
    assert random.getstate() == state


def test_a_client_can_be_closed_and_used_again():
    async def run(url):
        client = ChatClient(url, "tiny")
        first = await client.complete(CHAT)
        await client.close()
        second = await client.complete(CHAT)
        await client.close()
        return first.text, second.text

    with serving([(200, {}, completion("a")), "b"]) as server:
        assert asyncio.run(run(server.url)) == ("a", "b")


# -- asking until a reply can be read -------------------------------------------------------------------------------------------


def test_a_reply_that_cannot_be_read_is_asked_for_anew():
    asked = []

    def compose():
        asked.append(len(asked))
        return {"messages": CHAT, "seed": len(asked)}

    def read(reply):
        if reply.text != "good":
            raise AgainError(f"no use: {reply.text}")
        return 42

    async def run(url, attempts):
        async with ChatClient(url, "tiny", attempts=attempts, first_wait_s=0.01) as client:
            try:
                return await client.ask(compose, read), client.tally
            except ChatUnavailable as error:
                return error, client.tally

    with serving(["bad", "worse", "good"]) as server:
        value, tally = asyncio.run(run(server.url, 5))
        assert value == 42
        assert [request["seed"] for request in server.requests] == [1, 2, 3]
    assert (tally.requests, tally.retries, tally.replies, tally.prompt_tokens, tally.completion_tokens) == (3, 2, 3, 21, 9)
    assert 0 < tally.latency_s <= tally.slowest
    with serving(["bad"]) as server:
        error, _ = asyncio.run(run(server.url, 2))
        assert str(error).endswith("no use: bad")


def test_the_key_is_not_in_a_reply_s_text(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with serving([f"your key is {KEY}"]) as server:
        assert ask(server.url, key_env="MY_KEY")[0].text == "your key is ***"


@pytest.mark.parametrize("env", ["sk-secret-1", "sk_secret_1", "secret key", ""])
def test_a_key_in_place_of_its_name_is_not_repeated(env):
    with pytest.raises(ValueError, match="`key_env`") as caught:
        ChatClient("http://localhost", "tiny", env)
    assert "secret" not in str(caught.value)


def test_a_model_that_is_not_found_by_status_400():
    said = '{"error": {"code": "model_not_found"}}'
    with serving([(400, {}, said)]) as server, pytest.raises(ChatUnusable, match="knows no model 'tiny'"):
        ask(server.url)
    with serving([(400, {}, '{"error": "the prompt says model_not_found"}')]) as server, pytest.raises(ChatRefused):
        ask(server.url)


def test_a_model_that_is_refused_in_words_alone():
    said = "{\"detail\": \"Server is pinned to 'small'; requested 'tiny'.\"}"
    for models in (("small",), None):
        with serving([(400, {}, said)], models=models) as server, pytest.raises(ChatUnusable, match="knows no model 'tiny'"):
            ask(server.url)
    with serving([(400, {}, '{"detail": "tiny takes no temperature"}')], models=("tiny",)) as server, pytest.raises(ChatRefused):
        ask(server.url)  # it is offered: the request is what is wrong


def test_one_request_that_is_forbidden():
    async def run(url):
        async with ChatClient(url, "tiny") as client:
            await client.complete(CHAT)
            await client.complete(CHAT)

    with serving(["ok", (403, {}, "flagged")]) as server, pytest.raises(ChatRefused, match="status 403: flagged"):
        asyncio.run(run(server.url))


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


def test_usage_of_wrong_types_is_not_counted():
    body = '{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "7", "completion_tokens": true}}'
    with serving([(200, {}, body)]) as server:
        assert ask(server.url) == [ChatReply("a")]


def test_check_says_which_models_there_are():
    async def run(url):
        async with ChatClient(url, "tiny") as client:
            return await client.check()

    for models, said in ((("tiny", "large"), ["tiny", "large"]), (None, [])):
        with serving(["ok"], models=models) as server:
            assert asyncio.run(run(server.url)) == said


def test_requests_keep_their_distance():
    async def run():
        pace, began = Pace(600), time.monotonic()
        await asyncio.gather(*(pace.turn() for _ in range(4)))
        return time.monotonic() - began

    assert 0.3 <= asyncio.run(run()) < 1.0


def test_the_environment_s_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    assert proxy_of("http://judge.example/v1") == "http://proxy:3128"
    assert proxy_of("http://localhost:8000/v1") is None
