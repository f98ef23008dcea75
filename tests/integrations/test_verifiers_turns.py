"""Environments of verifiers of several turns: its own code says what the environment says, runs tools and scores."""

import asyncio
import csv
import json
import os
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

vf = pytest.importorskip("verifiers.v1")
pytestmark = [pytest.mark.verifiers, pytest.mark.filterwarnings("ignore")]

from lightning_focal.cli import main  # noqa: E402
from lightning_focal.environments import check_environment  # noqa: E402
from lightning_focal.integrations.verifiers import EnvironmentData, EnvironmentScores  # noqa: E402
from lightning_focal.integrations.verifiers_turns import VerifiersTurns  # noqa: E402
from tests.environments.helpers import play  # noqa: E402
from tests.environments.test_turns import talkative  # noqa: E402

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


def prompts_of(name, count=1, **settings):
    data = EnvironmentData(name, train=settings)
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
                whole = {"object": "chat.completion", "choices": [{**choice, "message": message}], "usage": usage}
                kind, out = "application/json", json.dumps({**made, **whole})
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
    calls = [[json.loads(call.arguments) for call in getattr(m, "tool_calls", None) or ()] for m in trace.messages]
    said = [(m.role, (m.content or "").strip(), made) for m, made in zip(trace.messages, calls, strict=True)]
    rewards = {name: (reward.score, reward.weight) for name, reward in trace.rewards.items()}
    return said, rewards, trace.stop_condition, trace.num_turns, trace.is_truncated


def test_a_game_says_and_scores_turns_as_in_its_own_rollouts(installed):
    given = prompts_of("guess-env", 2)
    a, b = given.ids
    script = {a: ["1 please", "7"], f"{a}/0/1": ["8 please"], f"{a}/0/2": ["9"], b: ["error", "<think>3?</think>4"]}
    script |= {f"{b}/1/1": ["so 3"]}
    environment, source = VerifiersTurns("guess-env", max_turns=3), EnvironmentScores(names=["won", "rated_before"])
    environment.validate(given)
    source.validate(given)
    _, rollouts = play(environment, script, prompts=given, group=2)
    told = [[message["content"] for message in path] for group in rollouts.trajectories for path in group]
    assert told[0] == ["1 please", "Not that, 1 gone.", "8 please", "Not that, 2 gone.", "9"]
    assert told[1] == ["7"]
    assert told[3] == ["<think>3?</think>4", "Not that, 1 gone.", "so 3"]
    scores = source(rollouts)
    assert scores.names[0] == ("polite", "won", "rated_before")
    third = pytest.approx([2 / 3, 0.0, 1.0])
    assert scores.scores[0].tolist() == [third, [0.0, 1.0, 1.0]]
    assert scores.scores[1, 1].tolist() == [0.0, 0.5, 1.0]
    assert scores.failed[1, 0].all()
    assert scores.reasons[1][0][0] == "the game broke"
    assert scores.weights[0].tolist() == pytest.approx([2 / 3.5, 1 / 3.5, 0.5 / 3.5])
    plain = EnvironmentScores()
    plain.validate(given)
    with pytest.raises(ValueError, match=r"write `reward.source.names: \['rated_before', 'won'\]`"):
        plain(rollouts)
    tokens = scores.measures["verifiers/tokens"].flatten()
    assert tokens[[0, 1, 3]].tolist() == rollouts.lengths.flatten()[[0, 1, 3]].tolist()
    assert torch.equal(source(rollouts).scores, scores.scores)  # nothing is run twice
    ours = rollouts.episodes[0][0].trace
    assert ours.is_truncated  # it asked for a fourth turn
    assert facts(ours) == facts(by_verifiers("guess-env", ["1 please", "8 please", "9"], {"max_turns": 3}))
    assert rollouts.episodes[1][1].trace.assistant_messages[0].reasoning_content == "3?"


