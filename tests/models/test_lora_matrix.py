"""Adapters on every kind of layer, tied or not, dense or of experts: merged as the policy computes, or refused by name."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, Qwen3MoeConfig

from lightning_focal.models import Lora, export_policy, load_policy, load_trainable
from lightning_focal.models.tiny import byte_tokenizer
from lightning_focal.models.weights import RolloutCopy, expect_same_logits
from tests.helpers import adapted

S = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": 258}
EXPERTS = {"intermediate_size": 48, "num_key_value_heads": 2}
KINDS = {
    "llama": (LlamaConfig, S | {"intermediate_size": 48}),
    "mixtral": (MixtralConfig, S | EXPERTS | {"num_local_experts": 4}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        S | EXPERTS | {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    "gpt2": (GPT2Config, {"vocab_size": 259, "n_embd": 32, "n_layer": 2, "n_head": 4}),
}
EMBEDDINGS = {"gpt2": "wte"}
PLACES = {"llama": ["all-linear"], "mixtral": ["all-linear", ["gate"]], "qwen3_moe": [["gate"]], "gpt2": ["all-linear"]}
IDS = torch.arange(5, 29).reshape(2, 12)


def stored(folder, kind, tied):
    torch.manual_seed(0)
    config, arguments = KINDS[kind]
    AutoModelForCausalLM.from_config(config(**arguments, tie_word_embeddings=tied)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_merged_or_refused(tmp_path, kind, tied):
    source, embedding = stored(tmp_path / "policy", kind, tied), EMBEDDINGS.get(kind, "embed_tokens")
    for number, targets in enumerate([*PLACES[kind], ["lm_head"], [embedding]]):
        if tied and targets in (["lm_head"], [embedding]):
            with pytest.raises(TypeError, match=f"adapters on '.*{targets[0]}' cannot be merged: it shares its weight with '"):
                load_trainable(source, lora=Lora(r=2, target_modules=targets))
            continue
        try:
            policy, tokenizer = load_trainable(source, lora=Lora(r=2, alpha=16, target_modules=targets))
        except ValueError as error:  # peft before 0.19 takes no router
            if targets == ["gate"] and "TopKRouter() is not supported" in str(error):
                continue
            raise
        before = policy.eval()(input_ids=IDS).logits
        names = {name.replace(".base_layer", "") for name, _ in policy.get_base_model().named_parameters() if "lora_" not in name}
        copy = RolloutCopy(policy, None)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        copy.refresh(policy)
        logits = policy(input_ids=IDS).logits
        assert float((logits - before).abs().max()) > 1e-3, targets
        torch.testing.assert_close(copy.model(input_ids=IDS).logits, logits, rtol=0, atol=1e-4)
        # what is written is what vLLM is handed, too: `hub_weights`
        written, _ = load_policy(export_policy(policy.train(), tokenizer, tmp_path / f"out-{number}"))
        torch.testing.assert_close(written(input_ids=IDS).logits, logits, rtol=0, atol=1e-4)
        assert {name for name, _ in written.named_parameters()} == names
        assert policy.training
        assert policy.eval()(input_ids=IDS).logits.equal(logits)  # the policy itself is left as it was
        written.get_output_embeddings().weight.mul_(1.1)
        with pytest.raises(RuntimeError, match="this folder computes other logits than the policy"):
            expect_same_logits(policy, written, "this folder")


@pytest.mark.parametrize("extra", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"use_rslora": True}], ids=str)
@torch.no_grad()
def test_adapters_made_elsewhere(tmp_path, extra):
    import peft

    policy, _ = load_policy(stored(tmp_path / "policy", "llama", False))
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False, **extra)
    policy = peft.get_peft_model(policy, config).eval()
    if "use_rslora" not in extra:
        with pytest.raises(
            TypeError, match=r"only plain LoRA adapters can be merged, '(model.layers.0.self_attn.q_proj|lm_head)"
        ):
            RolloutCopy(policy, None)
        return
    copy = RolloutCopy(policy, None).model
    torch.testing.assert_close(copy(input_ids=IDS).logits, policy(input_ids=IDS).logits, rtol=0, atol=1e-4)


def test_an_adapter_that_a_merge_passes_over_is_found(tmp_path, monkeypatch):
    policy = adapted(load_policy(stored(tmp_path / "policy", "llama", False))[0])
    monkeypatch.setattr("lightning_focal.models.weights._merged", lambda weight, layer: weight)
    with pytest.raises(RuntimeError, match="the copy that rolls out computes other logits than the policy"):
        RolloutCopy(policy, None)
