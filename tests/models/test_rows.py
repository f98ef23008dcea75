"""Which rows a model takes together, and that whoever differs from its own forward is found out."""

import copy

import pytest
import torch

from lightning_focal.foreign import attention_name
from lightning_focal.generation import HFGenerator
from lightning_focal.models import (
    alike,
    first_rows,
    load_policy,
    prove_rows,
    response_logp,
    response_measures,
    rows_in_words,
    why_not_packed,
    why_not_padded,
)
from lightning_focal.models import logp as logp_module
from lightning_focal.models.packing import Pack
from lightning_focal.models.rows import length_limit, rounding, trial_tokens
from lightning_focal.modules.update import Sequences, Update, micro_batches

from .architectures import make, one_by_one, rolled
from .test_logp import MIXED, batch
from .test_packing import RAGGED, grouped, sizes_of


def fresh(**kwargs):
    return load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2", **kwargs)[0]


def seeing(model, monkeypatch):
    """Logits that depend on the width of a call: no row is its own beside a longer one."""
    own = model.forward

    def forward(input_ids=None, **kwargs):
        output = own(input_ids=input_ids, **kwargs)
        output.logits = output.logits * (1 + input_ids.shape[1] / 100)
        return output

    monkeypatch.setattr(model, "forward", forward)
    return model


def without_last(model):
    """Nothing is predicted from a last token: a row's own width is without it."""

    def forward(input_ids, use_cache):
        output = model(input_ids=input_ids[:, :-1], use_cache=use_cache)
        output.logits = torch.nn.functional.pad(output.logits, (0, 0, 0, 1))
        return output

    return forward


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_packing_proves_itself_in_the_precision_at_hand(dtype, factor, monkeypatch):
    model, attend = fresh(dtype=dtype), Pack.attend
    monkeypatch.setattr(Pack, "attend", lambda self, *a: attend(self, *a) * factor)
    reason = why_not_packed(model)
    assert (reason is None) is (factor == 1.0)
    assert why_not_padded(model) is None
    assert rows_in_words(model) == ("rows without padding" if reason is None else f"padded rows ({reason})")
    assert rows_in_words(model, packed=False) == "padded rows"
    assert attention_name(model) == ("lightning_focal" if reason is None else "sdpa")  # its own where nothing is gained


WRONG = {
    "long rows": (lambda out, rows: out * (1 + 0.5 * (rows > 50)), "its log-probabilities there differ from its own forward by "),
    "gradients": (lambda out, rows: out.detach(), "its gradients there differ from those of its own forward by "),
}


