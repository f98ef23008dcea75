"""The loss of questions in two views is the sum of each side's own (arXiv:2508.00410 eq. 8), and so is its gradient."""

import copy
from dataclasses import replace

import pytest
import torch

from lightning_focal.generation import Sampling, ScriptedGenerator
from lightning_focal.models import encode_chat
from lightning_focal.modules import Update
from lightning_focal.modules.loss import step_normaliser
from lightning_focal.modules.update import Sequences
from lightning_focal.types import Prompts, Shaped
from tests.modules.helpers import backward_of_step, full_logp, logp_of, rows_of

CLIPS = (0.2, 0.3, 3.0)


@pytest.fixture(scope="module")
def sequences(tiny):
    """Two questions in two views each, groups of three, one response masked; the sides differ much in their number of tokens."""
    model, tokenizer = tiny
    ids = ("a", "b", "a/rephrased", "b/rephrased")
    messages = tuple(({"role": "user", "content": f"Question {name}?"},) for name in ids)
    prompts = Prompts(
        ids,
        messages,
        tokens=tuple(tuple(encode_chat(tokenizer, chat)) for chat in messages),
        questions=("a", "b", "a", "b"),
        views=(0, 0, 1, 1),
    )
    script = {name: ["x" * (3 + 2 * i), "yes", "a long answer" * (1 + i // 2)] for i, name in enumerate(ids)}
    rollouts = ScriptedGenerator(script).generate(
        model, tokenizer, prompts, group_size=3, seeds=[0] * 4, sampling=Sampling(max_new_tokens=30)
    )
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(4, 3, generator=generator)
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[1, 2] = False
    zeros = torch.zeros(4, 1)
    found = Sequences.of(rollouts, Shaped(advantages, advantages * valid, zeros, zeros, advantages, valid))
    old = logp_of(model, found, 1.0, 4)
    noise = torch.randn(old.shape, generator=generator)
    return replace(found, old_logp=old + 0.2 * noise, ref_logp=old - 0.1 * noise)


def gradients(model, sequences, update):
    model = copy.deepcopy(model)
    normaliser = step_normaliser(sequences, update)
    losses = backward_of_step(model, sequences, update, 1.0, normaliser)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), losses


def side_by_hand(model, sequences, view, aggregation, kl_coef):
    """One side alone, sequence by sequence, from transformers' own logits: ``(gradient, loss)``."""
    model = copy.deepcopy(model)
    rows = [i for i in range(len(sequences)) if int(sequences.views[i]) == view and bool(sequences.valid[i])]
    texts, total, tokens = rows_of(sequences), 0.0, 0
    terms = []
    for i in rows:
        prompt, response = texts[i]
        logp = full_logp(model, prompt, response)
        keep = sequences.response_mask[i]
        old, ref = sequences.old_logp[i][keep], sequences.ref_logp[i][keep]
        ratio = (logp - old).exp()
        advantage = sequences.advantages[i]
        loss = torch.maximum(-ratio * advantage, -ratio.clamp(1 - CLIPS[0], 1 + CLIPS[1]) * advantage)
        if advantage < 0:
            loss = torch.minimum(loss, -CLIPS[2] * advantage)
        difference = ref - logp
        loss = loss + kl_coef * (difference.exp() - difference - 1)
        terms.append(loss)
        tokens += len(response)
    total = sum(t.sum() for t in terms) / tokens if aggregation == "token_mean" else sum(t.mean() for t in terms) / len(terms)
    total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]), float(total)


@pytest.mark.parametrize(("aggregation", "micro_batch_size"), [("token_mean", 5), ("sequence_mean", 1)])
def test_gradient_is_the_sum_of_the_two_sides_computed_apart(tiny, sequences, aggregation, micro_batch_size):
    clips = {"clip_low": CLIPS[0], "clip_high": CLIPS[1], "dual_clip": CLIPS[2]}
    update = Update(micro_batch_size=micro_batch_size, loss_aggregation=aggregation, kl_coef=0.005, **clips)
    together, losses = gradients(tiny[0], sequences, update)
    apart = [side_by_hand(tiny[0], sequences, view, aggregation, 0.005) for view in (0, 1)]
    expected = apart[0][0] + apart[1][0]
    assert float(expected.abs().max()) > 1e-2
    assert float((together - expected).abs().max()) < 1e-6
    assert float(losses["total"]) == pytest.approx(apart[0][1] + apart[1][1], abs=1e-6)
    # a single normaliser over both sides would be another loss
    pooled, _ = gradients(tiny[0], replace(sequences, views=None), update)
    assert float((pooled - expected).abs().max()) > 1e-4


def test_a_side_without_valid_rollouts_adds_nothing(tiny, sequences):
    """By the library's own one-sided update, too: masking the other side out leaves its loss."""
    nothing = replace(sequences, valid=torch.zeros_like(sequences.valid))
    assert step_normaliser(nothing, Update()).tolist() == [0.0, 0.0]
    half = replace(sequences, valid=sequences.valid & (sequences.views == 1))
    gradient, losses = gradients(tiny[0], half, Update(kl_coef=0.005))
    assert torch.isfinite(losses["total"])
    alone, _ = gradients(
        tiny[0], replace(sequences.rows((sequences.views == 1).nonzero()[:, 0]), views=None), Update(kl_coef=0.005)
    )
    assert float((alone - gradient).abs().max()) < 1e-6


def test_rows_keep_their_view(sequences):
    assert sequences.views.tolist() == [0] * 6 + [1] * 6
    assert sequences.rows(torch.tensor([7, 2])).views.tolist() == [1, 0]
