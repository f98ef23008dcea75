"""Environments of verifiers as they are, as data and criteria here; a strategy over verifiers' own traces."""

import asyncio
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

vf = pytest.importorskip("verifiers.v1")
pytestmark = [pytest.mark.verifiers, pytest.mark.filterwarnings("ignore")]

from lightning_focal.environments import check_environment  # noqa: E402
from lightning_focal.integrations.verifiers import EnvironmentData, EnvironmentScores, reweigh  # noqa: E402
from lightning_focal.integrations.verifiers_turns import VerifiersTurns  # noqa: E402
from lightning_focal.rewards import FocalReward, StaticReward  # noqa: E402
from tests.environments.helpers import play  # noqa: E402
from tests.integrations.helpers import answered  # noqa: E402


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The folder of single-turn environments in what verifiers publishes with its source on PyPI."""
    folder = tmp_path_factory.mktemp("verifiers")
    source = f"verifiers=={__import__('verifiers').__version__}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", source, "-d", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the source of verifiers cannot be fetched")
    unpacked = folder / source.replace("==", "-")
    with tarfile.open(f"{unpacked}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return unpacked / "tests" / "v1" / "fixtures"


def repository(name):
    """An environment of the repository of verifiers, of which ``VERIFIERS_ENVIRONMENTS`` is a checkout's folder."""
    folder = Path(os.environ.get("VERIFIERS_ENVIRONMENTS", "/nowhere")) / name
    if not folder.is_dir():
        pytest.skip("VERIFIERS_ENVIRONMENTS does not name the folder `environments` of a checkout of verifiers")
    return folder


def test_echo_of_the_published_source(published, monkeypatch):
    monkeypatch.syspath_prepend(published)
    data = EnvironmentData("echo-v1", train={"phrases": ["hello world", "ping"]}, val={"select": {"include": {"idx": [1]}}})
    rollouts = answered(data, "train", [["Hello, World!", "<think>hello world</think>ping"], ["no", "ping!"]])
    assert [message["role"] for message in rollouts.prompts.messages[0]] == ["system", "user"]
    assert rollouts.prompts.messages[1][1]["content"].endswith("phrase: ping")
    source = EnvironmentScores()
    source.validate(rollouts.prompts)
    assert source.level_keys() == ["echoed"]
    scores = source(rollouts)
    assert scores.names == (("echoed",),) * 2
    assert scores.scores[..., 0].tolist() == [[1.0, 0.0], [0.0, 1.0]]  # a thought is not an answer
    data.setup("validate")
    assert [row.task.data.answer for row in data.rows["val"]] == ["ping"]


BUMP = '<tool_call>{"name": "counter_bump", "arguments": {}}</tool_call>'
TURNS = {
    "counter-tool-v1": ([[BUMP, BUMP], [BUMP, "done"], ["done"]], [1.0, 0.0]),  # a state of the rollout, counted from 2 on
    "echo-user-sim-v1": ([["Hello, world", "what?"], ["goodbye world!", "Goodbye World"]], [1.0, 0.5]),  # its user opens
}


@pytest.mark.parametrize("name", TURNS)
def test_turns_of_the_published_source(published, monkeypatch, name):
    monkeypatch.syspath_prepend(published)
    data = EnvironmentData(name, train={})
    data.setup("fit")
    given = replace(data.make_prompts("train", data.rows["train"]), tokens=((1,),))
    turns, wanted = TURNS[name]
    (a,) = given.ids
    script = {a: turns[0]} | {f"{a}/{g}/{n}": [text] for n, row in enumerate(turns) if n for g, text in enumerate(row)}
    environment, source = VerifiersTurns(name, max_turns=4), EnvironmentScores()
    check_environment(environment, [given])
    source.validate(given)
    _, rollouts = play(environment, script, prompts=given, group=2)
    scores = source(rollouts)
    assert not scores.failed.any(), scores.reasons
    assert scores.scores.flatten().tolist() == wanted
    with pytest.raises(ValueError, match=r"'duet-v1' cannot be driven turn by turn: it has several agents \(a, b\)"):
        VerifiersTurns("duet-v1")


