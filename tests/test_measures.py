"""What is logged of a batch, by hand."""

import math
from dataclasses import replace

import pytest
import torch

from lightning_focal.modules.measures import BatchMeasures, Means
from lightning_focal.rewards import FocalReward, StaticReward
from tests.helpers import make_answers, make_scores

NAN = math.nan


def logged(*batches, keys=("a", "b", "c"), stage="train", strategy=None, **kwargs):
    measures = BatchMeasures(stage, {key: i for i, key in enumerate(keys)})
    for scores in batches:
        answers = make_answers(scores, strategy=strategy, **kwargs)
        assert measures.add(answers.rollouts, answers.scores, answers.shaped) is measures
    return {name.removeprefix(f"{stage}/"): value for name, value in measures.compute().items()}


def same(got, expected):
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


# Ragged: the second prompt lacks "b", its second rollout could not be judged at all; in the first prompt "b" was judged once.
RAGGED = make_scores(
    [[[1.0, 0.5], [0.0, None]], [[1.0, None], [None, None]]],
    [[0.75, 0.25], [1.0, 0.0]],
    names=(("a", "b"), ("c",)),
    failed=torch.tensor([[[False, False], [False, True]], [[False, False], [False, False]]]),
)


def test_a_ragged_batch_by_hand():
    values = logged(RAGGED, keys=("a", "b", "c", "elsewhere"))
    same(values, {"criterion/a/score": 0.5, "criterion/b/score": 0.5, "criterion/c/score": 1.0, "criterion/elsewhere/score": NAN})
    same(values, {"weight/a": 0.75, "weight/b": 0.25, "weight/c": 1.0, "weight/elsewhere": NAN})
    same(values, {"saturation/b": 0.5, "saturation/c": 1.0, "saturation/elsewhere": NAN})
    same(values, {"balance/worst": 0.5, "balance/mean": 2 / 3, "balance/strict_completion": 1 / 3})
    # R = (0.875, 0): softmax puts e^0.875 / (e^0.875 + 1) on the rollout that meets "a"
    assert values["saturation/a"] == pytest.approx(math.exp(0.875) / (math.exp(0.875) + 1))
    mean = (0.875 + 0.0 + 1.0) / 3  # over valid rollouts
    same(values, {"reward/mean": mean, "reward/static": mean, "reward/prior": mean, "reward/valid_share": 0.75})
    same(values, {"reward/group_std": math.sqrt(2 * 0.4375**2)})  # of the one group with two valid rollouts
    # six judgements: "b" failed once, "c" was not applicable once; padding is neither
    same(values, {"judge/failure_rate": 1 / 6, "judge/not_applicable_rate": 1 / 6})
    same(values, {"criterion/b/failed": 0.5, "criterion/c/not_applicable": 0.5, "criterion/a/failed": 0.0})
    spoilt = RAGGED.scores.clone()
    spoilt[~RAGGED.mask] = NAN  # masked scores are not read
    same(logged(replace(RAGGED, scores=spoilt)), logged(RAGGED))


def test_both_rewards_lengths_and_truncation():
    scores = make_scores([[[0.5, 1.0], [None, 1.0]]], [[1.0, 0.0]])  # the prior score leaves out what carries no weight
    same(logged(scores, strategy=StaticReward(weights="uniform")), {"reward/prior": 0.5, "reward/mean": 0.875})
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[0, 0, :1], mask[0, 1] = True, True
    more = {"response_mask": mask, "truncated": torch.tensor([[False, True]])}
    values = logged(make_scores([[[1.0, 0.0], [1.0, 1.0]]]), strategy=FocalReward(gamma=1.0), **more)
    same(values, {"rollout/length": 2.0, "rollout/truncated": 0.5})
    w = 0.427541 / 0.477541
    assert values["weight/b"] == pytest.approx(w, abs=1e-6)
    assert values["reward/mean"] == pytest.approx(1 - w / 2, abs=1e-6)
    assert values["reward/static"] == values["reward/prior"] == 0.75


def test_nothing_judged_is_nan_and_not_zero():
    values = logged(make_scores([[[None], [None]]], failed=torch.ones(1, 2, 1, dtype=torch.bool)))
    unknown = [f"reward/{name}" for name in ("mean", "static", "prior", "group_std")]
    unknown += ["criterion/a/score", "weight/a", "saturation/a", "balance/worst", "balance/strict_completion"]
    same(values, dict.fromkeys(unknown, NAN))
    same(values, {"reward/valid_share": 0.0, "judge/failure_rate": 1.0, "judge/not_applicable_rate": 0.0})


def test_the_sources_measures_are_means_over_what_is_known():
    measures = {
        "vote/share": torch.tensor([0.5, NAN]),
        "vote/accuracy": torch.full((2,), NAN),
        "answer/accuracy": torch.tensor([[1.0, 0.0], [1.0, NAN]]),
        "certainty/clamped": torch.tensor([[True, False]]),
    }
    first, second = make_scores([[[1.0], [0.0]]], measures=measures), make_scores([[[1.0]]], measures=measures)
    expected = {"vote/share": 0.5, "vote/accuracy": NAN, "answer/accuracy": 2 / 3, "certainty/clamped": 0.5}
    same(logged(first), expected)
    same(logged(first, second), expected)
    assert list(expected) == [name for name in logged(first) if name in measures]


