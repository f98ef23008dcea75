"""Rubrics that evolve: a tiny policy trains against a real server that proposes criteria and judges by them."""

import json
import re
import shutil

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.callbacks import EvolvingRubrics, HeldOut
from lightning_focal.generation import Sampling
from lightning_focal.judges import HTTPJudge, RoutedJudge
from lightning_focal.modules import DynamicSampling
from lightning_focal.rewards import FocalReward, MajorityVoteReward, StandardisedFocalReward, StaticReward, find_strategy
from lightning_focal.rubrics import Criterion, Rubric
from tests.conftest import RUBRIC
from tests.judges.faulty_server import asked, verdicts
from tests.modules.helpers import column, metrics, same, weights_of
from tests.processes import run_ranks
from tests.servers.fake import serving

LETTERS = "aeiostnrlu"


def reply(request, number=0):
    """Letters are proposed in an order that the prompt settles; a response has them or not."""
    prompt = request["messages"][-1]["content"]
    if "Propose at most" in prompt:
        first = sum(map(ord, re.search(r"user: (.*)", prompt)[1])) % len(LETTERS)
        letters = [one for one in LETTERS[first:] + LETTERS[:first] if f"Has the letter {one}." not in prompt][:3]
        listed = [{"name": f"has {one}", "description": f"Has the letter {one}.", "points": 2, "tags": []} for one in letters]
        return json.dumps({"criteria": [*listed, {"name": "nothing"}]})
    response, criteria = asked(prompt)
    said = ["met" if re.search(r"letter (\w)", words)[1] in response.lower() else "not_met" for _, words in criteria]
    return verdicts([{"id": i, "verdict": v, "value": None, "reason": ""} for (i, _), v in zip(criteria, said, strict=True)])


@pytest.fixture(scope="module")
def server():
    with serving(reply) as fake:
        yield fake


def judge(url):
    return RoutedJudge(other=HTTPJudge(url, "tiny", first_wait_s=0.01, attempts=2))


def evolve(run_tiny, server, folder="run", *callbacks, strategy=StaticReward, evolving=None, epochs=4, **kwargs):
    """Four epochs of four batches of two prompts."""
    made = EvolvingRubrics(server.url, "tiny", **{"most": 2, **(evolving or {})})
    made.run = run_tiny(
        strategy(judge=judge(server.url)), made, *callbacks, folder=folder, trainer_max_epochs=epochs, seed=0, **kwargs
    )
    return made


def lines(folder):
    return [json.loads(line) for line in (folder / "rubrics" / "evolved.jsonl").read_text(encoding="utf-8").splitlines()]


def test_criteria_are_kept_judged_and_retired(run_tiny, rubric_file, server):
    evolving = evolve(run_tiny, server, "run", HeldOut(), data_val=rubric_file(3, "val.jsonl"))
    folder, prompts = evolving.run.folder, [f"row-{i}" for i in range(8)]
    rows = lines(folder)
    counts = {name: column(folder, f"train/rubrics/{name}") for name in ("proposed", "kept", "retired", "active", "failed")}
    for batch in range(16):
        mine = [row["action"] for row in rows if row["batch"] == batch]
        assert mine.count("kept") == counts["kept"][batch]
        assert mine.count("kept") + mine.count("rejected") == counts["proposed"][batch]
        assert mine.count("retired") == counts["retired"][batch]
    assert counts["active"][-1] == sum(counts["kept"]) - sum(counts["retired"]) > 0
    assert sum(counts["retired"]) > 0
    assert sum(counts["failed"]) == 0
    assert {row["reason"] for row in rows if row["action"] == "rejected"} >= {"malformed"}
    for prompt in prompts:  # nothing is proposed a second time, at most two at a time
        kept = [row["criterion"]["name"] for row in rows if row["prompt"] == prompt and row["action"] == "kept"]
        assert len(kept) == len(set(kept))
        active = 0
        for row in rows:
            active += (row["prompt"] == prompt) * ((row["action"] == "kept") - (row["action"] == "retired"))
            assert 0 <= active <= 2
    scores = column(folder, "train/criterion/evolved/score")
    assert scores[0] != scores[0]  # NaN: they are there from a prompt's next visit on
    assert 0 < max(scores[4:]) < 1
    assert not [name for name in metrics(folder)[0] if name.startswith("val/") and "evolved" in name]
    assert not [name for name in metrics(folder)[0] if "has-" in name]
    evolving.run.trainer.validate(evolving.run.module, datamodule=evolving.run.data)
    assert not [name for name in evolving.run.trainer.callback_metrics if name.startswith("val/") and "has-" in name]


