"""Ours inside TRL: its own numbers where no weight moves, ours where it does; and its reward functions here."""

import difflib
from unittest import mock

import numpy as np
import pytest
import torch
import transformers

pytest.importorskip("trl")

from lightning_focal.functional import base_weights, focal_weights, inverse_reward_projection
from lightning_focal.integrations.trl import FocalGRPOTrainer, rubric_reward
from lightning_focal.judges import RuleJudge
from lightning_focal.models import export_policy, load_policy
from lightning_focal.rewards import (
    DvaoAdvantage,
    FocalReward,
    FocalWeighting,
    RewardFunctions,
    RewardStrategy,
    RubricDropout,
    RubricScores,
    StaticReward,
)
from lightning_focal.rubrics import Criterion, Rubric
from lightning_focal.types import CriterionScores
from tests.conftest import RUBRIC, write_rows
from tests.docs.pages import ROOT, blocks
from tests.helpers import make_prompts, make_rollouts
from tests.integrations.grpo import FUNCTIONS, ROWS, TINY, WEIGHTS, fit, logs, make, parameters, two_processes
from tests.processes import run_ranks
from tests.test_package import fresh

pytestmark = pytest.mark.trl
SHORT = {"max_steps": 4}


def assert_same(ours, theirs):
    """Every number that TRL logs of a step, and every weight, to the last bit; a summary at the end is of one process's own steps."""
    assert len(logs(theirs)) > 2
    for got, want in zip(logs(ours)[:-1], logs(theirs)[:-1], strict=True):
        assert {key: got[key] for key in want} == want
    assert all(torch.equal(a, b) for a, b in zip(parameters(ours).values(), parameters(theirs).values(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale_rewards": "batch", **SHORT},
        {"scale_rewards": "none", **SHORT},
        {"multi_objective_aggregation": "normalize_then_sum", **SHORT},
        {"steps_per_generation": 2, "num_iterations": 2, "max_steps": 6},
        {"eval_strategy": "steps", "eval_steps": 2, "num_generations_eval": 1, "per_device_eval_batch_size": 6, **SHORT},
    ],
    ids=lambda settings: "-".join(settings) or "20-steps",
)
def test_gamma_0_is_trl_to_the_last_bit(tmp_path, settings):
    theirs, ours = fit(tmp_path / "trl", **settings), fit(tmp_path / "ours", FocalReward(gamma=0.0), **settings)
    assert any(row.get("loss") for row in logs(ours))
    assert_same(ours, theirs)


def scores_of(rewards):
    return CriterionScores.of_rewards(rewards.view(-1, 4, 3), ["short", "even", "upper"], WEIGHTS)


def expected(rewards, gamma=1.0, group=4):
    """``[N]`` advantages in plain NumPy: weights of `functional`, then TRL's sum, mean and standard deviation."""
    raw, scores = rewards.view(-1, group, 3), scores_of(rewards)
    mask = ~raw.isnan()
    base = base_weights(scores.weights, mask.any(1))
    saturation = inverse_reward_projection(scores.scores, base, mask)
    weights = focal_weights(saturation, base, mask.any(1), gamma)
    out = []
    for rows, applies, moved in zip(raw.double().numpy(), mask.any(1).numpy(), weights.double().numpy(), strict=True):
        total = sum(w for w, a in zip(WEIGHTS, applies, strict=True) if a)
        sums = [sum(total * w * r for w, r in zip(moved, row, strict=True) if not np.isnan(r)) for row in rows]
        out += [(s - np.mean(sums)) / (np.std(sums, ddof=1) + 1e-4) for s in sums]
    return weights, saturation, mask.any(1), np.array(out)


def assert_ours(seen, logged):
    holes = 0
    for (rewards, advantages), row in zip(seen, logged, strict=True):
        weights, saturation, judged, want = expected(rewards)
        holes += int(rewards.isnan().sum())
        np.testing.assert_allclose(advantages.numpy(), want, rtol=2e-3, atol=2e-5)  # float32 sums, divided by small spreads
        for c, name in enumerate(("short", "even", "upper")):
            for kind, values in (("weight", weights), ("saturation", saturation)):
                if judged[:, c].any():
                    assert row[f"{kind}/{name}"] == pytest.approx(float(values[judged[:, c], c].mean()), abs=1e-6)
                else:
                    assert f"{kind}/{name}" not in row
            raw = rewards[:, c]
            assert row[f"rewards/{name}/mean"] == (None if raw.isnan().all() else pytest.approx(float(raw.nanmean()), abs=1e-6))
    assert holes


def test_gamma_1_has_the_weights_of_functional(tmp_path):
    """And TRL's table of completions shows the advantages in force."""
    import pandas

    trainer = fit(tmp_path, FocalReward(gamma=1.0), log_completions=True)
    assert_ours(trainer.seen, logs(trainer)[:-1])
    moved = [row["weight/short"] for row in logs(trainer)[:-1]]
    assert max(abs(np.array(moved) - 0.5)) > 0.1
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert table["advantage"].tolist() == trainer.seen[0][1].tolist()
    assert isinstance(trainer, FocalGRPOTrainer)


def test_two_processes_do_what_one_does(tmp_path):
    """Groups of four lie across two processes; each holds all rewards, and nothing is counted twice."""
    run_ranks(two_processes, str(tmp_path), init=False, timeout=280)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    theirs, static, focal, grouped = first["logs"]
    for got, want in zip(static, theirs, strict=True):
        assert {key: got[key] for key in want} == want
    for name, value in first["weights"][0].items():
        assert torch.equal(value, first["weights"][1][name])
        assert torch.equal(first["weights"][2][name], second["weights"][2][name])
    assert len(first["seen"][0][0]) == 4
    strategy = FocalReward(gamma=1.0, scope="running")
    for step, (rewards, advantages) in enumerate(first["seen"]):
        scores = scores_of(rewards)
        strategy.observe(scores)
        assert torch.isfinite(advantages).all()
        if step == 0:
            assert focal[0]["weight/short"] == pytest.approx(float(strategy.shape(scores).weights[:, 0].mean()), abs=1e-6)
    assert torch.equal(first["state"]["levels"].nan_to_num(), strategy.state_dict()["levels"].nan_to_num())
    assert torch.equal(first["state"]["levels"].nan_to_num(), second["state"]["levels"].nan_to_num())
    assert_ours(first["grouped"], grouped[:-1])


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path):
    """Running levels, batches and what a weighting draws are in TRL's checkpoint."""

    def strategy():
        return RewardStrategy(weighting=RubricDropout(FocalWeighting(1.0), least=1), scope="running")

    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = fit(tmp_path, strategy(), **settings)
    settings["restore_callback_states_from_checkpoint"] = True
    again = fit(tmp_path, strategy(), resume=str(tmp_path / "checkpoint-3"), **settings)
    assert again.strategy.batches == 6
    assert len(again.seen) == 3
    assert torch.equal(whole.strategy.levels, again.strategy.levels)
    assert_same(again, whole)
    other = make(tmp_path, StaticReward(), **settings)
    with pytest.raises(ValueError, match="was written with the reward strategy"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_lora(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    theirs = fit(tmp_path / "trl", peft_config=config, **SHORT)
    ours = fit(tmp_path / "ours", FocalReward(gamma=0.0), peft_config=config, **SHORT)
    assert any("lora" in name and value.any() for name, value in parameters(ours).items())
    assert_same(ours, theirs)


def test_evaluation_weighs_and_learns_nothing(tmp_path):
    settings = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "num_generations_eval": 2,
        "per_device_eval_batch_size": 6,
        "max_steps": 2,
    }
    trainer = fit(tmp_path, FocalReward(gamma=1.0, scope="batch"), **settings)
    evaluated = next(row for row in logs(trainer) if "eval_reward" in row)
    assert 0 < evaluated["eval_weight/short"] < 1
    assert trainer.strategy.batches == 2
    assert not [key for row in logs(trainer) if "loss" in row for key in row if key.startswith("eval_")]


def test_another_advantage_takes_the_place_of_trls(tmp_path):
    strategy = RewardStrategy(advantage=DvaoAdvantage())
    trainer = fit(tmp_path, strategy, max_steps=1)
    for rewards, advantages in trainer.seen:
        assert torch.equal(advantages, strategy.shape(scores_of(rewards)).advantages.flatten())
    with pytest.raises(ValueError, match="would be lost"):
        make(tmp_path, strategy, scale_rewards="batch")


def test_rewards_of_other_ranges(tmp_path):
    """A range and a punishment: weights move in units of score, and gamma 0 is still TRL's."""

    def penalty(completions, **columns):
        return [-2.0 * (len(c[0]["content"]) % 2) for c in completions]

    given = {"functions": [FUNCTIONS[0], penalty], "reward_weights": [-0.5, 0.25], **SHORT}
    ours = fit(tmp_path / "a", FocalReward(gamma=0.0), bounds={"penalty": (-2.0, 0.0)}, **given)
    assert_same(ours, fit(tmp_path / "b", **given))
    moved = fit(tmp_path / "c", FocalReward(gamma=1.0), bounds={"penalty": (-2.0, 0.0)}, **given)
    rewards, advantages = moved.seen[0]
    scores = CriterionScores.of_rewards(rewards.view(-1, 4, 2), ["short", "penalty"], [-0.5, 0.25], {"penalty": (-2.0, 0.0)})
    assert scores.weights[0].tolist() == [0.5, 0.5]
    shaped = FocalReward(gamma=1.0).shape(scores)
    centred = shaped.rewards - shaped.rewards.mean(1, keepdim=True)
    np.testing.assert_allclose(advantages.view(-1, 4), centred / (centred.std(1, keepdim=True) + 1e-4), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"'penalty' gave -2, outside \(0, 1\): say which rewards it can give"):
        fit(tmp_path / "d", FocalReward(), **given)


@pytest.mark.parametrize(("reward", "error", "words", "more"), [
    ("focal", TypeError, "`reward` must be a strategy", {}),
    (FocalReward(source=type("Own", (RubricScores,), {})()), ValueError, "scores come from `reward_funcs`", {}),
    (FocalReward(weights={"short": 1.0}), ValueError, "`weights` has no weight for the criterion 'even'", {}),
    (FocalReward(), ValueError, "`bounds` must map names of", {"bounds": {"long": (0, 1)}}),
    (FocalReward(), ValueError, "must have different names", {"functions": [FUNCTIONS[0]] * 2}),
])  # fmt: skip
def test_what_cannot_work_stops_early(tmp_path, reward, error, words, more):
    with pytest.raises(error, match=words):
        make(tmp_path, reward, **more)


def test_a_reward_model_needs_its_range(tmp_path):
    policy, tokenizer = load_policy(TINY)
    config = transformers.LlamaConfig(**policy.config.to_dict() | {"num_labels": 1})
    for kept in (transformers.LlamaForSequenceClassification(config), tokenizer):
        kept.save_pretrained(tmp_path / "liked")
    functions = [FUNCTIONS[0], str(tmp_path / "liked")]
    with pytest.raises(ValueError, match=r"`bounds` must say which rewards the model 'liked' can give"):
        make(tmp_path, FocalReward(gamma=1.0), functions=functions)
    trainer = fit(tmp_path, FocalReward(gamma=1.0), functions=functions, bounds={"liked": (-50.0, 50.0)}, max_steps=1)
    assert 0 < logs(trainer)[0]["weight/liked"] < 1


def test_a_rubric_file_is_a_column_for_each_tag(tmp_path):
    lines = [{"prompt": row["prompt"], "rubric": [RUBRIC[0], RUBRIC[2]][: 1 + i % 2]} for i, row in enumerate(ROWS)]
    write_rows(tmp_path / "train.jsonl", lines)
    judge = mock.Mock(wraps=RuleJudge())
    functions = rubric_reward(tmp_path / "train.jsonl", judge)
    assert [f.__name__ for f in functions] == ["brevity", "tone"]
    assert [round(f.weight, 3) for f in functions] == [round((1 + 2 / 3) / 2, 3), round(1 / 6, 3)]
    given = {"functions": functions, "reward_weights": [f.weight for f in functions], **SHORT}
    trainer = fit(tmp_path / "run", FocalReward(gamma=1.0), **given)
    assert judge.judge.call_count == 4
    rewards = torch.cat([rewards for rewards, _ in trainer.seen])
    assert rewards[:, 1].isnan().any()
    assert set(rewards[:, 0].tolist()) <= {0.0, 1.0}
    assert "weight/tone" in {key for row in logs(trainer) for key in row}
    with pytest.raises(ValueError, match="has no rubric for the prompt 'Say 100'"):
        functions[0](prompts=["Say 100"], completions=["Hi."])
    with pytest.raises(ValueError, match="occurs twice"):
        rubric_reward(write_rows(tmp_path / "twice.jsonl", lines[:1] * 2))
    with pytest.raises(ValueError, match="check"):
        rubric_reward(Rubric((Criterion("kind", "Is kind."),)))


def test_it_loads_neither_lightning_nor_a_command_line():
    """A strategy is a callback of Lightning's; `lightning_focal.rewards` loads Lightning, and no command line either."""
    loaded = "[n for n in ('lightning', 'jsonargparse', 'lightning.pytorch.cli') if n in sys.modules]"
    code = f"import sys, lightning_focal.integrations.trl; a = {loaded}; from lightning_focal.rewards import FocalReward; print(a, {loaded})"
    assert fresh(code) == "[] ['lightning']"


def test_the_page_changes_five_lines_at_most(tmp_path, monkeypatch):
    """Both scripts of the page run, and differ in no more."""
    page = ROOT / "docs" / "howto" / "trl.md"
    before, after = (block.text for block in blocks(page) if block.needs == "trl")
    changed = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line.startswith("+ ")]
    assert 0 < len(changed) <= 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    export_policy(*load_policy(TINY), "POLICY")
    for script in (before, after):
        names = {"__name__": "page"}
        exec(script, names)
        assert names["trainer"].state.global_step == 4
    assert names["trainer"].strategy.batches == 4


