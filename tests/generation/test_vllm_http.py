"""What is repeated, what is not, and what is said, against a small HTTP server."""

import json
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from lightning_focal.generation.vllm_http import ServerError, VLLMServer


@pytest.fixture
def replies(monkeypatch):
    """A server that gives the replies it is given, the last one again and again; keeps what it was asked."""
    monkeypatch.setattr("lightning_focal.generation.vllm_http.time.sleep", lambda seconds: waits.append(seconds))
    waits, asked, given = [], [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.path, json.loads(body or b"null"), self.headers.get("Authorization")))
            status, content = given.pop(0) if len(given) > 1 else given[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield SimpleNamespace(url=url, asked=asked, given=given, waits=waits)
    server.shutdown()
    server.server_close()


CHOICE = {
    "index": 0,
    "token_ids": [5, 1],
    "logprobs": {"content": [{"logprob": -0.25}, {"logprob": -1.5}]},
    "weight_versions": [{"version": "a", "start": 0, "end": 2}],
    "finish_reason": "stop",
}


def test_what_may_pass_is_tried_again(replies):
    replies.given += [(503, b"busy"), (200, b'{"choices": '), (500, {"error": {"message": "x"}}), (200, {"choices": [CHOICE]})]
    (answer,) = VLLMServer(replies.url, attempts=4).generate([7, 8], {"n": 1, "seed": 2**63 - 1})
    assert (answer.tokens, answer.logp, answer.labels, answer.finished) == ((5, 1), (-0.25, -1.5), ("a",), "stop")
    assert replies.waits == [1.0, 2.0, 4.0]
    assert replies.asked[-1][:2] == (
        "/inference/v1/generate",
        {"token_ids": [7, 8], "sampling_params": {"n": 1, "seed": 2**63 - 1}},
    )


def test_answers_come_in_the_order_of_their_seeds(replies):
    replies.given.append((200, {"choices": [{**CHOICE, "index": 1, "token_ids": [9, 1]}, CHOICE]}))
    assert [answer.tokens[0] for answer in VLLMServer(replies.url).generate([7], {})] == [5, 9]


def test_a_refusal_is_final_and_repeated_in_words(replies):
    replies.given.append((400, {"error": {"message": "n must be at most 128"}}))
    with pytest.raises(
        ServerError, match=rf"{replies.url} did not answer /inference/v1/generate \(status 400: n must be at most 128\)"
    ):
        VLLMServer(replies.url).generate([7], {})
    assert len(replies.asked) == 1


def test_tries_run_out(replies):
    replies.given.append((503, b"busy"))
    with pytest.raises(ServerError, match=r"in 3 tries \(status 503: busy\)"):
        VLLMServer(replies.url, attempts=3).generate([7], {})
    assert len(replies.asked) == 3


def test_weights_that_a_server_cannot_read_are_not_tried_again(replies):
    replies.given += [(200, {}), (500, {"error": {"message": "no such folder"}})]
    with pytest.raises(ServerError, match=r"no such folder.*must see /there under this very path.*Start it anew"):
        VLLMServer(replies.url).reload("/there", "run/1")
    assert [path for path, *_ in replies.asked] == ["/update_weight_version", "/collective_rpc"]
    assert replies.asked[0][1] == {"new_version": "loading run/1"}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ([(200, {"results": [None]}), (200, {"world_size": 2})], "2 workers, of which 1 took"),
        ([(200, {"results": [None]}), (200, {"world_size": 1}), (200, {"success": False})], "did not empty its prefix cache"),
        (
            [
                (200, {"results": [None]}),
                (200, {"world_size": 1}),
                (200, {"success": True}),
                (200, {}),
                (200, {"weight_version": "b"}),
            ],
            "calls its weights 'b'.*somebody else",
        ),
    ],
)
def test_half_a_sync_is_an_error(replies, last, message):
    replies.given += [(200, {}), *last]
    with pytest.raises(ServerError, match=message):
        VLLMServer(replies.url).reload("/there", "run/1")


def test_the_key_is_sent_and_never_shown(replies, monkeypatch):
    monkeypatch.setenv("LF_TEST_KEY", "sesame")
    replies.given.append((401, b"sesame is not the word"))
    with pytest.raises(ServerError) as raised:
        VLLMServer(replies.url, key_env="LF_TEST_KEY").name("x")
    assert "sesame" not in str(raised.value)
    assert replies.asked[0][2] == "Bearer sesame"


@pytest.mark.parametrize(
    ("found", "waits"), [(["a/1"], []), (["loading a/1", "loading a/1", "a/1"], [1, 2]), (["loading b/7"], None)]
)
def test_the_same_weights_may_come_by_another_address(monkeypatch, found, waits):
    """Two addresses of one server are told of new weights at the same time."""
    server, slept, names = VLLMServer("http://127.0.0.1:1"), [], list(found)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(server, "post", lambda *_: {"success": True})
    monkeypatch.setattr(server, "label", lambda: names.pop(0))
    with nullcontext() if waits is not None else pytest.raises(ServerError, match="somebody else writes to it"):
        server.settle("a/1")
    assert not names
    assert slept == (waits or [])