def test_responses_are_judged_once(run_tiny, rubric_file, server):
    """What is begun beside generation has the evolved criteria already."""
    words = {"name": "z", "description": "Somewhere it shows us one letter z to read.", "points": 1}
    longer = {"data_train": rubric_file(rubric=[*RUBRIC, words]), "sampling": Sampling(max_new_tokens=24)}
    evolving = evolve(run_tiny, server, epochs=2, **longer)
    assert sum(column(evolving.run.folder, "train/rubrics/kept")) > 0
    assert max(column(evolving.run.folder, "train/judge/requests")) <= 2 * evolving.run.module.group_size


def logged(folder):
    """Metrics without what a clock measures."""
    return [{name: value for name, value in row.items() if "latency" not in name} for row in metrics(folder)]


@pytest.mark.parametrize("strategy", [
    pytest.param(lambda judge: FocalReward(gamma=1.0, scope="running", judge=judge, patience=2, warmup=1), id="running and patient"),
    *(pytest.param(strategy, marks=pytest.mark.slow, id=name) for name, strategy in {
        "static": StaticReward,
        "standardised": lambda judge: StandardisedFocalReward(judge=judge),
        "informed": lambda judge: FocalReward(gamma=1.0, weights="uniform", informedness=0.5, judge=judge),
    }.items()),
])  # fmt: skip
def test_resumed_equals_the_uninterrupted_run(run_tiny, rubric_file, server, tmp_path, strategy):
    """Weights, criteria, metrics and the file of versions; rows behind the checkpoint are written once."""
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = evolve(run_tiny, server, "whole", saving, strategy=strategy, epochs=3, trainer_enable_checkpointing=True)
    assert sum(column(whole.run.folder, "train/rubrics/kept")) > 0
    shutil.copytree(whole.run.folder, tmp_path / "resumed")
    with (tmp_path / "resumed" / "rubrics" / "evolved.jsonl").open("a") as file:
        file.write('{"batch": 7, "pro')  # as if it had died in the middle of a line
    resumed = evolve(
        run_tiny, server, "resumed", strategy=strategy, epochs=3, ckpt_path=str(tmp_path / "checkpoints/step=6.ckpt")
    )
    assert same(weights_of(resumed.run.module), weights_of(whole.run.module))
    assert resumed.state_dict() == whole.state_dict()
    states = [run.run.strategy.state_dict() for run in (resumed, whole)]
    assert states[0]["keys"] == states[1]["keys"]
    torch.testing.assert_close(states[0]["levels"], states[1]["levels"], rtol=0, atol=0, equal_nan=True)
    assert logged(resumed.run.folder) == logged(whole.run.folder)
    assert lines(resumed.run.folder) == lines(whole.run.folder)
    assert [path.name for path in (tmp_path / "resumed" / "set_aside").rglob("evolved.jsonl")] == ["evolved.jsonl"]


def test_a_new_level_begins_as_that_of_its_group():
    strategy = FocalReward(scope="running")
    strategy.learn_criteria([Criterion("old", "Is old.", tags=("pool:evolved",))])
    strategy.learn_criteria([Criterion("new", "Is new.", tags=("pool:evolved",))])
    assert strategy.keys == {"old": 0, "new": 1}
    assert all(level != level for level in strategy.levels.tolist())
    assert strategy.stage_keys("train") == ["evolved"]


def test_weights_sum_to_one_and_originals_keep_their_ratio():
    evolving = EvolvingRubrics("http://localhost:1/v1", "m", share=0.4)
    events = [{"name": n, "description": n, "points": points} for n, points in (("x", 3.0), ("y", -1.0))]
    evolving.apply([{"prompt": "p", "action": "kept", "criterion": event} for event in events], 0)
    own = Rubric((Criterion("a", "A.", 4), Criterion("b", "B.", -2)))
    rubric = evolving.rubric("p", own)
    assert rubric.prior_weights == pytest.approx((0.4, 0.2, 0.3, 0.1))
    assert [criterion.is_fault for criterion in rubric.criteria] == [False, True, False, True]
    assert evolving.rubric("q", own) is own
    retired = {"prompt": "p", "action": "retired", "reason": "saturated", "tired": 2, "criterion": events[0]}
    evolving.apply([retired], 3)
    assert evolving.rubric("p", own).prior_weights == pytest.approx((0.4, 0.2, 0.4))