def test_batches_pool_as_sums_not_as_means_of_means():
    first, second = make_scores([[[1.0], [0.5], [0.0]]]), make_scores([[[1.0, 0.25]]])
    wanted = {
        "criterion/a/score": 2.5 / 4,
        "criterion/b/score": 0.25,
        "reward/mean": (1.5 + 0.625) / 4,
        "weight/a": (1.0 + 0.5) / 2,
    }
    same(logged(first, second), wanted)
    # every batch logs the same names
    assert list(logged(RAGGED)) == list(logged(make_scores([[[None]]]))) == list(logged(RAGGED, make_scores([[[1.0]]])))
    assert all(name.startswith("val/") for name in BatchMeasures("val", {"a": 0}).compute())


def test_processes_add_up_their_sums():
    """Two processes, played one after the other: each hands its sums to the collective."""
    halves = [make_scores([[[1.0, 0.0], [0.5, 0.0]]]), make_scores([[[0.0, 1.0], [None, 1.0]], [[0.25, None], [0.25, None]]])]

    def compute(scores, collective):
        answers = make_answers(scores)
        return BatchMeasures("train", {"a": 0, "b": 1}).add(answers.rollouts, answers.scores, answers.shaped).compute(collective)

    sent = [[], []]
    for scores, kept in zip(halves, sent, strict=True):
        compute(scores, lambda value, kept=kept: (kept.append(value), value)[1])
    assert [value.shape for value in sent[0]] == [value.shape for value in sent[1]]
    sums = iter([a + b for a, b in zip(*sent, strict=True)])
    together = compute(halves[0], lambda value: next(sums))
    same({k.removeprefix("train/"): v for k, v in together.items()}, logged(*halves, keys=("a", "b")))


# -- Means ------------------------------------------------------------------------------------------------------------------


def test_means_by_hand():
    means = Means()
    means.add("x", torch.tensor([1.0, 2.0, torch.nan]), torch.tensor([True, True, False]))
    means.add("y", torch.tensor(5))
    means.add("none", torch.tensor([1.0], requires_grad=True), torch.tensor([False]))
    means.add_sums("z", torch.tensor(6.0), torch.tensor(4))
    values = means.compute()
    assert list(values) == ["x", "y", "none", "z"]
    same(values, {"x": 1.5, "y": 5.0, "none": NAN, "z": 1.5})
    assert Means().compute() == {}
    assert not any(total.requires_grad for total in means._sums.values())


def test_one_collective_for_all_means():
    means, calls = Means(), []
    for name in "xyz":
        means.add(name, torch.tensor([1.0, 2.0]))

    def double(value):
        calls.append(value)
        return value * torch.tensor([[2.0], [1.0]], dtype=value.dtype)

    assert means.compute(double) == dict.fromkeys("xyz", 3.0)
    assert len(calls) == 1
    assert calls[0].dtype == torch.float64


def test_names_are_followed_beside_keys(run_tiny):
    """Axes pool criteria; a name has a trajectory of its own."""
    made = run_tiny(log_names=True, data_val=None, trainer_max_epochs=1)
    logged = made.trainer.callback_metrics
    assert float(logged["train/name/short/weight"]) == pytest.approx(float(logged["train/weight/brevity"]))
    assert {f"train/name/{name}/score" for name in ("short", "letter", "shouts")} <= set(logged)


def test_what_theory_asks_of_the_weights_by_hand():
    # uniform weights; "a" grows with length, "b" falls with it, "c" does not vary
    scores = make_scores(
        [[[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]],
        [[0.6, 0.3, 0.1]],
        names=(("a", "b", "c"),),
        repeated=torch.tensor([[[1.0, NAN, 1.0], [1.0, NAN, NAN], [NAN, NAN, NAN]]]),
    )
    mask = torch.tensor([[[True, False, False], [True] * 3, [True] * 3]])
    values = logged(scores, strategy=FocalReward(gamma=50.0), response_mask=mask)
    same(values, {"criterion/a/variance": 1 / 3, "criterion/c/variance": 0.0})
    judged = logged(scores, strategy=FocalReward(informedness=0.5))
    same(judged, {"judge_variance/a": 0.25, "judge_variance/b": NAN, "judge_variance/c": 0.0})
    same({name: values[f"criterion/{name}/length_correlation"] for name in "abc"}, {"a": 1.0, "b": -1.0, "c": NAN})
    # under static weights the first is worst (0.4 against 0.7 twice), with nearly all weight on "b" it is best: 2 of 2 untied pairs turned
    same(values, {"order/flipped": 1.0, "order/kendall_distance": 1.0, "order/new_best": 1.0})
    assert values["balance/length_weight"] == pytest.approx(1, abs=1e-6)  # all but "c"
    levels = [2 / 3, 1 / 3, 1.0]
    tilts = [values[f"saturation/{key}"] - level for key, level in zip("abc", levels, strict=True)]
    assert values["balance/tilt"] == pytest.approx(sum(tilts) / 3)
    assert tilts[0] == pytest.approx(2 / (2 + math.exp(-0.3)) - 2 / 3)
    same(logged(scores), {"order/flipped": 0.0, "order/kendall_distance": 0.0, "order/new_best": 0.0})
