"""A vLLM server beside the trainer, on a CPU: weights after every update, whose they are, and what is said of one that cannot."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
import torch

from lightning_focal.generation import Sampling, VLLMGenerator, VLLMServerGenerator
from lightning_focal.generation.vllm_http import ServerError
from lightning_focal.models import export_policy

from .helpers import responses
from .vllm_checks import MARKS, SMALL, converse, has_new_weights_after_each_update, many, roll, tiny_policy

pytestmark = [*MARKS, pytest.mark.slow]


@contextmanager
def serve(folder, *arguments, dev="1", seconds=200):
    """A server that was started as the guide says; gives its address without the port, and the port."""
    export_policy(*tiny_policy(), folder / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", f"{folder}/model", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "256", "--kv-cache-memory-bytes", str(64 << 20), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--no-enable-chunked-prefill", *arguments]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": dev, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log, end = folder / "log", time.monotonic() + seconds
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                running = process.poll() is None and time.monotonic() < end
                assert running, log.read_text()[-3000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server"), "--enable-scale-out") as addresses:
        yield list(addresses)


def test_after_each_of_twenty_updates_it_has_the_new_weights(addresses, tmp_path):
    """Two addresses of one server: prompts are dealt out, both are told of new weights."""
    generator = VLLMServerGenerator(addresses, folder=str(tmp_path))
    generator.start(Sampling(), needs_logp=True)
    assert generator._arithmetic() == (torch.float32, None)
    has_new_weights_after_each_update(generator, *tiny_policy())
    assert len(list(tmp_path.iterdir())) == 1  # the last weights alone are kept
    generator.close()
    assert not list(tmp_path.iterdir())


def test_a_server_of_another_model_is_refused(addresses, tmp_path):
    """Its weights are taken by name and shape; with another epsilon they compute something else."""
    policy, tokenizer = tiny_policy()
    for module in policy.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1.0
    generator = VLLMServerGenerator(addresses, folder=str(tmp_path))
    generator.start(Sampling())
    generator.sync(policy, 0)
    with pytest.raises(RuntimeError, match="vLLM does not compute LlamaForCausalLM as the policy does"):
        roll(generator, policy, tokenizer)
    generator.close()


def test_it_answers_as_an_engine_in_process(addresses):
    policy, tokenizer = tiny_policy()
    prompts, seeds = many(tokenizer), [2**63 - 1 - 1000 * i for i in range(24)]
    generators = VLLMServerGenerator(addresses[0]), VLLMGenerator(**SMALL)
    for sampling in (Sampling(max_new_tokens=12), Sampling(0.8, 0.9, 20, 12, 3), Sampling(temperature=0, max_new_tokens=12)):
        one, other = (roll(g, policy, tokenizer, sampling, seeds=seeds, group=8, prompts=prompts) for g in generators)
        agree = [a == b for x, y in zip(responses(one), responses(other), strict=True) for a, b in zip(x, y, strict=True)]
        assert sum(agree) >= 0.98 * len(agree)  # requests meet in other batches, which rounds otherwise
        assert (one.logp is None) == (other.logp is None)
    one, other = (converse(g, *tiny_policy(), Sampling(temperature=0, max_new_tokens=12)) for g in generators)
    assert one.trajectories == other.trajectories
    assert max(len(path) for group in one.trajectories for path in group) > 2
    for generator in generators:
        generator.close()


def test_refused(addresses, tmp_path):
    """Log-probabilities and policies that a server is no good for; a server without the endpoints that are needed."""
    with pytest.raises(ValueError, match=r"importance_cap.*'raw_logprobs'"):
        VLLMServerGenerator(addresses[0]).start(Sampling(temperature=0.7), needs_logp=True)
    with pytest.raises(ValueError, match=r"runs on a CPU and would keep the old output layer"):
        VLLMServerGenerator(addresses[0]).sync(tiny_policy(tied=True)[0], 1)
    needs = r"is no vLLM server that takes new weights .*VLLM_SERVER_DEV_MODE=1.*--enable-scale-out"
    with serve(tmp_path, dev="0") as (address, _), pytest.raises(ServerError, match=needs):
        VLLMServerGenerator(address, attempts=1).start(Sampling())
