import copy
import logging
import re

import pytest
import torch

from lightning_focal.functional import logprobs
from lightning_focal.models import Sizes, load_policy, response_logp, response_measures, why_not_packed
from lightning_focal.models import rows as module
from lightning_focal.models.packing import Pack
from tests.helpers import adapted

from .architectures import make, one_by_one
from .test_logp import batch

EVEN = [(4, 5)] * 6
"""``(prompt, response)`` lengths of six rows in groups of three; below, groups of unlike lengths with an empty response."""
RAGGED = [(3, 4), (3, 1), (3, 6), (7, 5), (7, 0), (7, 2)]


def grouped(lengths, group=3, seed=0):
    """Rows of :func:`batch` in which each ``group`` rows have the first one's prompt."""
    prompts, prompt_mask, responses, response_mask = batch(lengths, seed=seed)
    first = torch.arange(len(lengths)) // group * group
    return prompts[first], prompt_mask[first], responses, response_mask


def sizes_of(data, group=3):
    return Sizes.of(data[1], data[3], group)


@pytest.mark.parametrize(
    ("lengths", "temperature"), [(EVEN, 1.0), (RAGGED, 0.7), ([(3, 1)] * 3, 1.0)], ids=["even", "ragged", "one token"]
)
def test_equals_one_sequence_at_a_time(tiny, lengths, temperature):
    data = grouped(lengths)
    with torch.no_grad():
        expected, measures = one_by_one(tiny[0], *data, temperature)
        logp, measured = response_measures(
            tiny[0], *data, ["entropy", "self_certainty"], temperature=temperature, sizes=sizes_of(data)
        )
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(measured, measures, atol=1e-5, rtol=0)
    assert (logp[~data[3]] == 0).all()


def test_no_padding_is_computed_and_a_prompt_once(tiny):
    seen = []
    hook = tiny[0].model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    data = grouped(RAGGED)
    why_not_packed(tiny[0])  # tries the model out
    seen.clear()
    with torch.no_grad():
        response_measures(tiny[0], *data, sizes=sizes_of(data))
    hook.remove()
    assert seen == [(1, 3 + 7 + (3 + 0 + 5) + (4 + 0 + 1))]  # nothing is predicted from a response's last token


def test_rows_in_any_order(tiny):
    data, order = grouped(RAGGED), [4, 0, 5, 2, 3, 1]
    sizes = sizes_of(data)
    with torch.no_grad():
        whole, _ = response_measures(tiny[0], *data, sizes=sizes)
        turned, _ = response_measures(tiny[0], *(t[order] for t in data), sizes=sizes.rows(order))
    torch.testing.assert_close(turned, whole[order], atol=1e-5, rtol=0)


def weighted(model, data, sizes, chunk_size=256):
    """Gradients of a sum that weighs every token differently."""
    model.zero_grad()
    logp, _ = response_measures(model, *data, sizes=sizes, chunk_size=chunk_size)
    (logp * torch.linspace(-1, 2, logp.numel()).reshape(logp.shape)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    """Within 1e-5 of the largest gradient of all: float32 sums in another order."""
    scale = max(float(g.abs().max()) for g in expected.values())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("option", ["shared prompt", "padding-free", "chunked", "checkpointed", "made again"])
def test_gradients_are_the_plain_ones(option, monkeypatch):
    model, _ = load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2")
    data = grouped(RAGGED)
    logp = one_by_one(model, *data)[0]
    (logp * torch.linspace(-1, 2, logp.numel()).reshape(logp.shape)).sum().backward()
    one_by_one_gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    if option == "checkpointed":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    if option == "made again":
        monkeypatch.setattr("lightning_focal.functional.logprobs._KEPT_BYTES", 0)
    sizes = sizes_of(data, 1 if option == "padding-free" else 3)
    assert_same(weighted(model, data, sizes, chunk_size=4 if option == "chunked" else 256), one_by_one_gradients)
    assert_same(weighted(model, data, None, chunk_size=4), one_by_one_gradients)


def test_measures_that_are_watched_cost_the_backward_pass_nothing(tiny, monkeypatch):
    """Probabilities that were kept are enough for the gradient; with one for the entropy, logits would be made again."""
    made = []
    plain = logprobs._scaled_logits
    monkeypatch.setattr(logprobs, "_scaled_logits", lambda *a: made.append(a) or plain(*a))
    data = grouped(EVEN)
    logp, measured = response_measures(tiny[0], *data, ["entropy"], sizes=sizes_of(data))
    assert not measured["entropy"].requires_grad
    forward = len(made)
    logp.sum().backward()
    tiny[0].zero_grad()
    assert len(made) == forward > 0


def test_adapters():
    policy, data = adapted(load_policy("random:tiny-llama?hidden=32&layers=1&std=0.2")[0]), grouped(RAGGED)
    assert why_not_packed(policy) is None
    with torch.no_grad():
        logp = response_logp(policy, *data)
        torch.testing.assert_close(logp, one_by_one(policy, *data)[0], atol=1e-5, rtol=0)
    found = weighted(policy, data, sizes_of(data))
    assert_same(found, weighted(policy, data, None))
    assert found.keys() == {name for name, parameter in policy.named_parameters() if parameter.requires_grad}


def test_models_that_cannot_are_computed_the_plain_way(caplog):
    """Windows and eager attention: tests/models/test_architectures.py."""
    model, data = make("bloom")[0], grouped(RAGGED)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            logp, _ = response_measures(model, *data, sizes=sizes_of(data))
    torch.testing.assert_close(logp, one_by_one(model, *data)[0], atol=1e-5, rtol=0)
    (said,) = (r.message for r in caplog.records if r.name == module.__name__)
    assert re.search("attention cannot be replaced|eager", said)


def test_model_whose_packed_logits_are_others_is_found_out(monkeypatch, caplog):
    model, _ = load_policy("random:tiny-llama?hidden=32&layers=1&std=0.2&seed=5")
    attend = Pack.attend
    monkeypatch.setattr(Pack, "attend", lambda self, *a: attend(self, *a) * 1.5)
    with caplog.at_level(logging.WARNING):
        assert why_not_packed(model).startswith("its logits are others there, by ")
    assert "LlamaForCausalLM computes a prompt for each of its responses" in caplog.text


def test_modes_are_put_back_and_copies_work():
    model, _ = load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2")
    model.train()
    model.model.layers[0].eval()
    data = grouped(RAGGED)
    expected = model(input_ids=data[0]).logits
    assert why_not_packed(model) is None
    assert model.training
    assert not model.model.layers[0].training
    for one in (model, copy.deepcopy(model), type(model)(model.config).eval()):  # no layout: as before
        one.load_state_dict(model.state_dict())
        assert torch.equal(one(input_ids=data[0]).logits, expected)


def test_sizes_count_tokens():
    sizes = Sizes((0, 0, 1), (4, 4, 2), (3, 1, 5))
    assert sizes.packed_tokens() == 4 + 2 + 9
    assert sizes.padded_tokens() == 3 * 7  # the longest whole row
    assert sizes.rows([2, 0]) == Sizes((1, 0), (2, 4), (5, 3))
