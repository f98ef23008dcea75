"""What a server is asked, what is repeated and what is said, against a small HTTP server that behaves like vLLM's."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from lightning_focal.generation import Sampling, VLLMServerGenerator
from lightning_focal.generation.vllm_http import ServerError, VLLMServer
from tests.processes import run_ranks

from .helpers import make_prompts
from .vllm_checks import roll, tiny_policy


class Fake:
    """A server that gives the replies in ``given`` and behaves well once they are used up; it keeps what it was asked."""

    def __init__(self, **config):
        self.config, self.asked, self.given, self.label, self.weights = config, [], [], "none", None

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or b"null")
                path = handler.path.split("?")[0]
                self.asked.append((path, body, handler.headers.get("Authorization")))
                status, content = self.given.pop(0) if self.given else (200, self.behave(path, body))
                handler.send_response(status)
                handler.end_headers()
                handler.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def behave(self, path, body):
        if path == "/update_weight_version":
            self.label = body["new_version"]
        elif path == "/collective_rpc":
            self.weights = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
        elif path == "/inference/v1/generate":
            versions = [{"version": self.label, "start": 0, "end": 2}]
            return {
                "choices": [
                    {**CHOICE, "index": i, "weight_versions": versions} for i in range(body["sampling_params"].get("n", 1))
                ]
            }
        return {
            "/weight_info": {"weight_version": self.label},
            "/collective_rpc": {"results": [None]},
            "/get_world_size": {"world_size": 1},
            "/reset_prefix_cache": {"success": True},
            "/v1/models": {"data": [{"max_model_len": 256}]},
            "/server_info": {"vllm_config": self.config},
        }.get(path)


CHOICE = {
    "index": 0,
    "token_ids": [5, 1],
    "logprobs": {"content": [{"logprob": -0.25}, {"logprob": -1.5}]},
    "weight_versions": [{"version": "a", "start": 0, "end": 2}],
    "finish_reason": "stop",
}
CPU = {"device_config": {"device": "cpu"}}


@pytest.fixture
def fake(monkeypatch):
    fake = Fake()
    fake.waits = []
    monkeypatch.setattr("lightning_focal.generation.vllm_http.time", SimpleNamespace(sleep=fake.waits.append))
    yield fake
    fake.http.shutdown()
    fake.http.server_close()


def test_what_may_pass_is_tried_again_and_answers_are_in_order(fake):
    fake.given += [
        (503, b"busy"),
        (200, b'{"choices": '),
        (500, {"error": "x"}),
        (200, {"choices": [{**CHOICE, "index": 1, "token_ids": [9, 1]}, CHOICE]}),
    ]
    params = {"n": 2, "seed": 2**63 - 1}
    answer, _ = VLLMServer(fake.url, attempts=4).generate([7, 8], params)
    assert (answer.tokens, answer.logp, answer.labels, answer.finished) == ((5, 1), (-0.25, -1.5), ("a",), "stop")
    assert fake.waits == [1.0, 2.0, 4.0]
    assert fake.asked[-1][:2] == ("/inference/v1/generate", {"token_ids": [7, 8], "sampling_params": params})


@pytest.mark.parametrize(
    ("status", "text", "tries", "message"),
    [
        (400, b"n must be at most 128", 1, r" \(status 400: n must be at most 128\)"),
        (503, b"busy", 3, r" in 3 tries \(status 503: busy\)"),
        (401, b"sesame is not the word", 1, r" \(status 401: \*\*\* is not the word\)"),
    ],
)
def test_refusals_are_final_and_tries_run_out(fake, monkeypatch, status, text, tries, message):
    """What the server says is repeated, its key is sent and never shown."""
    monkeypatch.setenv("LF_TEST_KEY", "sesame")
    fake.given += [(status, text)] * 5
    with pytest.raises(ServerError, match=rf"{fake.url} did not answer /inference/v1/generate{message}"):
        VLLMServer(fake.url, key_env="LF_TEST_KEY", attempts=3).generate([7], {})
    assert [key for *_, key in fake.asked] == ["Bearer sesame"] * tries


WORKERS = [(200, {"results": [None]}), (200, {"world_size": 1})]


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([(500, b"no such folder")], r"no such folder.*must see /there under this very path.*Start it anew"),
        ([WORKERS[0], (200, {"world_size": 2})], "2 workers, of which 1 took"),
        ([*WORKERS, *[(200, {"success": False})] * 4], "did not empty its prefix cache"),
        (
            [*WORKERS, (200, {"success": True}), (200, {}), (200, {"weight_version": "b"})],
            "calls its weights 'b'.*somebody else",
        ),
    ],
)
def test_half_a_sync_is_an_error(fake, replies, message):
    fake.given += [(200, {}), *replies]
    with pytest.raises(ServerError, match=message):
        VLLMServer(fake.url).reload("/there", "run/1")
    assert not fake.given
    assert fake.asked[0][:2] == ("/update_weight_version", {"new_version": "loading run/1"})


def test_the_same_weights_may_come_by_another_address(fake):
    """Two addresses of one server are told of new weights at the same time."""
    passing = [(200, {"weight_version": "loading run/1"})] * 2
    fake.given += [(200, {}), *WORKERS, (200, {"success": True}), (200, {}), *passing, (200, {"weight_version": "run/1"})]
    VLLMServer(fake.url).reload("/there", "run/1")
    assert fake.waits == [1.0, 2.0]


def test_a_server_that_cannot_do_what_is_needed_is_named(fake):
    with pytest.raises(ServerError, match=r"http://127\.0\.0\.1:9 did not answer /v1/models .*refused"):
        VLLMServerGenerator([fake.url, "http://127.0.0.1:9"], attempts=1).start(Sampling())
    fake.config = {**CPU, "scheduler_config": {"enable_chunked_prefill": True}}
    with pytest.raises(ServerError, match=rf"{fake.url} splits long prompts.*--no-enable-chunked-prefill"):
        VLLMServerGenerator(fake.url).start(Sampling())


def test_an_output_layer_that_a_server_would_not_renew_is_refused_before_anything_is_sent(fake):
    """Also where nobody asked the server before."""
    fake.config, (policy, _) = CPU, tiny_policy()
    with pytest.raises(ValueError, match="runs on a CPU and would keep the old output layer"):
        VLLMServerGenerator(fake.url).sync(tiny_policy(tied=True)[0], 0)
    assert fake.weights is None
    VLLMServerGenerator(fake.url).sync(policy, 0)
    assert torch.equal(fake.weights["lm_head.weight"], policy.lm_head.weight)


def test_a_group_is_told_once_its_prompt_is_answered(fake):
    """The first prompt is not answered before the others have been told of."""
    generator, told, behave = VLLMServerGenerator(fake.url), [], fake.behave
    others = threading.Event()

    def slow(path, body):
        if path == "/inference/v1/generate" and body["sampling_params"]["seed"] == 10:
            assert others.wait(20)
        return behave(path, body)

    def finished(row, place, text):
        told.append((row, place, text))
        if len(told) == 4:
            others.set()

    (policy, tokenizer), fake.behave = tiny_policy(), slow
    generator._unproven = 0  # no policy gave these answers
    generator.sync(policy, 0)
    prompts = make_prompts(tokenizer, ("One?", "Two?", "Three?"))
    arguments = {"group_size": 2, "seeds": [10, 20, 30], "sampling": Sampling(max_new_tokens=2)}
    rollouts = generator.generate(policy, tokenizer, prompts, **arguments, finished=finished)
    assert {row for row, *_ in told[:4]} == {1, 2}
    assert [row for row, *_ in told[4:]] == [0, 0]
    assert set(told) == {(p, g, rollouts.texts[p][g]) for p in range(3) for g in range(2)}


def hands_over(rank, folder):
    from torch.distributed.fsdp import fully_shard

    fake, urls = Fake() if rank == 0 else None, [None]
    urls = [fake.url if fake else None]
    dist.broadcast_object_list(urls, src=0)
    (whole, _), (policy, tokenizer) = tiny_policy(), tiny_policy()
    for part in (*policy.model.layers, policy):
        fully_shard(part, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    generator = VLLMServerGenerator(urls[0], folder=folder, attempts=1)
    generator._unproven = 0  # the fake's answers are nobody's
    rollouts = roll(generator, policy, tokenizer, Sampling(max_new_tokens=4))
    assert rollouts.response_ids[..., 0].unique().tolist() == [5]
    dist.barrier()  # both have their answers before the next ones are prepared
    if fake:
        assert fake.weights.keys() == dict(whole.named_parameters()).keys()
        assert all(torch.equal(fake.weights[name], value) for name, value in whole.named_parameters())
        fake.given += [(200, {}), (500, b"disk")]
    with pytest.raises(RuntimeError, match="disk" if fake else "the first process failed: ServerError.*disk"):
        generator.sync(policy, 1)
    generator.sync(policy, 2)
    assert len(list(Path(folder).iterdir())) == 1 + 1  # the last one, and the one that was not read


@pytest.mark.slow
def test_two_processes_hand_over_a_sharded_policy_and_fail_together(tmp_path):
    run_ranks(hands_over, str(tmp_path))
