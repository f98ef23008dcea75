"""Environments of verifiers of several turns: its own code says what the environment says, runs tools and scores."""

import asyncio
import json
import os
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

vf = pytest.importorskip("verifiers.v1")
pytestmark = [pytest.mark.verifiers, pytest.mark.filterwarnings("ignore")]

from lightning_focal.integrations.verifiers import EnvironmentData, EnvironmentScores, EnvironmentTurns  # noqa: E402
from tests.environments.helpers import play  # noqa: E402

GUESS = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    number: int

class Task(vf.Task[Data]):
    @vf.reward(weight=2.0)
    async def polite(self, trace):
        return sum("please" in m.content for m in trace.assistant_messages) / trace.num_turns

    @vf.metric
    async def tokens(self, trace):
        return float(trace.num_output_tokens)

class Guess(vf.Taskset[Task, vf.TasksetConfig]):
    def load(self):
        return [Task(Data(prompt="Guess from 1 to 9.", system_prompt="Play.", number=n), self.config.task) for n in (7, 3)]

class EnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()

class GuessEnv(vf.Env[EnvConfig]):
    async def run(self, task, agents):
        guesses = 0
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                guesses += 1
                if "error" in segment.last_reply:
                    raise RuntimeError("the game broke")
                if str(task.data.number) in segment.last_reply:
                    break
                segment = await interaction.turn(f"Not that, {guesses} gone.")
        interaction.trace.record_reward("won", float(not segment.terminated) / guesses, 1.0)

    async def finalize(self, task, episode):
        (trace,) = episode.traces
        trace.record_reward("rated_before", float("polite" in trace.rewards), 0.5)

__all__ = ["Guess", "GuessEnv"]
"""
SHOP = """
import verifiers.v1 as vf

class Basket(vf.State):
    bought: list[str] = []

class Shop(vf.Toolset[vf.ToolsetConfig, Basket]):
    async def setup_task(self, task):
        self.stock = task.stock

    @vf.tool
    async def buy(self, item: str, count: int = 1) -> str:
        '''Buy something.'''
        if item not in self.stock:
            raise KeyError(f"no {item} here")
        self.stock = [other for other in self.stock if other != item]
        self.state.bought.append(item)
        return f"{count} {item}, left: {self.stock}"

class Data(vf.TaskData):
    stock: list[str]

class Task(vf.Task[Data, Basket]):
    @classmethod
    def toolsets(cls, config):
        return [Shop(vf.ToolsetConfig())]

    @vf.reward
    async def bought(self, trace):
        return len(trace.state.bought) / 2

    @vf.reward
    async def failed(self, trace):
        calls = [call.id for message in trace.assistant_messages for call in message.tool_calls or []]
        results = {message.tool_call_id: message.content for message in trace.tool_messages}
        return sum(results.get(call, "").startswith("Error") for call in calls) / max(1, len(calls))

    @vf.stop
    async def rich(self, trace: vf.Trace):
        return len(trace.state.bought) == 2

class Shopping(vf.Taskset[Task, vf.TasksetConfig]):
    def load(self):
        return [Task(Data(prompt=f"Buy {n} things.", stock=["tea", "milk"]), self.config.task) for n in (1, 2)]

__all__ = ["Shopping"]

if __name__ == "__main__":
    Shop.run()
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    for name, text in {"guess_env": GUESS, "shop_env": SHOP}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    async def prepare(runtime, script, env=None, *, activate=True):  # its program, by this Python instead of uv's
        path = tmp_path / "program.py"
        path.write_text(script)
        return [sys.executable, str(path)]

    monkeypatch.setattr(vf.Runtime, "prepare_uv_script", prepare)
    yield tmp_path
    for name in ("guess_env", "shop_env"):
        sys.modules.pop(name, None)


def prompts_of(name, count=1):
    data = EnvironmentData(name, train={})
    data.setup("fit")
    return replace(data.make_prompts("train", data.rows["train"][:count]), tokens=((1,),) * count)


