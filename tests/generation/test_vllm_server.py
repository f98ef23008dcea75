"""A vLLM server beside the trainer, on a CPU: weights after every update, whose they are, and what is said when it is not there."""

import copy
import os
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import pytest
import torch

from lightning_focal.generation import Sampling, VLLMGenerator, VLLMServerGenerator
from lightning_focal.generation.vllm_http import ServerError
from lightning_focal.models import export_policy

from .helpers import make_prompts, responses
from .vllm_checks import MARKS, gap, tiny_policy, update

pytestmark = [*MARKS, pytest.mark.slow]
SEEDS = [11, 12, 13, 14]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(folder, log, *arguments, dev="1"):
    """Start a server as the guide says; return its address and process."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "256", "--kv-cache-memory-bytes", str(64 << 20), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--no-enable-chunked-prefill", *arguments]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": dev, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    return SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, process=process, log=log)


def wait_for(server, seconds=200):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(server.log.read_text()[-3000:])
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
            return server
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(server.log.read_text()[-3000:])


def stop(server):
    server.process.terminate()
    try:
        server.process.wait(20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    policy, tokenizer = tiny_policy()
    export_policy(policy, tokenizer, folder / "model")
    server = serve(folder / "model", folder / "log", "--enable-scale-out")
    try:
        yield wait_for(server)
    finally:
        stop(server)


def roll(generator, policy, tokenizer, sampling=Sampling(max_new_tokens=16), seeds=SEEDS, group_size=4, prompts=None):  # noqa: B008
    prompts = prompts or make_prompts(tokenizer)
    return generator.generate(policy, tokenizer, prompts, group_size=group_size, seeds=seeds, sampling=sampling)


def test_after_each_of_twenty_updates_it_has_the_new_weights(server, tmp_path):
    """Two addresses of one server: prompts are dealt out, both are told of new weights."""
    policy, tokenizer = tiny_policy()
    generator = VLLMServerGenerator([server.url, f"http://localhost:{server.port}"], folder=str(tmp_path))
    generator.start(Sampling(), needs_logp=True)
    optimizer, rollouts = torch.optim.SGD(policy.parameters(), lr=0.02), None
    for version in range(21):
        before = copy.deepcopy(policy)
        if rollouts is not None:
            update(policy, optimizer, rollouts)
        generator.sync(policy, version)
        rollouts = roll(generator, policy, tokenizer)
        assert rollouts.version == version
        assert gap(policy, rollouts) < 1e-5
        if version:
            assert gap(before, rollouts) > 1e-3
        assert len(list(tmp_path.iterdir())) == 1  # the last weights alone are kept
    with torch.no_grad():
        next(policy.parameters()).add_(0.01)
    with pytest.raises(RuntimeError, match="weights of version 20"):
        roll(generator, policy, tokenizer)
    generator.close()
    assert not list(tmp_path.iterdir())


def test_it_answers_as_an_engine_in_process(server):
    policy, tokenizer = tiny_policy()
    prompts = make_prompts(tokenizer, tuple(f"Question {i}: " + "why? " * (i % 12) for i in range(24)))
    seeds = [2**63 - 1 - 1000 * i for i in range(24)]
    beside, within = VLLMServerGenerator(server.url), VLLMGenerator(max_model_len=256, kv_cache_gb=0.05)
    for sampling in (Sampling(max_new_tokens=12), Sampling(0.8, 0.9, 20, 12, 3), Sampling(temperature=0, max_new_tokens=12)):
        one, other = (roll(g, policy, tokenizer, sampling, seeds, 8, prompts) for g in (beside, within))
        agree = [a == b for x, y in zip(responses(one), responses(other), strict=True) for a, b in zip(x, y, strict=True)]
        assert sum(agree) >= 0.98 * len(agree)  # requests meet in other batches, which rounds otherwise
        assert (one.logp is None) == (other.logp is None)
    beside.close()
    within.close()


def test_a_second_trainer_is_noticed(server, tmp_path):
    policy, tokenizer = tiny_policy()
    mine, other = (VLLMServerGenerator(server.url, folder=str(tmp_path / name)) for name in ("mine", "other"))
    mine.sync(policy, 3)
    roll(mine, policy, tokenizer)
    other.sync(policy, 3)
    with pytest.raises(RuntimeError, match=rf"{server.url} answered prompt 'p0' with weights .*somebody else"):
        roll(mine, policy, tokenizer)
    mine.sync(policy, 4)
    assert gap(policy, roll(mine, policy, tokenizer)) < 1e-5


def test_refused(server):
    policy, tokenizer = tiny_policy()
    generator = VLLMServerGenerator(server.url)
    with pytest.raises(ValueError, match=r"importance_cap.*'raw_logprobs'"):
        generator.start(Sampling(temperature=0.7), needs_logp=True)
    with pytest.raises(ValueError, match="context of 256"):
        roll(generator, policy, tokenizer, Sampling(max_new_tokens=256))
    with pytest.raises(ValueError, match=r"runs on a CPU and would keep the old output layer"):
        generator.sync(tiny_policy(tied=True)[0], 1)


def test_servers_that_cannot_do_it_are_named_before_training(server, tmp_path):
    """One that is not there, one without the endpoints; then one that was restarted, and one that cannot see the weights."""
    policy, tokenizer = tiny_policy()
    with pytest.raises(ServerError, match=r"http://127\.0\.0\.1:9 did not answer"):
        VLLMServerGenerator([server.url, "http://127.0.0.1:9"], attempts=1).start(Sampling())
    export_policy(policy, tokenizer, tmp_path / "model")
    plain = wait_for(serve(tmp_path / "model", tmp_path / "plain.log", dev="0"))
    try:
        with pytest.raises(
            ServerError, match=r"is no vLLM server that takes new weights .*VLLM_SERVER_DEV_MODE=1.*--enable-scale-out"
        ):
            VLLMServerGenerator(plain.url, attempts=1).start(Sampling())
    finally:
        stop(plain)