def test_tools_with_a_state_run_as_in_its_own_rollouts(installed):
    given = prompts_of("shop-env")
    (a,) = given.ids

    def buy(**arguments):
        return f"<tool_call>{json.dumps({'name': 'shop_buy', 'arguments': arguments})}</tool_call>"

    said = [buy(item="tea"), buy(item="tea"), buy(item="milk", count=2)]
    script = {a: [said[0], "no", buy(thing="tea")], f"{a}/2/1": [buy(item="milk")]}
    script |= {f"{a}/0/{turn}": [text] for turn, text in enumerate(said) if turn}
    environment = VerifiersTurns("shop-env", max_turns=2)
    environment.max_turns = 5
    environment.validate(given)
    _, rollouts = play(environment, script, prompts=given, group=2)
    results = [[m["content"] for m in path if m["role"] == "tool"] for path in rollouts.trajectories[0]]
    assert results == [["1 tea, left: ['milk']", "Error: KeyError: 'no tea here'", "2 milk, left: []"], []]
    scores = EnvironmentScores()(rollouts)
    assert scores.names == (("bought", "failed"),)
    assert scores.scores[0].tolist() == [pytest.approx([1.0, 1 / 3]), [0.0, 0.0]]  # no rollout sees another's stock or state
    theirs, ours = facts(by_verifiers("shop-env", said, {"max_turns": 5})), facts(rollouts.episodes[0][0].trace)
    assert "no tea here" in theirs[0].pop(4)[1]
    assert "no tea here" in ours[0].pop(4)[1]
    assert ours == theirs
    assert ours[2] == "rich"  # its `@vf.stop`

    environment.max_turns = 2
    _, rollouts = play(environment, script, prompts=given, group=3)
    assert rollouts.trajectories[0][2][1]["content"].startswith("Error: the arguments")
    EnvironmentScores()(rollouts)
    ends = [(path.trace.stop_condition, path.trace.num_turns, path.trace.is_truncated) for path in rollouts.episodes[0]]
    assert ends == [("max_turns", 2, True), ("agent_completed", 1, False), ("max_turns", 2, True)]


OPENED = """
import verifiers.v1 as vf

class Task(vf.Task[vf.TaskData]):
    @vf.reward
    async def echoed(self, trace):
        said = [m.content for m in trace.messages if m.role == "user"]
        return sum(a == m.content for a, m in zip(said, trace.assistant_messages)) / 2

class Echo(vf.Taskset[Task, vf.TasksetConfig]):
    def load(self):
        return [Task(vf.TaskData(prompt=None, system_prompt=text), self.config.task) for text in ("Repeat.", None)]

class EchoEnv(vf.SingleAgentEnv):
    async def run(self, task, agents):
        async with agents.agent.interaction(task) as interaction:
            for phrase in ("one", "two"):
                if (await interaction.turn(phrase)).terminated:
                    break

__all__ = ["Echo", "EchoEnv"]
"""


def test_a_user_opens_the_conversation(installed):
    (installed / "shop_env.py").write_text(OPENED)
    with pytest.raises(ValueError, match=r"task 1 has neither a prompt nor a system prompt: write `data.train.system_prompt"):
        EnvironmentData("shop-env", train={}).setup("fit")
    given = prompts_of("shop-env", select={"limit": 1})
    (a,) = given.ids
    script = {a: ["one", "two"], f"{a}/0/1": ["two"], f"{a}/1/1": ["2"]}
    _, rollouts = play(VerifiersTurns("shop-env"), script, prompts=given, group=2)
    assert [message["content"] for message in rollouts.prompts.messages[0]] == ["Repeat.", "one"]
    assert EnvironmentScores()(rollouts).scores.flatten().tolist() == [1.0, 0.0]
    assert facts(rollouts.episodes[0][0].trace) == facts(by_verifiers("shop-env", ["one", "two"], {}))


