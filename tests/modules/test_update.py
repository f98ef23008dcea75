import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_focal.functional import loss_normaliser
from lightning_focal.generation import Sampling, ScriptedGenerator
from lightning_focal.models import load_policy
from lightning_focal.modules import Update
from lightning_focal.modules.loss import grpo_loss, step_normaliser, without_covariant
from lightning_focal.modules.update import Sequences, UpdateSums
from lightning_focal.types import Shaped
from tests.generation.helpers import make_prompts
from tests.modules.helpers import backward_of_step, full_logp, logp_of, rows_of

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def sequences(tiny):
    """Eight responses of different lengths to four prompts of different lengths; one response takes no part."""
    model, tokenizer = tiny
    prompts = make_prompts(tokenizer)
    script = {id: [f"{id} says {'no ' * i}", "b" * (2 * i + 1)] for i, id in enumerate(prompts.ids)}
    generator = ScriptedGenerator(script)
    rollouts = generator.generate(model, tokenizer, prompts, group_size=2, seeds=[0] * 4, sampling=Sampling(max_new_tokens=14))
    advantages = torch.linspace(-1.5, 1.5, 8).reshape(4, 2)
    valid = torch.ones(4, 2, dtype=torch.bool)
    valid[2, 1] = False
    zeros = torch.zeros(4, 1)
    shaped = Shaped(advantages, advantages * valid, zeros, zeros, advantages, valid)
    return Sequences.of(rollouts, shaped)


def test_logp_equals_full_logits_whatever_the_micro_batch(tiny, sequences):
    with torch.no_grad():  # one unpadded sequence at a time
        by_hand = [full_logp(tiny[0], prompt, response, TEMPERATURE) for prompt, response in rows_of(sequences)]
    for row, mask, expected in zip(logp_of(tiny[0], sequences, TEMPERATURE, 3), sequences.response_mask, by_hand, strict=True):
        assert torch.allclose(row[mask], expected, atol=1e-5)
        assert not row[~mask].any()