def test_what_fails_is_counted_and_stops_nothing(run_tiny):
    """No proposals but a refusal, and later no verdicts on them."""

    def scripted(request, number):
        prompt = request["messages"][-1]["content"]
        return (400, {}, "not today") if "Propose" not in prompt or number < 3 else reply(request)

    with serving(scripted) as fake:
        folder = evolve(run_tiny, fake, epochs=1).run.folder
    failed, rows = column(folder, "train/rubrics/failed"), lines(folder)
    assert (sum(failed), len(failed)) == (3, 4)
    assert "not today" in next(row["reason"] for row in rows if row["action"] == "failed")
    assert {row["reason"] for row in rows if row["action"] == "rejected"} == {"not_judged", "malformed"}
    assert sum(column(folder, "train/rubrics/kept")) == 0


def test_with_dynamic_sampling(run_tiny, server):
    evolving = evolve(run_tiny, server, epochs=3, dynamic_sampling=DynamicSampling(max_rounds=2))
    assert sum(column(evolving.run.folder, "train/rubrics/kept")) > 0


@pytest.mark.parametrize(("strategy", "message"), [
    (lambda judge: StaticReward(), "EvolvingRubrics needs a judge of criteria in words as `reward.judge`, such as RoutedJudge"),
    (lambda judge: MajorityVoteReward(), "MajorityVoteReward scores by"),
    (lambda judge: StaticReward(judge=judge, weights={c["name"]: 1.0 for c in RUBRIC}), "must be 'prior' or 'uniform'"),
    (StaticReward, "replay_buffer_size` must be 0 with StaticReward"),
], ids=["rules", "answers", "mapping", "replays"])  # fmt: skip
def test_refused_in_setup(run_tiny, server, strategy, message):
    replays = {"dynamic_sampling": DynamicSampling(max_rounds=2, replay_buffer_size=4)} if strategy is StaticReward else {}
    with pytest.raises(ValueError, match=message):
        evolve(run_tiny, server, strategy=strategy, **replays)


def two_ranks(rank, folder, url, train):
    fit_alone(folder, url, train, devices=2, strategy="ddp", logger_of=rank)


def fit_alone(folder, url, train, logger_of=0, **settings):
    """A run without the fixture, for a fresh process; leaves what it kept in ``state-<rank>.json``."""
    from pathlib import Path

    from lightning_focal.data import RubricDataModule
    from lightning_focal.generation import Sampling
    from lightning_focal.modules import GRPOModule
    from tests.conftest import TINY, adam, make_trainer

    evolving = EvolvingRubrics(url, "tiny", most=2)
    strategy = FocalReward(gamma=1.0, scope="running", judge=judge(url))
    module = GRPOModule(TINY, group_size=4, sampling=Sampling(max_new_tokens=6), optimizer=adam(1e-2), seed=0)
    trainer = make_trainer(Path(folder), [evolving, strategy], max_epochs=3, num_sanity_val_steps=0, **settings)
    trainer.fit(module, datamodule=RubricDataModule(train=train, batch_size=3))  # the second process has one prompt a batch
    assert find_strategy(trainer) is strategy
    content = {
        **evolving.state_dict(),
        "keys": list(strategy.keys),
        "levels": [repr(round(v, 4)) for v in strategy.levels.tolist()],
    }
    (Path(folder) / f"state-{logger_of}.json").write_text(json.dumps(content))


@pytest.mark.slow  # two fresh processes
def test_two_processes_agree_with_one(server, rubric_file, tmp_path):
    train = rubric_file(8)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    fit_alone(str(tmp_path / "one"), server.url, train)
    run_ranks(two_ranks, str(tmp_path / "two"), server.url, train, init=False)
    one, *two = [
        json.loads((tmp_path / path).read_text()) for path in ("one/state-0.json", "two/state-0.json", "two/state-1.json")
    ]
    assert one["criteria"]
    assert two == [one, one]
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    kept = [column(tmp_path / name, "train/rubrics/active") for name in ("one", "two")]
    assert kept[0] == kept[1]
