import logging

import pytest
import torch

from lightning_focal.models import (
    Lora,
    Sizes,
    apply_lora,
    encode_chat,
    load_policy,
    response_logp,
    response_measures,
    why_not_padded,
)
from lightning_focal.models import logp as module

from .architectures import make, one_by_one


def batch(lengths, limit=6, vocabulary=256, seed=0):
    """Left-padded prompts and right-padded responses of the given ``(prompt, response)`` lengths; padding is token 1."""
    draw = torch.Generator().manual_seed(seed)
    width = max(p for p, _ in lengths)
    prompts, responses = torch.ones(len(lengths), width, dtype=torch.long), torch.ones(len(lengths), limit, dtype=torch.long)
    for i, (p, r) in enumerate(lengths):
        prompts[i, width - p :] = torch.randint(2, vocabulary, (p,), generator=draw)
        responses[i, :r] = torch.randint(2, vocabulary, (r,), generator=draw)
    prompt_mask = torch.arange(width) >= width - torch.tensor([[p] for p, _ in lengths])
    response_mask = torch.arange(limit) < torch.tensor([[r] for _, r in lengths])
    return prompts, prompt_mask, responses, response_mask


MIXED = [(3, 4), (7, 1), (1, 6), (5, 0), (7, 5)]


@pytest.mark.parametrize(
    ("lengths", "temperature"), [(MIXED, 0.7), ([(4, 5), (4, 2)], 1.0)], ids=["left-padded", "equal prompts"]
)
def test_equals_whole_logits_without_padding(tiny, lengths, temperature):
    data = batch(lengths)
    with torch.no_grad():
        expected, measures = one_by_one(tiny[0], *data, temperature)
        logp, measured = response_measures(tiny[0], *data, ["entropy", "self_certainty"], temperature=temperature, chunk_size=3)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(measured, measures, atol=1e-5, rtol=0)
    assert (logp[~data[3]] == 0).all()


def test_columns_of_padding_change_nothing_and_are_not_computed(tiny):
    prompts, prompt_mask, responses, response_mask = data = batch([(2, 2), (1, 1)])
    pad, seen = torch.nn.functional.pad, []
    why_not_padded(tiny[0])  # tries the model out
    with torch.no_grad():
        expected = response_logp(tiny[0], *data)
        hook = tiny[0].model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        wider = (pad(prompts, (9, 0)), pad(prompt_mask, (9, 0)), pad(responses, (0, 4)), pad(response_mask, (0, 4)))
        logp = response_logp(tiny[0], *wider)
        hook.remove()
    assert seen == [(2, 3)]
    assert logp.shape == (2, 10)
    torch.testing.assert_close(logp[:, :6], expected, atol=1e-5, rtol=0)


def test_head_is_put_back(tiny):
    assert "forward" not in tiny[0].lm_head.__dict__
    with pytest.raises((IndexError, RuntimeError)):
        response_logp(tiny[0], *batch([(2, 2)], vocabulary=100000))  # no such token
    assert "forward" not in tiny[0].lm_head.__dict__


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_autocast(tiny, packed):
    data = batch(MIXED)
    sizes = Sizes.of(data[1], data[3]) if packed else None
    with torch.no_grad():
        expected = response_logp(tiny[0], *data, sizes=sizes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logp = response_logp(tiny[0], *data, sizes=sizes)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp, expected, atol=0.2, rtol=0)
    assert not logp.equal(expected)


def test_output_layer_with_bias():
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=None,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = PhiForCausalLM(config).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    data = batch(MIXED, vocabulary=64)
    with torch.no_grad():
        torch.testing.assert_close(response_logp(model, *data), one_by_one(model, *data)[0], atol=1e-5, rtol=0)
    assert model not in module._whole_logits


def test_soft_capped_logits_are_honoured(caplog):
    model, _ = make("gemma2")
    model.config.final_logit_softcapping = 0.5
    data = batch(MIXED)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        expected, measures = one_by_one(model, *data, temperature=0.8)
        for _ in range(2):
            logp, measured = response_measures(model, *data, ["entropy", "self_certainty"], temperature=0.8)
            torch.testing.assert_close(logp, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(measured, measures, atol=1e-5, rtol=0)
    assert [r.message for r in caplog.records if "separable" in r.message] == [
        "Gemma2ForCausalLM has no separable output layer: its logits [N, T, V] are held whole for log-probabilities"
    ]


def test_adapter_on_the_output_layer(caplog):
    model, _ = load_policy("random:tiny-llama?hidden=32&layers=1&std=0.2")
    policy = apply_lora(model, Lora(r=4, target_modules=["q_proj", "lm_head"]))
    torch.nn.init.normal_(policy.base_model.model.lm_head.lora_B["default"].weight)
    data = batch(MIXED)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        torch.testing.assert_close(
            response_logp(policy, *data), one_by_one(policy, *data)[0], atol=1e-5, rtol=3e-6
        )  # log-probs near -13
    assert "separable" in caplog.text


def test_nothing_to_score(tiny):
    data = batch([(3, 0), (2, 0)])
    for sizes in (None, Sizes.of(data[1], data[3])):
        logp, measured = response_measures(tiny[0], *data, ["entropy"], sizes=sizes)
        assert logp.equal(torch.zeros(2, 6))
        assert measured["entropy"].equal(torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: (d[0], d[1][:, 1:], d[2], d[3]), "prompt_ids.*prompt_mask"),
        (lambda d: (d[0], d[1], d[2], d[3][1:]), "response_ids.*response_mask"),
        (lambda d: (d[0], d[1], d[2][1:], d[3][1:]), "N = 5"),
        (lambda d: (d[0], d[1].long(), d[2], d[3]), "`prompt_mask` must be bool"),
        (lambda d: (d[0], d[1] & False, d[2], d[3]), "every row"),
    ],
)
def test_shapes_that_disagree(tiny, change, match):
    with pytest.raises(ValueError, match=match):
        response_logp(tiny[0], *change(batch(MIXED)))


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.0), ("chunk_size", 0)])
def test_values_out_of_range(tiny, name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        response_logp(tiny[0], *batch(MIXED), **{name: value})


@pytest.mark.slow
def test_real_model(smollm):
    """135M parameters on a CPU: slow."""
    model, tokenizer = smollm
    questions = ["Why?", "Name a river in France and say where it ends.", "Hello!"]
    rows = [encode_chat(tokenizer, [{"role": "user", "content": q}]) for q in questions]
    width = max(map(len, rows))
    prompts = torch.tensor([[2] * (width - len(r)) + list(r) for r in rows])
    prompt_mask = torch.arange(width) >= width - torch.tensor([[len(r)] for r in rows])
    _, _, responses, response_mask = batch([(1, 6), (1, 3), (1, 5)], vocabulary=40000)
    with torch.no_grad():
        expected, _ = one_by_one(model, prompts, prompt_mask, responses, response_mask)
        logp = response_logp(model, prompts, prompt_mask, responses, response_mask)
    torch.testing.assert_close(logp, expected, atol=1e-4, rtol=0)