def gradients(model, sequences, update):
    model = copy.deepcopy(model).train()
    normaliser = step_normaliser(sequences, update)
    losses = backward_of_step(model, sequences, update, TEMPERATURE, normaliser)
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("aggregation", "kl_coef"), [("token_mean", 0.0), ("token_mean", 0.3), ("sequence_mean", 0.3), ("fixed_length", 0.3)]
)
def test_micro_batches_add_up_to_the_whole(tiny, sequences, aggregation, kl_coef):
    other, _ = load_policy("random:tiny-llama?hidden=32&layers=2&seed=4&std=0.2")
    old = logp_of(tiny[0], sequences, TEMPERATURE, 8)
    noise = 0.3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(0))
    ref = logp_of(other, sequences, TEMPERATURE, 8) if kl_coef else None
    sequences = replace(sequences, old_logp=old + noise, ref_logp=ref)
    length = 20 if aggregation == "fixed_length" else None
    results = [
        gradients(
            tiny[0],
            sequences,
            Update(micro_batch_size=8 // count, loss_aggregation=aggregation, fixed_length=length, kl_coef=kl_coef),
        )
        for count in (1, 2, 4)
    ]
    losses, grads = results[0]
    assert max(float(grad.abs().max()) for grad in grads.values()) > 1e-3
    for other_losses, other_grads in results[1:]:
        for name, grad in grads.items():
            assert torch.allclose(grad, other_grads[name], atol=1e-5), name
        for name, value in losses.items():
            assert torch.allclose(value, other_losses[name], atol=1e-5), name


def test_the_corrected_kl_has_the_gradient_of_the_divergence(tiny, sequences):
    """On policy that of k3 times the ratio is ``(logp - ref) grad logp`` at every token, though the loss is that without."""
    old = logp_of(tiny[0], sequences, TEMPERATURE, 8)
    ref = old + torch.linspace(-2, 1, old.numel()).reshape(old.shape)
    given = replace(sequences, advantages=torch.zeros(len(sequences)), ref_logp=ref)
    losses, grads = gradients(tiny[0], given, Update(kl_coef=0.5, kl_bias_correction=True))
    plain_losses, plain = gradients(tiny[0], given, Update(kl_coef=0.5))
    assert float(losses["total"]) == pytest.approx(float(plain_losses["total"]), rel=1e-6)
    model = copy.deepcopy(tiny[0])
    mask = given.loss_mask
    total = 0.0
    for n, (prompt, response) in enumerate(rows_of(given)):
        logp = full_logp(model, prompt, response, TEMPERATURE)
        total = total + ((logp.detach() - ref[n, : len(response)]) * logp * mask[n, : len(response)]).sum()
    (0.5 * total / mask.sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            grads[name], parameter.grad, atol=1e-5 * float(parameter.grad.abs().max()), rtol=1e-4, msg=name
        )
    assert not torch.allclose(grads["lm_head.weight"], plain["lm_head.weight"], rtol=0.1)


@pytest.mark.parametrize("corrected", [False, True])
def test_loss_by_hand(tiny, sequences, corrected):
    """Two tokens' worth of PPO arithmetic in plain Python, summed over every token."""
    old = logp_of(tiny[0], sequences, TEMPERATURE, 8)
    shift = torch.linspace(-0.6, 0.6, old.numel()).reshape(old.shape)
    ref = old - 0.25
    sequences = replace(sequences, old_logp=old + shift, ref_logp=ref)
    update = Update(micro_batch_size=3, kl_coef=0.5, kl_estimator="k1", kl_bias_correction=corrected)
    losses, _ = gradients(tiny[0], sequences, update)
    policy_sum = kl_sum = tokens = 0.0
    for n in range(len(sequences)):
        if not sequences.valid[n]:
            continue
        advantage = float(sequences.advantages[n])
        for t in range(int(sequences.response_mask[n].sum())):
            ratio = float((-shift[n, t]).exp())
            policy_sum += -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            kl_sum += 0.25 * (ratio if corrected else 1)
            tokens += 1
    assert abs(float(losses["policy"]) - policy_sum / tokens) < 1e-5
    assert abs(float(losses["total"]) - (policy_sum + 0.5 * kl_sum) / tokens) < 1e-5


def test_sizes_are_those_of_the_masks(sequences):
    assert sequences.sizes.prompts == (0, 0, 1, 1, 2, 2, 3, 3)
    assert list(sequences.sizes.prompt_lengths) == [len(prompt) for prompt, _ in rows_of(sequences)]
    assert list(sequences.sizes.response_lengths) == [len(response) for _, response in rows_of(sequences)]
    part = sequences.rows(torch.tensor([5, 0]))
    assert part.sizes.prompts == (2, 0)
    assert part.old_logp is None
    assert part.loss_mask.equal(sequences.loss_mask[[5, 0]])


@pytest.mark.parametrize(("kl_coef", "shared", "tokens"), [(0.3, True, 1), (0.0, True, 60), (0.3, True, 10000), (0.3, False, 60)])
def test_token_budgets_and_shared_prompts_change_no_gradient(tiny, sequences, kl_coef, shared, tokens):
    ref = torch.zeros_like(sequences.response_mask, dtype=torch.float32) - 2.0
    plain = replace(sequences, ref_logp=ref if kl_coef else None, sizes=None)
    losses, grads = gradients(tiny[0], plain, Update(micro_batch_size=8, kl_coef=kl_coef))
    given = replace(plain, sizes=sequences.sizes if shared else None)
    others, other_grads = gradients(tiny[0], given, Update(micro_batch_tokens=tokens, kl_coef=kl_coef))
    scale = max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        assert float((grad - other_grads[name]).abs().max()) <= 1e-5 * scale, name
    for name, value in losses.items():
        assert torch.allclose(value, others[name], atol=1e-5), name
    logp = logp_of(tiny[0], plain, TEMPERATURE, 8)
    assert torch.allclose(logp_of(tiny[0], given, TEMPERATURE, 8, tokens), logp, atol=1e-5)


@pytest.mark.parametrize(("shared", "budget"), [(False, 70), (True, 1), (True, 70), (True, 10000)])
def test_chunks_keep_to_the_budget(sequences, shared, budget):
    chunks = list(sequences.chunks(8, budget, shared=shared))
    assert sorted(torch.cat(chunks).tolist()) == list(range(8))
    for chunk in chunks:
        sizes = sequences.sizes.rows(chunk.tolist())
        assert len(chunk) == 1 or (sizes.packed_tokens() if shared else sizes.padded_tokens()) <= budget
    if budget == 10000:
        assert len(chunks) == 1
    if shared:
        numbers = [sequences.sizes.prompts[row] for row in torch.cat(chunks).tolist()]
        assert [n for i, n in enumerate(numbers) if not i or numbers[i - 1] != n] == list(dict.fromkeys(numbers))


def test_chunks_hold_every_row_once_longest_first(sequences):
    chunks = list(sequences.chunks(3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    order = torch.cat(chunks)
    assert sorted(order.tolist()) == list(range(8))
    lengths = (sequences.prompt_mask.sum(-1) + sequences.response_mask.sum(-1))[order]
    assert (lengths.diff() <= 0).all()


def test_normaliser_counts_valid_tokens_alone(sequences):
    tokens = sum(len(response) for i, (_, response) in enumerate(rows_of(sequences)) if i != 5)
    assert float(step_normaliser(sequences, Update())) == tokens
    assert float(loss_normaliser(sequences.loss_mask, "sequence_mean")) == 7


def test_watched_means_are_over_all_tokens(tiny, sequences):
    old = logp_of(tiny[0], sequences, TEMPERATURE, 8) - 0.5
    sequences = replace(sequences, old_logp=old)
    sums = UpdateSums()
    model = copy.deepcopy(tiny[0])
    backward_of_step(model, sequences, Update(micro_batch_size=3), TEMPERATURE, torch.tensor(1.0), sums)
    means = {k.removeprefix("policy/"): v for k, v in sums.means([*sums.sums], "cpu", lambda x: x).items()}
    assert abs(float(means["ratio_mean"]) - 1.6487) < 1e-3  # exp(0.5)
    # the upper clip cuts positive advantages alone
    lengths = sequences.loss_mask.sum(-1)
    expected = float(lengths[sequences.advantages > 0].sum() / lengths.sum())
    assert abs(float(means["clip_fraction"]) - expected) < 1e-6
    assert abs(float(means["old_kl"]) - (1.6487 - 1 - 0.5)) < 1e-3


def test_nothing_watched_is_not_a_number():
    means = UpdateSums().means(["old_kl"], "cpu", lambda x: x)
    assert means.keys() == {"policy/old_kl", "loss/policy", "loss/total", "policy/grad_norm"}
    assert all(math.isnan(value) for value in means.values())


COUNTS = ("epochs", "mini_batches", "micro_batch_size", "max_bad_steps")
SIZES = ("gradient_clip_val", "kl_coef")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        *(({name: 0}, rf"`update\.{name}` must be >= 1, got 0") for name in COUNTS),
        *(({name: x}, rf"`update\.{name}` must be >= 0, got {x}") for name in SIZES for x in (-1.0, float("nan"))),
        ({"loss_aggregation": "fixed_length"}, "`update.fixed_length`"),
        ({"micro_batch_tokens": 0}, "`update.micro_batch_tokens` must be >= 1 or null, got 0"),
        (
            {"loss_aggregation": "mean"},
            "`update.loss_aggregation` must be 'sequence_mean', 'token_mean' or 'fixed_length', got 'mean'",
        ),
        ({"kl_estimator": "k4"}, "`update.kl_estimator` must be 'k1', 'k2' or 'k3', got 'k4'"),
        ({"clip_low": 1.5}, r"`update.clip_low` must be in \[0, 1\], got 1.5"),
        ({"clip_high": -0.1}, "`update.clip_high` must be >= 0, got -0.1"),
        ({"dual_clip": 1.0}, "`update.dual_clip` must be > 1 or null, got 1.0"),
        ({"importance_cap": 0.5}, "`update.importance_cap` must be >= 1 or null, got 0.5"),
        ({"loss_type": "dapo"}, "`update.loss_type` must be 'clip' or 'cispo', got 'dapo'"),
        ({"loss_type": "cispo", "dual_clip": 3.0}, "`update.dual_clip` must be null with loss_type 'cispo'"),
        ({"importance_sampling_level": "group"}, "`update.importance_sampling_level` must be 'token' or 'sequence', got 'group'"),
        (
            {"importance_sampling_mode": "mask", "importance_cap": 2.0},
            "`update.importance_sampling_mode` must be 'token_truncate'",
        ),
        (
            {"importance_sampling_mode": "sequence_mask"},
            "`update.importance_sampling_mode` needs `update.importance_cap` .* got 'sequence_mask'",
        ),
        ({"importance_floor": 0.5}, "`update.importance_floor` needs `update.importance_cap` .* got 0.5 alone"),
        ({"importance_floor": 1.5, "importance_cap": 2.0}, r"`update.importance_floor` must be in \[0, 1\], got 1.5"),
        ({"clip_cov_ratio": 1.0}, r"`update.clip_cov_ratio` must be in \[0, 1\), got 1.0"),
        ({"clip_cov_bounds": (5.0, 1.0)}, r"`update.clip_cov_bounds` must be \(lowest, highest\), got \(5.0, 1.0\)"),
        ({"entropy_coef": -0.1}, "`update.entropy_coef` must be >= 0, got -0.1"),
    ],
)
def test_bad_settings_are_refused_before_training(arguments, match):
    with pytest.raises(ValueError, match=match):
        Update(**arguments)


def test_importance_weights_multiply_the_loss_of_each_token(tiny, sequences):
    """At the first step the policy ratio is 1, and the gradient that of -w A log p, with w = min(p / p_sampler, cap)."""
    model, cap = copy.deepcopy(tiny[0]).train(), 1.5
    own = logp_of(model, sequences, TEMPERATURE, 8)
    shift = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)) * 0.5
    sampled = replace(sequences, sampling_logp=own - shift)
    update, sums = Update(micro_batch_size=3, importance_cap=cap), UpdateSums()
    normaliser = step_normaliser(sampled, update)
    backward_of_step(model, sampled, update, TEMPERATURE, normaliser, sums)

    expected, weights, gaps = copy.deepcopy(tiny[0]), [], []
    total = torch.zeros(())
    for row, (prompt, response) in enumerate(rows_of(sequences)):
        if not sequences.valid[row]:
            continue
        logp = full_logp(expected, prompt, response, TEMPERATURE)
        for t, value in enumerate(logp):
            difference = float(value.detach()) - float(sampled.sampling_logp[row, t])
            weights.append(min(math.exp(difference), cap))
            gaps.append(abs(difference))
            total = total - weights[-1] * sequences.advantages[row] * value
    (total / len(weights)).backward()
    assert {cap} < set(weights)
    assert min(weights) < 1
    for (name, got), (_, want) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.allclose(got.grad, want.grad, atol=1e-5), name
    means = {k.removeprefix("policy/"): v for k, v in sums.means([*sums.sums], "cpu", lambda x: x).items()}
    assert float(means["importance_masked"]) == 0
    assert float(means["importance_weight"]) == pytest.approx(sum(weights) / len(weights), rel=1e-4)
    assert float(means["sampling_gap"]) == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    assert float(sums.largest["sampling_gap_max"]) == pytest.approx(max(gaps), rel=1e-4)


