"""Turns of a real policy: what is drawn, its log-probabilities, limits, training and resuming."""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.callbacks import EMATeacher, RolloutTable
from lightning_focal.environments import Dialogue, Environment, Episode, LocalSearch, Task, TurnRollouts
from lightning_focal.generation import HFGenerator, Sampling, ScriptedGenerator
from lightning_focal.models import load_policy, response_logp
from lightning_focal.modules import DynamicSampling, Update
from lightning_focal.modules.update import Sequences
from lightning_focal.rewards import StaticReward
from lightning_focal.types import Prompts
from tests.conftest import TINY, rubric_rows, write_rows
from tests.environments.helpers import Wild, play, prompts_of, speaking
from tests.runs.killed import same_run
from tests.runs.test_saving import configuration

ROOT = Path(__file__).parents[2]
RUBRIC = [
    {"name": "replies", "points": 2, "tags": ["axis:content"], "check": "environment"},
    {"name": "done", "points": 1, "tags": ["axis:content"], "check": {"kind": "environment", "score": "finished"}},
    {"name": "short", "points": 1, "tags": ["axis:brevity"], "check": {"kind": "max_characters", "characters": 3}},
]
SCRIPT = {"script": ["And?", "So?"], "expects": ["[a-m]", "[A-M]", "[n-z]"]}


def talkative(folder=None):
    """A policy of random weights that ends a turn after a few tokens: a third of its tokens are eos."""
    policy, tokenizer = load_policy(TINY)
    policy.generation_config.eos_token_id = [*range(94, 188), tokenizer.eos_token_id]
    if folder is not None:
        policy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return policy, tokenizer


def rolled(prompts, group=3, tokens=12, batch_size=64, environment=None):
    policy, tokenizer = talkative()
    turns = TurnRollouts(environment or Dialogue(), HFGenerator(batch_size=batch_size))
    seeds = [ord(name) for name in prompts.ids]
    made = turns.generate(policy, tokenizer, prompts, group_size=group, seeds=seeds, sampling=Sampling(max_new_tokens=tokens))
    return policy, made


def own(rollouts, p, g):
    return rollouts.response_ids[p, g][rollouts.response_mask[p, g]].tolist()


def test_a_rollout_depends_on_its_prompt_seed_and_place_alone():
    prompts = prompts_of("Hello", "Hi you", "Hey", extra=(SCRIPT,) * 3)
    policy, whole = rolled(prompts)
    alone = Prompts(prompts.ids[1:2], prompts.messages[1:2], tokens=((1,),), extra=(SCRIPT,))
    for other in (rolled(alone)[1], rolled(alone, batch_size=1)[1]):
        assert [own(other, 0, g) for g in range(3)] == [own(whole, 1, g) for g in range(3)]
    assert len({tuple(own(whole, p, g)) for p in range(3) for g in range(3)}) == 9
    turns = [len([m for m in path if m["role"] == "assistant"]) for group in whole.trajectories for path in group]
    assert max(turns) == 3
    assert any(value["finished"] == 1.0 for group in whole.own_scores for value in group)
    # the first turn is what is written without an environment
    given, settings = replace(prompts, tokens=whole.prompts.tokens), {"group_size": 3, "sampling": Sampling(max_new_tokens=12)}
    plain = HFGenerator().generate(policy, load_policy(TINY)[1], given, seeds=[97, 98, 99], **settings)
    for p in range(3):
        for g in range(3):
            first = own(plain, p, g)
            assert own(whole, p, g)[: len(first)] == first
            assert whole.sampled_mask[p, g, : len(first)].all()
    # log-probabilities are the policy's at its own tokens
    rows = Sequences.of(whole)
    logp = response_logp(policy, *rows.tokens, sizes=rows.sizes)
    assert (~rows.loss_mask & rows.response_mask).any()
    torch.testing.assert_close(rows.sampling_logp[rows.loss_mask], logp[rows.loss_mask], atol=1e-4, rtol=1e-4)


PARAMETERS = {"type": "object", "properties": {"expression": {"type": "string"}}}


class Known(Environment):
    """Its tool is a schema, run in this process."""

    tools = ({"type": "function", "function": {"name": "calculate", "description": "One.", "parameters": PARAMETERS}},)

    def reset(self, task):
        episode = Episode()
        episode.call = lambda name, arguments: arguments["expression"]
        return episode


