"""Weightings that remember, and what they are wrapped around: by hand, against loops, back from a checkpoint."""

import io
import json

import numpy as np
import pytest
import torch

from lightning_focal import rewards as rw
from lightning_focal.functional import base_weights
from lightning_focal.rewards.strategy import draw_seeds
from lightning_focal.types import CriterionScores
from tests import oracles
from tests.helpers import FAILED, MET, NOT_MET, TableJudge, make_prompts, make_rollouts, make_scores
from tests.rewards.test_focal import CHECK

MEAN, NAN = float("inf"), float("nan")
KEYS = list("uvwxyz")
STRATEGIES = {
    "group": lambda: rw.FocalReward(warmup=2),
    "batch": lambda: rw.FocalReward(scope="batch"),
    "running": lambda: rw.FocalReward(scope="running", decay=0.7, warmup=2),
    "pow3r": lambda: rw.RewardStrategy(weighting=rw.Pow3rWeighting(decay=0.7)),
    "informed": lambda: rw.StandardisedFocalReward(informedness=0.5),
    "patient": lambda: rw.FocalReward(gamma=2.0, scope="running", patience=2),
    "dropout": lambda: rw.RewardStrategy(weighting=rw.RubricDropout(rw.FocalWeighting(), share=0.4, least=2)),
    "all": lambda: rw.RewardStrategy(
        weighting=rw.PatientWeighting(rw.InformedWeighting(rw.RubricDropout(rw.Pow3rWeighting()), 0.5), patience=2, margin=0.2)
    ),
}


def random_batches(count=6, prompts=6, seed=5):
    rng = np.random.default_rng(seed)
    for number in range(count):
        scores, weights, mask = oracles.ragged_batch(rng, prompts)
        names = tuple(tuple(map(str, rng.choice(KEYS, int((row > 0).sum()), replace=False))) for row in weights)
        repeated = np.where(rng.random(scores.shape) < 0.4, np.round(rng.random(scores.shape)), NAN)
        tensors = (torch.from_numpy(x) for x in (scores, mask, weights))
        seeds = draw_seeds(number, [f"p{i}" for i in range(prompts)])
        yield CriterionScores(*tensors, names, repeated=torch.from_numpy(repeated), seeds=seeds)


def observed(strategy, *batches):
    for scores in batches:
        strategy.observe(scores)
    return strategy


def plain(state):
    """The state as plain data."""
    parts = {
        k: plain(v) if isinstance(v, dict) else v.nan_to_num(-1).tolist() if isinstance(v, torch.Tensor) else v
        for k, v in state.items()
    }
    return dict(sorted(parts.items()))


@pytest.mark.parametrize("name", STRATEGIES)
def test_resumed_in_the_middle_gives_the_same_weights_to_the_last_bit(name):
    batches, fields = list(random_batches()), ("rewards", "advantages", "weights", "saturation")
    whole, first, resumed, same_keys = (
        STRATEGIES[name](),
        observed(STRATEGIES[name](), *batches[:3]),
        *(STRATEGIES[name]() for _ in "ab"),
    )
    wanted = [observed(whole, scores).shape(scores) for scores in batches]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed.learn_keys(["a key that comes first", *reversed(KEYS)])  # in another order
    resumed.shape(batches[0])
    for strategy in (resumed, same_keys):
        strategy.load_state_dict(state)
    assert torch.equal(resumed.shape(batches[0]).weights, first.shape(batches[0]).weights)  # before the next batch is observed
    for scores, expected in zip(batches[3:], wanted[3:], strict=True):
        got = observed(resumed, scores).shape(scores)
        observed(same_keys, scores)
        before = plain(resumed.state_dict())
        again = resumed.shape(scores)
        assert plain(resumed.state_dict()) == before  # shaping changes no state
        for field in fields:
            assert torch.equal(getattr(got, field), getattr(expected, field)), field
            assert torch.equal(getattr(got, field), getattr(again, field)), field
        assert got.measures.keys() == expected.measures.keys()
        base = base_weights(scores.weights, scores.mask.any(1))
        assert not torch.allclose(got.weights, base)
        torch.testing.assert_close(got.weights.sum(-1), base.sum(-1))
    assert plain(same_keys.state_dict()) == plain(whole.state_dict())


def test_a_state_without_a_weighting_starts_cold_and_a_foreign_one_is_refused():
    strategy = rw.StandardisedFocalReward(informedness=0.5)
    state = observed(rw.StandardisedFocalReward(), next(random_batches())).state_dict()
    strategy.load_state_dict(state)
    assert strategy.batches == 1
    patient = observed(rw.StandardisedFocalReward(patience=3), next(random_batches())).state_dict()
    with pytest.raises(ValueError, match="the checkpoint's weighting kept no 'differing': InformedWeighting did not write it"):
        strategy.load_state_dict(patient)


# -- POW3R ------------------------------------------------------------------------------------------------------------------