def test_without_a_cap_the_sampler_has_no_say(tiny, sequences):
    known = replace(sequences, sampling_logp=torch.full(sequences.response_ids.shape, -1.0))
    grads, others = (gradients(tiny[0], given, Update())[1] for given in (sequences, known))
    assert all(grads[name].equal(others[name]) for name in grads)


OPTIONS = {
    "gspo": {"importance_sampling_level": "sequence", "loss_aggregation": "sequence_mean", "clip_low": 0.02, "clip_high": 0.02},
    "cispo": {"loss_type": "cispo"},
    "entropy": {"entropy_coef": 0.5, "loss_aggregation": "sequence_mean"},
    "sequence_mask": {"importance_cap": 1.5, "importance_floor": 0.5, "importance_sampling_mode": "sequence_mask"},
    "clip_cov": {"clip_cov_ratio": 0.2, "clip_cov_bounds": (0.0, math.inf)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_micro_batches_change_no_option(tiny, sequences, name):
    old = logp_of(tiny[0], sequences, TEMPERATURE, 8)
    noise = 0.1 * torch.randn(old.shape, generator=torch.Generator().manual_seed(0))
    rows = replace(sequences, old_logp=old + noise, sampling_logp=old - noise, number=torch.arange(8))
    plain, _ = gradients(tiny[0], rows, Update())
    if name == "clip_cov":
        rows = without_covariant(rows, old, Update(**OPTIONS[name]), 0, Alone())
    results = [gradients(tiny[0], rows, Update(micro_batch_size=8 // count, **OPTIONS[name])) for count in (1, 2, 4)]
    assert abs(float(results[0][0]["total"]) - float(plain["total"])) > 1e-4
    for losses, grads in results[1:]:  # terms of about 4 in float32, added in another order
        assert float(losses["total"]) == pytest.approx(float(results[0][0]["total"]), abs=1e-5)
        for key, grad in results[0][1].items():
            assert torch.allclose(grad, grads[key], atol=1e-5), key


@pytest.mark.parametrize("whole_logits", [False, True])
def test_the_entropy_bonus_has_the_gradient_of_the_mean_entropy(tiny, sequences, whole_logits, monkeypatch):
    """By transformers' own logits, where the output layer gives log-probabilities and where it gives up whole logits."""
    if whole_logits:
        monkeypatch.setattr("lightning_focal.models.logp._is_plain", lambda head: False)
    given = replace(sequences, advantages=torch.zeros(8))
    losses, grads = gradients(tiny[0], given, Update(entropy_coef=0.3, micro_batch_size=3))
    model, total = copy.deepcopy(tiny[0]), torch.zeros(())
    for row, (prompt, response) in enumerate(rows_of(given)):
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        total = total + torch.distributions.Categorical(logits=logits).entropy().sum() * given.valid[row]
    loss = -0.3 * total / given.loss_mask.sum()
    loss.backward()
    assert float(losses["total"]) == pytest.approx(float(loss.detach()), abs=1e-6)
    assert float(losses["policy"]) == 0.0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            grads[name], parameter.grad, atol=1e-5 * float(parameter.grad.abs().max()), rtol=1e-4, msg=name
        )


class Alone:
    """The only process."""

    sum = gather = max_over_ranks = staticmethod(lambda value: value)


def covariant_rows(seed=0, n=12, t=20):
    dice = torch.Generator().manual_seed(seed)
    mask = torch.arange(t) < torch.randint(1, t + 1, (n, 1), generator=dice)
    logp = -torch.rand(n, t, generator=dice) * 3
    old = torch.where(mask, logp + 0.2 * torch.randn(n, t, generator=dice), torch.nan)
    advantages = torch.randn(n, generator=dice)
    zeros = torch.zeros(n, t, dtype=torch.int64)
    valid = torch.arange(n) != 3
    return Sequences(zeros, mask, zeros, mask, advantages, valid, old, number=torch.arange(n)), logp


def test_clip_cov_leaves_out_what_the_paper_says():
    """eq. 10: floor(r N) tokens of a band of covariances, none whose gradient a clip has cut off already."""
    rows, logp = covariant_rows()
    mask = rows.loss_mask.numpy()
    x, a = logp.numpy().astype(float), np.broadcast_to(rows.advantages.numpy()[:, None], mask.shape).astype(float)
    covariance, ratio = (x - x[mask].mean()) * (a - a[mask].mean()), np.exp(x - rows.old_logp.numpy())
    cut = ((a > 0) & (ratio > 1.2)) | ((a < 0) & (ratio < 0.8))
    band = mask & (covariance > 0.5) & (covariance < 2.0) & ~cut
    assert 10 < band.sum() < (mask & (covariance > 0.5) & (covariance < 2.0)).sum()
    drawn = []
    for seed in range(200):
        update = Update(clip_cov_ratio=0.05, clip_cov_bounds=(0.5, 2.0))
        left_out = without_covariant(rows, logp, update, seed, Alone()).left_out.numpy()
        assert left_out.sum() == int(0.05 * mask.sum())
        assert not (left_out & ~band).any()
        drawn.append(left_out[band])
    share = np.mean(drawn, 0)  # of each candidate alike
    assert share.std() < 3 * math.sqrt(share.mean() * (1 - share.mean()) / 200)
    assert share.mean() == pytest.approx(int(0.05 * mask.sum()) / band.sum())
    every = without_covariant(rows, logp, Update(clip_cov_ratio=0.9, clip_cov_bounds=(0.5, 2.0)), 0, Alone()).left_out
    assert (every.numpy() == band).all()
    one = without_covariant(rows, logp, Update(clip_cov_ratio=1e-6, clip_cov_bounds=(0.5, 2.0)), 0, Alone()).left_out
    assert int(one.sum()) == 1
    none = without_covariant(rows, logp, Update(clip_cov_ratio=0.1, clip_cov_bounds=(1e3, 2e3)), 0, Alone()).left_out
    assert not none.any()


def test_left_out_tokens_have_no_gradient_and_count_in_the_mean():
    rows, logp = covariant_rows()
    update = Update(clip_cov_ratio=0.1, clip_cov_bounds=(0.0, math.inf))
    rows = without_covariant(rows, logp, update, 0, Alone())
    x = logp.clone().requires_grad_()
    loss, watched = grpo_loss(rows, x, update, step_normaliser(rows, update))
    loss.backward()
    y = logp.clone().requires_grad_()
    grpo_loss(replace(rows, left_out=None), y, update, step_normaliser(rows, update))[0].backward()
    assert not x.grad[rows.left_out].any()
    assert torch.equal(x.grad, y.grad.masked_fill(rows.left_out, 0))
    assert float(watched["clip_cov_fraction"]) == pytest.approx(float(rows.left_out.sum() / rows.loss_mask.sum()))
