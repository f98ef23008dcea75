"""What a configuration draws at random in training is off, or stays on by choice; a router's loss is transformers' own."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, OPTConfig, PhiConfig

from lightning_focal.models import Lora, export_policy, load_trainable, response_measures
from lightning_focal.models.dropout import dropout_of, has_router_loss, training_words
from lightning_focal.models.packing import Sizes
from lightning_focal.models.tiny import byte_tokenizer
from lightning_focal.modules.update import Sequences, Update
from tests.modules.helpers import backward_of_step

SMALL = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
EXPERTS = {"intermediate_size": 32, "num_key_value_heads": 2, "num_local_experts": 4}
KINDS = {
    "gpt2": (GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4), ["resid_pdrop", "embd_pdrop", "attn_pdrop"]),
    "opt": (OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=32), ["dropout"]),
    "phi": (PhiConfig(**SMALL, intermediate_size=32, resid_pdrop=0.1, embd_pdrop=0.2), ["resid_pdrop", "embd_pdrop"]),
    "mixtral": (
        MixtralConfig(**SMALL, **EXPERTS, router_jitter_noise=0.3, attention_dropout=0.1, output_router_logits=True),
        ["attention_dropout", "router_jitter_noise"],
    ),
    "llama": (LlamaConfig(**SMALL, intermediate_size=32), []),
}


@pytest.fixture
def stored(tmp_path):
    """Write a tiny random model of a kind."""

    def write(kind):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(KINDS[kind][0]).save_pretrained(tmp_path / kind)
        byte_tokenizer().save_pretrained(tmp_path / kind)
        return str(tmp_path / kind)

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_off_unless_kept(stored, tmp_path, kind):
    source, keys = stored(kind), KINDS[kind][1]
    ids = torch.arange(24).reshape(2, 12) + 5
    quiet, tokenizer = load_trainable(source, lora=Lora(r=2) if kind == "mixtral" else None)
    logits = [quiet.train()(input_ids=ids).logits.detach() for _ in range(2)]
    assert logits[0].equal(logits[1])
    assert logits[0].equal(quiet.eval()(input_ids=ids).logits)
    assert [*dropout_of(AutoConfig.from_pretrained(export_policy(quiet, tokenizer, tmp_path / "out")))] == keys
    kept, _ = load_trainable(source, dropout="keep")
    noisy = [kept.train()(input_ids=ids).logits.detach() for _ in range(2)]
    assert noisy[0].equal(noisy[1]) == (not keys)
    assert ["dropout off" in word for word in training_words(quiet)] == ["dropout on" in word for word in training_words(kept)]
    assert all(key in training_words(quiet)[0] for key in keys)


def test_the_loss_of_a_router_is_transformers_own(stored):
    model, _ = load_trainable(stored("mixtral"))
    assert has_router_loss(model)
    assert training_words(model, 0.01)[-1] == "router's loss times 0.01"
    assert training_words(model, 0.0)[-1] == "router's loss off"
    torch.manual_seed(1)
    prompt, response = torch.randint(5, 250, (2, 4)), torch.randint(5, 250, (2, 7))
    mask = [torch.ones_like(x, dtype=torch.bool) for x in (prompt, response)]
    wanted = model.train()(input_ids=torch.cat([prompt, response[:, :-1]], 1), output_router_logits=True).aux_loss
    for sizes in (None, Sizes.of(*mask, 1)):  # padded, and in one row
        _, found = response_measures(model, prompt, mask[0], response, mask[1], ["router_loss"], sizes=sizes)
        torch.testing.assert_close(found["router_loss"], wanted)
    rows = Sequences(prompt, mask[0], response, mask[1], torch.tensor([1.0, -1.0]), torch.ones(2, dtype=torch.bool))
    gates = [parameter for name, parameter in model.named_parameters() if "gate" in name and parameter.ndim == 2]
    expected = torch.autograd.grad(wanted, gates)
    grads = []
    for coefficient in (0.0, 0.5):
        model.zero_grad()
        backward_of_step(model, rows, Update(router_aux_coef=coefficient))
        grads.append([gate.grad.clone() for gate in gates])
    for without, with_it, gradient in zip(*grads, expected, strict=True):
        torch.testing.assert_close(with_it - without, 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_a_policy_without_experts_has_no_such_loss(run_tiny):
    with pytest.raises(
        ValueError, match=r"`model.update.router_aux_coef` must be 0 for random:tiny-llama.* no load-balancing loss"
    ):
        run_tiny(update=Update(router_aux_coef=0.01))