@pytest.mark.parametrize(("limits", "turns", "truncated"), [({"max_turns": 2}, 2, False), ({"max_tokens": 160}, 1, True)])
def test_limits_end_a_rollout(limits, turns, truncated):
    call = '<tool_call>{"name": "calculate", "arguments": {"expression": "1"}}</tool_call>'
    script = {"a": [call], "a/0/1": [call], "a/0/2": [call], "a/0/3": ["1"]}
    _, rollouts = play(Known(**limits), script, tokens=100)
    assert sum(message["role"] == "assistant" for message in rollouts.trajectories[0][0]) == turns
    assert rollouts.texts == (("",),)  # a call is no answer
    assert bool(rollouts.truncated) == truncated
    assert rollouts.response_ids.shape[2] <= 300
    _, rollouts = play(Known(), {"a": ["x" * 50]}, tokens=10)  # a turn that is cut off ends its rollout
    assert rollouts.truncated.all()
    assert rollouts.response_mask.sum() == 10


class Faulty(Environment):
    """Fails in its second step, and in every score of prompt b."""

    score_names = ("good",)

    def reset(self, task):
        class Broken(Episode):
            def step(self, messages):
                return ({"role": "user", "content": "Go on<|im_end|>"},) if len(messages) == 1 else [][1]

            def scores(self, messages):
                return {"good": 1.0} if task.id == "a" else {}["nothing"]

        return Broken()


def test_a_mistake_of_the_environment_costs_a_score_and_no_run():
    script = {"a": ["x"], "a/0/1": ["y"], "b": ["x"], "b/0/1": ["y"]}
    _, rollouts = play(Faulty(), script, count=2)
    assert [group[0] for group in rollouts.own_scores] == [{"good": None}, {"good": None}]
    assert rollouts.trajectories[0][0][1]["content"] == "Go on<\u200b|im_end|>"  # ends no turn


def test_a_search_that_cites(tmp_path):
    texts = {"tea": "Tea is brewed at 95 degrees.", "milk": "Milk boils over.", "mate": "Mate wants 80 degrees."}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    search = LocalSearch(str(tmp_path), most=1)
    assert search.search("how hot is tea brewed") == [{"id": "tea", "text": "Tea is brewed at 95 degrees."}]
    call = '<tool_call>{"name": "search", "arguments": {"query": "tea brewed"}}</tool_call>'
    _, rollouts = play(search, {"a": [call], "a/0/1": ["At 95 [tea], or 80 [mate]."]})
    assert rollouts.own_scores[0][0] == {"cited": 0.5, "searched": 1.0}
    assert rollouts.texts == (("At 95 [tea], or 80 [mate].",),)
    with pytest.raises(ValueError, match=r"must hold texts"):
        LocalSearch(str(tmp_path / "none"))


def fit(run_tiny, tmp_path, *callbacks, folder="run", **kwargs):
    talkative(tmp_path / "policy")
    data = write_rows(tmp_path / "dialogues.jsonl", rubric_rows(6, RUBRIC, **SCRIPT))
    kwargs = {"environment": Dialogue(), "sampling": Sampling(max_new_tokens=4), **kwargs}
    kwargs |= {"policy": str(tmp_path / "policy"), "update": kwargs.pop("update", Update(mini_batches=2))}
    return run_tiny(StaticReward(), RolloutTable(), *callbacks, folder=folder, data_train=str(data), **kwargs)