def test_reward_functions_of_trl_run_here_unchanged():
    """Each gives what a direct call gives, over all completions of a batch."""
    from trl import rewards as theirs

    functions = [
        theirs.accuracy_reward,
        theirs.reasoning_accuracy_reward,
        theirs.think_format_reward,
        theirs.get_soft_overlong_punishment(max_completion_len=6, soft_punish_cache=3),
        theirs.get_repetition_penalty_reward(ngram_size=2),
        theirs.get_cosine_scaled_reward(max_len=8),
    ]
    bounds = {function.__name__: pair for function, pair in zip(functions[3:], [(-1, 0), (-1, 0), (-1, 1)], strict=True)}
    texts = (("<think>a</think>\\boxed{4}", "\\boxed{5}"), ("<think>\\boxed{7}", "7"))
    prompts = make_prompts(2, extra=({"solution": "$4$"}, {"solution": "it is seven"}))
    ids = torch.tensor([[[1, 2, 1, 2, 1], [3, 4, 5, 6, 0]], [[7, 7, 7, 0, 0], [8, 9, 0, 0, 0]]])
    rollouts = make_rollouts(prompts, 2, tokens=5, texts=texts, response_ids=ids, response_mask=ids > 0)
    source = RewardFunctions(functions, bounds=bounds)
    source.validate(prompts)
    scores = source(rollouts)
    completions = [[{"role": "assistant", "content": text}] for row in texts for text in row]
    tokens = [[1, 2, 1, 2, 1], [3, 4, 5, 6], [7, 7, 7], [8, 9]]
    solution = ["$4$", "$4$", "it is seven", "it is seven"]
    for c, (name, function) in enumerate(zip(source.names, functions, strict=True)):
        low, high = bounds.get(name, (0, 1))
        for got, counts, want in zip(
            scores.scores.view(4, -1)[:, c].tolist(),
            scores.mask.view(4, -1)[:, c].tolist(),
            function(prompts=None, completions=completions, completion_ids=tokens, solution=solution),
            strict=True,
        ):
            assert counts == (want is not None)
            assert got == (0 if want is None else pytest.approx((want - low) / (high - low), abs=1e-6)), name
    assert scores.mask.view(4, -1).sum(0).tolist() == [2, 4, 4, 4, 4, 2]