def by_verifiers(environment, script, settings, row=0):
    """The trace of verifiers' own rollout, by its own chat program and servers, of a model that follows a script."""

    class Model(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            turn = sum(message["role"] == "assistant" for message in body["messages"])
            text, calls = script[turn], []
            if text.startswith("<tool_call>"):
                call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
                function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
                text, calls = "", [{"index": 0, "id": f"c{turn}", "type": "function", "function": function}]
            message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
            made = {"id": "r", "created": 0, "model": "m", "object": "chat.completion.chunk"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            choice = {"index": 0, "finish_reason": "tool_calls" if calls else "stop"}
            if body.get("stream"):
                chunks = [{**made, "choices": [{**choice, "delta": message}]}, {**made, "choices": [], "usage": usage}]
                kind, out = "text/event-stream", "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"
            else:
                kind, out = "application/json", json.dumps({**made, "object": "chat.completion", "choices": [{**choice, "message": message}], "usage": usage})
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(out.encode())))
            self.end_headers()
            self.wfile.write(out.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = vf.EvalClientConfig(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key_var="NOTHING")
    agent = {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}, **settings}
    env = vf.load_environment(vf.resolve_env_config({"taskset": {"id": environment}, SEATS[environment]: agent}))

    async def run():
        task = list(env.taskset)[row]
        context = vf.ModelContext(model="m", client=client, sampling=vf.SamplingConfig())
        async with env.serving():
            return await env.run_episode(task, context)

    try:
        episode = asyncio.run(run())
    finally:
        server.shutdown()
        server.server_close()
    (trace,) = episode.traces
    assert not trace.errors, trace.errors
    assert not episode.errors, episode.errors
    return trace


SEATS = {"guess-env": "player", "shop-env": "agent"}


def facts(trace):
    said = [(m.role, (m.content or "").strip(), [json.loads(c.arguments) for c in getattr(m, "tool_calls", None) or ()]) for m in trace.messages]
    rewards = {name: (reward.score, reward.weight) for name, reward in trace.rewards.items()}
    return said, rewards, trace.stop_condition, trace.num_turns, trace.is_truncated


def test_a_game_says_and_scores_turns(installed):
    given = prompts_of("guess-env", 2)
    a, b = given.ids
    script = {a: ["1 please", "7"], f"{a}/0/1": ["8 please"], f"{a}/0/2": ["so 7"], b: ["error", "4"]}
    script |= {f"{b}/1/{n}": ["5"] for n in (1, 2)}
    environment = EnvironmentTurns("guess-env", max_turns=3)
    environment.validate(given)
    _, rollouts = play(environment, script, prompts=given, group=2)
    scores = EnvironmentScores({"won": (0, 1)})(rollouts)
    print(rollouts.trajectories)
    print(scores.names, scores.scores, scores.weights, scores.reasons, scores.measures)
    for i, said in enumerate((["1 please", "8 please", "so 7"], ["7"])):
        theirs = by_verifiers("guess-env", said, {"max_turns": 3})
        print(facts(theirs))
        print(facts(rollouts.episodes[0][i].trace))


def test_tools(installed):
    given = prompts_of("shop-env", 1)
    (a,) = given.ids

    def call(**arguments):
        import json

        return f'<tool_call>{json.dumps({"name": "shop_buy", "arguments": arguments})}</tool_call>'

    script = {a: [call(item="tea"), "no"], f"{a}/0/1": [call(item="tea")], f"{a}/0/2": [call(item="milk", count=2)], f"{a}/0/3": ["x"]}
    environment = EnvironmentTurns("shop-env", max_turns=5)
    environment.validate(given)
    _, rollouts = play(environment, script, prompts=given, group=2)
    scores = EnvironmentScores()(rollouts)
    print(rollouts.trajectories)
    print(scores.names, scores.scores, scores.weights, scores.reasons, scores.measures)
    for i, said in enumerate(([call(item="tea"), call(item="tea"), call(item="milk", count=2), "x"], ["no"])):
        theirs = by_verifiers("shop-env", said, {"max_turns": 5})
        print(facts(theirs))
        print(facts(rollouts.episodes[0][i].trace))