def test_pow3r_averages_factors_by_key():
    strategy, average = rw.RewardStrategy(weighting=rw.Pow3rWeighting(decay=0.6, strength=0.8)), {}
    for scores in random_batches():
        observed(strategy, scores)
        shaped, today = strategy.shape(scores), {}
        base = base_weights(scores.weights, scores.mask.any(1)).numpy()
        for p, keys in enumerate(scores.keys):
            of = oracles.pow3r_factors(scores.scores[p].numpy(), base[p], scores.mask[p].numpy(), np.zeros(5), strength=0.8)
            for c, key in enumerate(keys):
                if base[p, c] > 0:
                    today.setdefault(key, []).append(of[c])
        for key, values in today.items():
            mean = sum(values) / len(values)
            average[key] = 0.6 * average[key] + 0.4 * mean if key in average else mean
        for p, keys in enumerate(scores.keys):
            factors = [average.get(key, 1.0) for key in keys] + [1.0] * (5 - len(keys))
            np.testing.assert_allclose(
                shaped.weights[p].numpy(), oracles.pow3r_weights(base[p], factors, np.zeros(5)), rtol=0, atol=1e-6
            )


def test_pow3r_keeps_the_weight_of_a_category():
    tags = ((("category:form",), ("category:form",), ("category:content",), ()),)
    scores = make_scores([[[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]], tags=tags)
    weights = observed(rw.RewardStrategy(weighting=rw.Pow3rWeighting()), scores).shape(scores).weights[0]
    assert weights[:2].sum().item() == pytest.approx(0.5)
    assert weights[1] > weights[0]  # it tells the two apart
    assert weights[2:].tolist() == [0.25, 0.25]


# -- informedness -----------------------------------------------------------------------------------------------------------


def test_informedness_counts_pairs_by_hand():
    # "a" differs in 1 of 4 pairs, "b" in none of 2, "c" in 2 of 3: J^2 = 1/2, 1, 0
    again = torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], [[1.0, NAN, NAN], [0.0, NAN, 1.0]]], dtype=torch.float64)
    scores = make_scores([[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]], repeated=again)
    strategy = observed(rw.StaticReward(weighting=rw.InformedWeighting(informedness=1.0), judge=TableJudge({})), scores)
    shaped = strategy.shape(scores)
    torch.testing.assert_close(shaped.weights[0], torch.tensor([1 / 3, 2 / 3, 0.0], dtype=torch.float64))
    informed = shaped.measures["informedness"][1]
    torch.testing.assert_close(informed, torch.tensor([0.5**0.5, 1.0, 0.0], dtype=torch.float64))
    # A second batch that always agrees: 1 * 0.95 of 4 * 0.95 + 4 pairs.
    strategy.observe(make_scores(scores.scores.tolist(), repeated=scores.scores))
    assert float(strategy.shape(scores).measures["informedness"][0, 0]) == pytest.approx((1 - 2 * 0.95 / 7.8) ** 0.5)
    assert rw.InformedWeighting().repeats == 0.1


@pytest.mark.parametrize("name", ["polite", "tone"])  # by criterion name or key
def test_informedness_may_be_given(name):
    scores = make_scores([[[1.0, 0.0]]], names=(("short", "polite"),), tags=(((), ("axis:tone",)),))
    strategy = rw.FocalReward(gamma=0.0, informedness={name: 0.5})
    torch.testing.assert_close(strategy.shape(scores).weights, torch.tensor([[0.8, 0.2]], dtype=torch.float64))
    assert strategy.shape(scores).measures["informedness"].tolist()[0] == pytest.approx([NAN, 0.5], nan_ok=True)
    strategy.weighting.validate(["short", "polite", "tone"])
    with pytest.raises(ValueError, match=f"`informedness` names {name!r}, no criterion of the data"):
        strategy.weighting.validate(["short"])