@pytest.mark.slow
def test_training_writes_trajectories_and_resumes_to_the_same_bits(run_tiny, tmp_path):
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    whole = fit(run_tiny, tmp_path, saving, trainer_enable_checkpointing=True, trainer_max_epochs=2)
    place = tmp_path / "checkpoints" / "step=4.ckpt"
    resumed = fit(run_tiny, tmp_path, folder="resumed", trainer_max_epochs=2, ckpt_path=str(place))
    weights = [list(run.module.policy.parameters()) for run in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert not torch.equal(weights[0][0], talkative()[0].get_input_embeddings().weight)
    files = [sorted((run.folder / "rollouts").glob("train-00000[2-5]*")) for run in (whole, resumed)]
    assert len(files[0]) == 4
    for ours, theirs in zip(*files, strict=True):
        assert pq.read_table(ours).equals(pq.read_table(theirs))
    rows = [row for path in files[0] for row in pq.read_table(path).to_pylist()]
    told = [json.loads(row["trajectory"]) for row in rows]
    assert {message["role"] for path in told for message in path} == {"assistant", "user"}
    assert len({len(path) for path in told}) > 1
    scores = {c["name"]: c["score"] for c in rows[0]["criteria"]}
    assert set(scores) == {"replies", "done", "short"}
    finished = [(len(path) == 5, row["criteria"][1]["score"]) for path, row in zip(told, rows, strict=True)]
    assert all(float(complete) == score for complete, score in finished)


@pytest.mark.slow
def test_killed_within_an_episode_it_ends_the_same(tmp_path):
    talkative(tmp_path / "policy")
    rows, there = write_rows(tmp_path / "dialogues.jsonl", rubric_rows(6, RUBRIC, **SCRIPT)), tmp_path / "there"
    data = {"class_path": "RubricDataModule", "init_args": {"train": str(rows), "val": str(rows), "batch_size": 2}}

    def started(at, run_dir, *options):
        fatal = {"class_path": "tests.environments.helpers.Fatal", "init_args": {"at": at, "unless": str(there)}}
        model = {"policy": str(tmp_path / "policy"), "environment": fatal, "reference": None, "update": {"mini_batches": 2}}
        config = configuration(tmp_path, model=model, data=data, trainer={"callbacks": []})
        command = [
            sys.executable,
            "-m",
            "lightning_focal",
            "fit",
            f"--config={config}",
            f"--run_dir={tmp_path / run_dir}",
            *options,
        ]
        return subprocess.run(command, check=False, cwd=ROOT, timeout=240).returncode

    there.touch()
    assert started(0, "plain") == 0
    for at in (3, 40):  # in the evaluation before training; in training
        there.unlink()
        assert started(at, f"run{at}") == -signal.SIGKILL
        assert started(at, f"run{at}", "--ckpt_path=last") == 0
        assert same_run(tmp_path / f"run{at}", tmp_path / "plain") == []
    with open(tmp_path / "plain" / "metrics.csv", encoding="utf-8") as file:
        turns = [float(row["train/rollout/turns"]) for row in csv.DictReader(file) if row["train/rollout/turns"]]
    assert len(turns) == 6
    assert max(turns) > 1


def test_dynamic_sampling_refills_with_trajectories(run_tiny, tmp_path):
    run = fit(run_tiny, tmp_path, dynamic_sampling=DynamicSampling(), group_size=2)
    assert run.module.version > 0


@pytest.mark.parametrize(
    ("callbacks", "settings", "words"),
    [
        ((), {"environment": None}, "the check `environment` takes 'replies' of `model.environment`, and there is none"),
        ((), {"environment": Wild()}, "whose scores are right"),
        ((EMATeacher(),), {}, "must have no EMATeacher"),
        ((), {"dynamic_sampling": DynamicSampling(replay_buffer_size=4)}, "replay_buffer_size` must be 0"),
    ],
)
def test_what_does_not_go_together_is_refused(run_tiny, tmp_path, callbacks, settings, words):
    with pytest.raises(ValueError, match=words):
        fit(run_tiny, tmp_path, *callbacks, **settings)


def test_templates_that_cannot_be_continued_are_refused():
    _, tokenizer = speaking("qwen")
    config = type("C", (), {"eos_token_id": tokenizer.eos_token_id})
    turns = TurnRollouts(Dialogue(), ScriptedGenerator(["x"]))
    turns.start(tokenizer, config)
    assert turns.describe() == "environment: Dialogue, at most 8 turns"
    tokenizer.chat_template = tokenizer.chat_template.replace("{% for m in", "{{ messages | length }}{% for m in", 1)
    with pytest.raises(ValueError, match="writes a prompt otherwise when turns follow"):
        turns.start(tokenizer, config)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(ValueError, match="ends a turn with none of"):
        turns.start(tokenizer, config)


def test_limits_are_positive():
    for limit in ("max_turns", "max_tokens", "tool_timeout", "max_output"):
        with pytest.raises(ValueError, match=f"model.environment.{limit}` must be > 0, got 0"):
            Dialogue(**{limit: 0})
    assert Dialogue().reset(Task("a")).scores([]) == {"replies": None, "finished": 0.0}


@pytest.mark.slow
def test_processes_take_as_many_turns(tmp_path):
    """The weights are split: a process whose episodes are over has to come along for those of the other one."""
    config, data = ROOT / "configs" / "environments" / "dialogue.yaml", "--data.batch_size=3"
    sizes = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "data_parallel_size": 2,
        "tensor_parallel_size": 1,
    }
    options = [f"--trainer.strategy.{name}={value}" for name, value in sizes.items()]
    command = [sys.executable, "-m", "lightning_focal", "fit", f"--config={config}", data, "--trainer.devices=2", *options]
    command += ["--trainer.limit_train_batches=1", f"--run_dir={tmp_path / 'run'}"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=240)
    most = []
    for path in sorted((tmp_path / "run" / "rollouts").glob("train-000000-r*.parquet")):
        said = [json.loads(row["trajectory"]) for row in pq.read_table(path).to_pylist()]
        most.append(max(sum(message["role"] == "assistant" for message in one) for one in said))
    assert sorted(most) == [1, 2]