def test_reverse_text_of_the_repository(tmp_path, monkeypatch):
    from difflib import SequenceMatcher

    monkeypatch.syspath_prepend(repository("reverse_text"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("abc de", "lamp", "tea")))
    data = EnvironmentData("reverse_text", train={"dataset_name": str(tmp_path), "select": {"limit": 2}})
    right, half = ("<reversed_text>ed cba</reversed_text>", "<reversed_text>pal</reversed_text>")
    rollouts = answered(data, "train", [[right, "abc"], [half, ""]])
    scores = EnvironmentScores()(rollouts)
    assert scores.names == (("lcs",),) * 2
    wanted = [[1.0, 0.0], [SequenceMatcher(None, "pal", "pmal").ratio(), 0.0]]
    torch.testing.assert_close(scores.scores[..., 0], torch.tensor(wanted))
    assert len(data.rows["train"]) == 2


@pytest.mark.slow
def test_gsm8k_of_the_repository_runs_its_program(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(repository("gsm8k"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)  # `load_dataset("openai/gsm8k", "main")` then finds a folder of that name
    folder = tmp_path / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n"
    (folder / "README.md").write_text(card)
    (folder / "test.jsonl").write_text(json.dumps({"question": "2 and 3 apples?", "answer": "2 + 3 = 5\n#### 5"}) + "\n")
    data = EnvironmentData("gsm8k", val={"split": "test"})
    rollouts = answered(data, "val", [["They have\n#### 5", "#### 6"]])
    with pytest.raises(ValueError, match=r"'correct' runs a program: write `reward.source.runtime: \{type: subprocess\}`"):
        EnvironmentScores().validate(rollouts.prompts)
    source = EnvironmentScores(runtime={"type": "subprocess"})
    source.validate(rollouts.prompts)
    scores = source(rollouts)
    assert not scores.failed.any(), scores.reasons
    assert scores.scores.tolist() == [[[1.0], [0.0]]]


OWN = """
import verifiers.v1 as vf

class Task(vf.Task[vf.TaskData]):
    @vf.reward(weight=2.0)
    async def kind(self, trace):
        return float("please" in trace.last_reply)

    @vf.reward(weight=-1.0)
    async def words(self, trace):
        return float(len(trace.last_reply.split()))

    @vf.reward
    async def graded(self, trace):
        if "break" in trace.last_reply:
            raise RuntimeError("no verdict")
        return {"tone": 0.25, "grammar": 0.75}

    @vf.metric
    async def cut(self, trace):
        return float(trace.is_truncated)

    @vf.metric
    async def tokens(self, trace):
        return float(trace.num_output_tokens)

class Own(vf.Taskset[Task, vf.TasksetConfig]):
    def load(self):
        return [Task(vf.TaskData(prompt=text), self.config.task) for text in ("a", "b")]

class Endless(Own):
    INFINITE = True

__all__ = ["Own"]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_taskset.py").write_text(OWN)
    (tmp_path / "endless_taskset.py").write_text(OWN.replace('["Own"]', '["Endless"]'))
    monkeypatch.syspath_prepend(tmp_path)
    yield EnvironmentData("own-taskset", train={})
    for name in ("own_taskset", "endless_taskset"):
        sys.modules.pop(name, None)


def test_weights_faults_keyed_rewards_failures_and_metrics(own):
    rollouts = answered(own, "train", [["please now", "break it", "a b c d"]], truncated=True)
    scores = EnvironmentScores({"words": (0.0, 4.0)})(rollouts)
    assert sorted(scores.names[0]) == ["grammar", "kind", "tone", "words"]
    place = {name: k for k, name in enumerate(scores.names[0])}
    assert scores.weights[0, place["kind"]] == pytest.approx(2 / 8)  # 2 + 4 * |-1| + 1 + 1
    assert scores.weights[0, place["words"]] == pytest.approx(4 / 8)
    assert scores.scores[0, :, place["words"]].tolist()[::2] == [0.5, 0.0]  # a fault is turned round
    assert scores.scores[0, 0, place["tone"]].item() == 0.25
    assert scores.failed[0, 1].all()
    assert not scores.failed[0, [0, 2]].any()
    assert "no verdict" in scores.reasons[0][1][0]
    assert scores.measures["verifiers/cut"].tolist() == [[1.0, 1.0, 1.0]]
    assert scores.measures["verifiers/tokens"].tolist() == [[7.0, 7.0, 7.0]]
    shaped = FocalReward(gamma=1.0).shape(scores)
    assert shaped.valid.tolist() == [[True, False, True]]
    with pytest.raises(ValueError, match=r"'words' must be from 0 to 1, got 2: write .* in `bounds`"):
        EnvironmentScores()(answered(own, "train", [["two words"]]))


def test_wrong_environments_are_refused_in_a_line(own, tmp_path, monkeypatch):
    for name, settings, said in (
        ("nothing-here", {}, r"`data.train`: the environment 'nothing-here' cannot be loaded: .*not found"),
        ("own-taskset", {"colour": 1}, r"`data.train`: the environment 'own-taskset' cannot be loaded: .*colour"),
        ("own-taskset", {"select": {"skip": 2}}, r"`data.train`: the environment 'own-taskset' has no task"),
        ("endless-taskset", {}, r"'endless-taskset' has no last task; write `data.train.select.limit`"),
    ):
        with pytest.raises(ValueError, match=said):
            EnvironmentData(name, train=settings).setup("fit")
    with pytest.raises(ValueError, match="at least one of `train`"):
        EnvironmentData("own-taskset")


def trace(task, text):
    nodes = [
        vf.MessageNode(parent=None, message=vf.UserMessage(content="a")),
        vf.MessageNode(parent=0, message=vf.AssistantMessage(content=text), sampled=True),
    ]
    info = vf.TraceTask(type="Task", data=task.data)
    made = vf.Trace(agent=vf.AgentInfo(config=vf.AgentConfig()), task=info, nodes=nodes)
    asyncio.run(task.score(made))
    return made


def test_a_group_of_traces_gets_focal_rewards(own):
    """The last by ``Env.finalize`` of verifiers' own environment of siblings, called as verifiers calls it."""
    from verifiers.v1.envs.best_of_n.env import BestOfNEnv

    own.setup("fit")
    task, bounds = own.rows["train"][0].task, {"words": (0.0, 4.0)}
    texts = ["please now", "a b c d", "please", "one two three"]
    traces = [trace(task, text) for text in texts]
    theirs = [t.reward for t in traces]
    static = reweigh(traces, StaticReward(), bounds)
    assert [t.reward for t in traces] == pytest.approx(theirs, abs=1e-6)
    assert static.rewards.tolist() == pytest.approx(theirs, abs=1e-6)
    with pytest.raises(ValueError, match="none named 'focal'"):
        reweigh(traces, StaticReward())

    traces = [trace(task, text) for text in texts]
    shaped = reweigh(traces, FocalReward(gamma=1.0), bounds)
    assert [t.reward for t in traces] == pytest.approx(shaped.rewards.tolist(), abs=1e-6)
    assert traces[0].rewards["words"].score == 2.0
    assert traces[0].metrics["weight/tone"] > traces[0].metrics["weight/grammar"]  # the lower score has more room
    assert sum(value for name, value in traces[0].metrics.items() if name.startswith("weight/")) == pytest.approx(1)

    class FocalBestOfN(BestOfNEnv):
        async def finalize(self, task, episode):
            reweigh(episode.traces, FocalReward(gamma=1.0), bounds)
            await super().finalize(task, episode)

    traces = [trace(task, text) for text in texts[:3]]
    episode = vf.Episode(env=vf.EnvInfo(id="own"), task=vf.TraceTask(type="Task", data=task.data), traces=traces)
    env = FocalBestOfN(vf.resolve_env_config({"id": "best-of-n", "taskset": {"id": "own-taskset"}}))
    asyncio.run(env.finalize(task, episode))
    assert [t.metrics["best"] for t in traces] == [0.0, 0.0, 1.0]
    assert "focal" in traces[0].rewards