def test_what_nobody_scores_is_ended(installed):
    given = prompts_of("guess-env")
    environment = VerifiersTurns("guess-env", max_turns=1)
    _, rollouts = play(environment, ["5"], prompts=given, group=2)
    assert len(asyncio.all_tasks(environment.loop)) == 2
    del rollouts
    environment.wait(asyncio.sleep(0))
    assert not asyncio.all_tasks(environment.loop)


METRIC, RUN = "    @vf.metric", "    async def run("


@pytest.mark.parametrize(("old", "new", "words"), [
    ("    player: vf", "    judge: vf.AgentConfig = vf.AgentConfig()\n    player: vf", r"several agents \(judge, player\)"),
    ("AgentConfig()", "AgentConfig(harness={'id': 'codex'})", "a program of its own"),
    (RUN, f"    async def start(self):\n        pass\n\n{RUN}", "its `start` brings up services"),
    (METRIC, f"    NEEDS_CONTAINER = True\n\n{METRIC}", "its tasks need a container"),
    (METRIC, f"    async def setup(self, trace, runtime):\n        pass\n\n{METRIC}", "`setup` prepares a runtime"),
    (METRIC, f"    @vf.intercept\n    async def h(self, r: vf.Request):\n        pass\n\n{METRIC}", "`@vf.intercept`"),
    (METRIC, f"    @vf.stop\n    async def h(self, r: vf.Response):\n        pass\n\n{METRIC}", "interception server"),
    ("import", "import nothing_here, ", "cannot be loaded: ModuleNotFoundError"),
])  # fmt: skip
def test_what_cannot_be_driven_is_refused(installed, old, new, words):
    assert old in GUESS
    (installed / "guess_env.py").write_text(GUESS.replace(old, new))
    with pytest.raises(ValueError, match=words):
        VerifiersTurns("guess-env").validate(prompts_of("guess-env"))


@pytest.mark.parametrize("config", ["url='http://there'", "colocated=True", "runtime={'type': 'docker'}"])
def test_tools_that_run_elsewhere_are_refused(installed, config):
    (installed / "shop_env.py").write_text(SHOP.replace("ToolsetConfig()", f"ToolsetConfig({config})"))
    with pytest.raises(ValueError, match="the tools of Shop run elsewhere"):
        VerifiersTurns("shop-env")


def test_data_and_environment_must_fit(installed):
    with pytest.raises(ValueError, match="must be EnvironmentData of 'shop-env'"):
        VerifiersTurns("shop-env").validate(prompts_of("guess-env"))
    with pytest.raises(ValueError, match=r"take several turns: write `model.environment: VerifiersTurns`"):
        check_environment(None, [prompts_of("shop-env")])


def test_a_fit_by_the_command(installed, tmp_path):
    talkative(tmp_path / "policy")

    def made(kind, **arguments):
        return {"class_path": f"lightning_focal.integrations.{kind}", "init_args": arguments}

    turns = made("verifiers_turns.VerifiersTurns", environment="guess-env", max_turns=3)
    source = made("verifiers.EnvironmentScores", names=["won", "rated_before"])
    model = {"policy": str(tmp_path / "policy"), "environment": turns, "group_size": 4, "val_group_size": 2}
    config = {
        "seed_everything": 0,
        "run_dir": str(tmp_path / "run"),
        "reward": {"class_path": "FocalReward", "init_args": {"gamma": 1.0, "source": source}},
        "model": model | {"sampling": {"max_new_tokens": 6}},
        "data": made("verifiers.EnvironmentData", environment="guess-env", train={}, val={}, batch_size=2),
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    main(["fit", "--config", str(tmp_path / "config.yaml")])
    with open(tmp_path / "run" / "metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/rollout/turns")]
    assert len(rows) == 2
    assert all(1 < float(row["train/rollout/turns"]) <= 3 for row in rows)
    assert all(float(row["train/verifiers/tokens"]) == float(row["train/rollout/length"]) for row in rows)
    assert all(float(row["train/judge/failure_rate"]) == 0 for row in rows)
    assert any("won" in name for name in rows[0])