def test_informedness_of_a_file_of_agreement(tmp_path):
    confusion = {"met": {"met": 8, "not_met": 2}, "not_met": {"met": 1, "not_met": 9}}
    one_sided = {"met": {"met": 8, "not_met": 2}, "not_met": {"met": 0, "not_met": 0}}
    file = tmp_path / "agreement.json"
    file.write_text(json.dumps({"criteria": {"short": {"confusion": confusion}, "polite": {"confusion": one_sided}}}))
    scores = make_scores([[[1.0, 0.0]]], names=(("short", "polite"),))
    weights = rw.FocalReward(gamma=0.0, informedness=str(file)).shape(scores).weights
    torch.testing.assert_close(weights, torch.tensor([[0.49 / 1.49, 1 / 1.49]], dtype=torch.float64))
    for text, message in (
        ("{}", "is not what `lightning_focal judge --agreement FILE --json` writes"),
        ("no json", "is not what"),
        ('{"criteria": {"a": {"confusion": {"met": 3}}}}', "is not what"),
        (json.dumps({"criteria": {"polite": {"confusion": one_sided}}}), "no criterion with gold verdicts of both kinds"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            rw.InformedWeighting(informedness=str(file))
    with pytest.raises(FileNotFoundError, match="`informedness` must be an existing file"):
        rw.InformedWeighting(informedness=str(tmp_path / "nowhere.json"))


class Changeable(TableJudge):
    """Says the other thing when it is asked again; fails the second time on what is called "broken"."""

    def judge(self, requests):
        rows = super().judge(requests)
        if not (asked := getattr(self, "asked", False)):
            self.asked = True
            return rows
        other = {MET: NOT_MET, NOT_MET: MET}
        names = [[c.name for c in request.criteria] for request in requests]
        assert asked
        return [
            tuple(FAILED if n == "broken" else other[v] for n, v in zip(ns, row, strict=True))
            for ns, row in zip(names, rows, strict=True)
        ]


def test_a_seeded_share_of_training_rollouts_is_judged_twice():
    from lightning_focal.rubrics import Criterion, Rubric

    rubric = Rubric((Criterion("kind", "", check=CHECK), Criterion("broken", "", check=CHECK)))
    prompts = make_prompts(8, [rubric] * 8)
    rollouts = make_rollouts(prompts, 8)
    table = {(text, name): MET for texts in rollouts.texts for text in texts for name in rubric.names}

    def scored(stage, share=0.25):
        strategy = rw.StandardisedFocalReward(judge=Changeable(table), informedness=share)
        return strategy, strategy.score(rollouts, stage)

    strategy, scores = scored("train")
    twice = ~scores.repeated.isnan()
    assert not twice[..., 1].any()  # a judgement that failed is no disagreement
    assert 8 <= int(twice.sum()) <= 24  # of 64, one in four
    assert scores.repeated[twice].unique().tolist() == [0.0]
    assert len(strategy.source.judge.requests) == 64 + int(twice.sum())
    assert torch.equal(scored("train")[1].repeated.nan_to_num(-1), scores.repeated.nan_to_num(-1))
    assert scored("val")[1].repeated is None
    informed = observed(strategy, scores).shape(scores).measures["informedness"]
    assert informed[0].tolist() == pytest.approx([0.0, NAN], nan_ok=True)
    # The batch is part of the seed.
    second = strategy.score(rollouts)
    assert not torch.equal(second.seeds, scores.seeds)


# -- patience ---------------------------------------------------------------------------------------------------------------


def test_an_impossible_criterion_gives_its_weight_back_and_gets_it_again_once_it_moves():
    def batch(level):
        return make_scores([[[1.0, level, 0.5], [1.0, level, 0.5]]])

    strategy = rw.FocalReward(gamma=1.0, temperature=MEAN, scope="batch", patience=3)
    focal = rw.FocalReward(gamma=1.0, temperature=MEAN, scope="batch")
    seen = []
    for level in (0.0, 0.0, 0.0, 0.0, 0.02, 0.3):
        scores = batch(level)
        free, shaped = observed(focal, scores).shape(scores).weights[0], observed(strategy, scores).shape(scores)
        seen.append(shaped.measures["gives_back"][0, 1].item())
        if seen[-1]:
            w = shaped.weights[0]
            assert w[1].item() == pytest.approx(1 / 3)
            torch.testing.assert_close(w[0] / w[2], free[0] / free[2])  # the others share what is given back
        else:
            torch.testing.assert_close(shaped.weights[0], free)
    assert seen == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def test_patience_does_not_count_during_the_warm_up():
    scores = make_scores([[[1.0, 0.0], [1.0, 0.0]]])
    strategy = rw.FocalReward(patience=2, warmup=3)
    given = [float(observed(strategy, scores).shape(scores).measures["gives_back"][0, 1]) for _ in range(5)]
    assert given[3:] == [0.0, 1.0]


# -- dropout ----------------------------------------------------------------------------------------------------------------


def test_dropout_is_one_draw_a_prompt_and_batch_whatever_the_padding():
    rng = np.random.default_rng(0)
    seeds = draw_seeds(3, ["p0", "p1"])
    assert torch.equal(draw_seeds(3, ["p1"]), seeds[1:])
    assert not torch.equal(draw_seeds(4, ["p0", "p1"]), seeds)
    values = rng.random((2, 4, 6)).tolist()
    narrow = make_scores(values, seeds=seeds)
    wide = make_scores([[[*row, None, None] for row in group] for group in values], names=narrow.names, seeds=seeds)
    strategy = rw.RewardStrategy(weighting=rw.RubricDropout(share=0.5), advantage=rw.GdpoAdvantage())
    weights = strategy.shape(narrow).weights
    assert ((weights > 0).sum(-1) == 3).all()
    assert not torch.equal(weights[0] > 0, weights[1] > 0)
    assert torch.equal(strategy.shape(wide).weights[:, :6], weights)
    alone = make_scores(values[1:], seeds=seeds[1:])
    assert torch.equal(strategy.shape(alone).weights, weights[1:])
    assert torch.equal(strategy.shape(make_scores(values)).weights, narrow.weights)  # held out: the whole rubric