@pytest.mark.parametrize("kind", WRONG)
def test_packing_proves_itself_on_real_rows_and_their_gradients(kind, monkeypatch, caplog):
    """The rows that a model is tried on at first are short, and looked at without gradients."""
    (spoil, words), attend, model, data = WRONG[kind], Pack.attend, fresh(), grouped([(20, 4), (20, 2), (30, 6), (30, 3)], 2)
    monkeypatch.setattr(Pack, "attend", lambda self, query, *a: spoil(attend(self, query, *a), query.shape[2]))
    assert why_not_packed(model) is None
    rows = first_rows(*data, sizes_of(data, 2))
    assert [(len(prompt), len(response)) for _, prompt, response in rows] == [(20, 4), (20, 2), (30, 6), (30, 3)]
    prove_rows(model, rows)
    assert why_not_packed(model).startswith(words)
    assert why_not_padded(model) is None
    assert f"LlamaForCausalLM computes a prompt for each of its responses: {words}" in caplog.text
    torch.testing.assert_close(
        response_logp(model, *data, sizes=sizes_of(data, 2)), one_by_one(model, *data)[0], atol=1e-5, rtol=0
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_no_way_computes_is_refused(monkeypatch):
    model, data = fresh(), grouped([(3, 4), (3, 2)], 2)
    prove_rows(model, [])  # no row, no proof
    empty = (*data[:3], data[3] & False)
    assert first_rows(*empty, sizes_of(empty, 2)) == []
    prove_rows(model, first_rows(*data, sizes_of(data, 2)))  # right as it is
    monkeypatch.setattr(logp_module, "own_logp", lambda model, prompt, response, t: (torch.zeros(len(response)), 1e-5))
    with pytest.raises(
        RuntimeError, match="an update of LlamaForCausalLM cannot compute what its own forward does: its log-prob"
    ):
        prove_rows(model, first_rows(*data, sizes_of(data, 2)))


def test_a_window_that_no_cache_tells_of_is_found_out(monkeypatch):
    model = fresh()
    for layer in model.model.layers:
        monkeypatch.setattr(
            layer.self_attn, "forward", lambda *a, own=layer.self_attn.forward, **k: own(*a, **k, sliding_window=1000)
        )
    assert "a layer attends within a window of 1000 tokens" in why_not_packed(model)


def test_rows_that_change_beside_longer_ones_go_one_length_at_a_time(monkeypatch):
    model, data = seeing(fresh(), monkeypatch), grouped(RAGGED)
    assert rows_in_words(model).startswith("rows of one length at a time (its logits are others there, by ")
    assert alike(model, [3, 5, 3]) == [[0, 2], [1]]
    for sizes in (None, sizes_of(data)):
        with torch.no_grad():
            logp, measured = response_measures(model, *data, ["entropy"], sizes=sizes)
        expected, entropies = one_by_one(without_last(model), *data)
        torch.testing.assert_close(logp, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(measured["entropy"], entropies["entropy"], atol=1e-5, rtol=0)


def test_a_split_model_refuses_in_words_what_would_leave_others_waiting(monkeypatch):
    model = seeing(fresh(), monkeypatch)
    monkeypatch.setattr(logp_module, "is_sharded", lambda policy: True)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM takes rows of .* tokens one length at a time"):
        response_logp(model, *batch(MIXED))


def test_rows_on_either_side_of_a_longrope_go_apart():
    """And a response that may pass it is refused."""
    model, tokenizer = make("phi3 longrope")
    assert length_limit(model) == ("longrope", 32)
    assert rows_in_words(model) == "rows without padding, those of more than 32 tokens apart (longrope)"
    assert alike(model, [30, 40, 32, 33]) == [[0, 2], [1, 3]]
    data = batch([(20, 5), (35, 4), (8, 6), (30, 1)])
    parts = micro_batches(model, Sequences(*data, torch.zeros(4), torch.ones(4, dtype=torch.bool)), Update(micro_batch_size=4))
    assert [sorted(part.prompt_mask.sum(1).tolist()) for part in parts] == [[35], [8, 20, 30]]
    with pytest.raises(ValueError, match=r"prompt '0' has 28 tokens.*may pass 32 tokens.*at most 4 new tokens"):
        rolled(model, tokenizer, HFGenerator(), texts=("x" * 28,))


def test_rows_beyond_a_dynamic_rope_are_refused():
    model, _ = make("llama dynamic rope")
    assert length_limit(make("llama")[0]) is None
    assert length_limit(model) == ("dynamic", 512)
    with pytest.raises(ValueError, match="a row has 513 tokens; beyond 512 the policy's positions"):
        response_logp(model, *batch([(509, 4)]))


def test_what_rounding_explains_grows_with_logits_and_precision():
    model = fresh()
    logits = torch.randn(5, 50)
    assert 1e-6 < rounding(logits, model) < rounding(10 * logits, model) < 1e-3
    assert rounding(logits, model) < rounding(logits, copy.deepcopy(model).bfloat16()) < 0.1
    barred = logits.clone()
    barred[:, 0] = -torch.inf
    assert rounding(barred, model) < 1e-3


def test_a_trial_fits_into_small_contexts_and_vocabularies():
    model = load_policy("random:tiny-llama?layers=1&context=16")[0]
    assert [len(row) for row in trial_tokens(model, (3, 14, 7), room=8)] == [3, 8, 7]
    assert max(max(row) for row in trial_tokens(model, (30,))) < model.config.vocab_size
