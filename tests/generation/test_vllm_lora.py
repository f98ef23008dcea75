"""Adapters merged into a vLLM engine: its own log-probabilities of fixed tokens are the policy's, after an update of the weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen2Config, Qwen3MoeConfig

from lightning_focal.generation import Sampling, VLLMGenerator
from lightning_focal.models import Lora, load_trainable
from lightning_focal.models.tiny import byte_tokenizer

from .vllm_checks import MARKS, SMALL, roll

pytestmark = MARKS

TOLERANCE = 1e-4
"""Nats; float32 on both sides."""
SIZES = {
    "vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.1, "eos_token_id": 258, "bos_token_id": None,
}  # fmt: skip
EXPERTS = {
    MixtralConfig: {"num_local_experts": 4, "num_experts_per_tok": 2},
    Qwen3MoeConfig: {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "head_dim": 32},
}
PLACES = [["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"], "all-linear"]
ENDS = [["lm_head"], ["embed_tokens"]]
"""Layers that share a weight where the policy is tied: refused there, see tests/models/test_lora_matrix.py."""
IDS = [list(range(5, 45)), list(range(200, 60, -7))]


def told(generator):
    """vLLM's log-probabilities of all tokens of ``IDS`` but the first."""
    from vllm import SamplingParams

    wanted = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=1.0)
    with generator._awake() as llm:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in IDS], wanted, use_tqdm=False)
    return [
        torch.tensor([step[token].logprob for step, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)])
        for output, ids in zip(outputs, IDS, strict=True)
    ]


@torch.no_grad()
def computed(policy):
    """The same by the policy, one row at a time."""
    rows = [(torch.tensor(ids), policy(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)) for ids in IDS]
    return [logp.gather(1, ids[1:, None])[:, 0] for ids, logp in rows]


def gap(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config], ids=lambda kind: kind.model_type)
def test_what_vllm_computes_of_merged_adapters(tmp_path, kind, tied):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(kind(**SIZES, tie_word_embeddings=tied)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    generator, found = VLLMGenerator(**SMALL), {}
    try:
        for number, targets in enumerate([*PLACES, *([] if tied else ENDS)]):
            policy, tokenizer = load_trainable(str(tmp_path), lora=Lora(r=2, alpha=16, target_modules=targets))
            policy.eval()
            generator.sync(policy, 2 * number)
            if number == 0:  # the engine is made at the first rollout
                generator.start(Sampling())
                roll(generator, policy, tokenizer)
            before = told(generator)
            assert gap(before, computed(policy)) < TOLERANCE
            with torch.no_grad():
                for name, parameter in policy.named_parameters():
                    if "lora_" in name:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
            generator.sync(policy, 2 * number + 1)
            after = told(generator)
            assert gap(after, before) > 0.01
            found[str(targets)] = gap(after, computed(policy))
    finally:
        generator.close()
    print(kind.model_type, tied, found)
    assert {targets: value for targets, value in found.items() if not value < TOLERANCE} == {}


@pytest.mark.parametrize("kind", EXPERTS, ids=lambda kind: kind.model_type)
def test_experts_are_refused_on_a_cpu(tmp_path, kind):
    """A fresh engine computes them as transformers does; after new weights it is 2.6 nats off."""
    AutoModelForCausalLM.from_config(kind(**SIZES, **EXPERTS[kind])).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    policy, tokenizer = load_trainable(str(tmp_path), lora=Lora(r=2))
    generator = VLLMGenerator(**SMALL)
    try:
        generator.sync(policy, 0)
        generator.start(Sampling())
        with pytest.raises(
            RuntimeError, match=rf"vLLM does not compute {policy.base_model.model.__class__.__name__} with adapters"
        ):
            roll(generator, policy, tokenizer)
    finally:
        generator.close()
