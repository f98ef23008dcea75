"""Tiny random models of many architectures, and what the sampler and an update make of them beside transformers alone.

    python -m tests.models.architectures

writes the table of docs/reference/models.md.
"""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import Sizes, response_logp, rows_in_words
from lightning_focal.models.tiny import byte_tokenizer
from lightning_focal.types import Prompts

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
TEXTS = ("hey", "what is the time?", "and now, in a rather longer question?")
EXACT = 5e-5
"""Nats; and of gradients, a part of the largest."""


def longrope(length):
    """Settings of a model whose positions change beyond ``length`` tokens."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 16.0, "rope_theta": 10000.0}
    return {"original_max_position_embeddings": length, "rope_parameters": rope | {"original_max_position_embeddings": length}}


BASE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.15,
}  # fmt: skip
MOE = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_k": 2, "moe_num_experts": 4,
}  # fmt: skip
MLA = MOE | {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "head_dim": 8,
}  # fmt: skip
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
MAMBA = {
    "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128, "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
INDEXED = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
LINEAR = {
    "initializer_range": 0.08, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip

KINDS = {
    # dense
    "llama": {}, "qwen2": {}, "qwen3": {}, "gemma": {}, "gemma2": WINDOW, "gemma3_text": WINDOW, "mistral": {}, "ministral": WINDOW,
    "phi": {}, "phi3": {}, "gpt2": {}, "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8, "num_layers": 4},
    "gpt_neox": {"rotary_pct": 0.5}, "gptj": {"rotary_dim": 8}, "codegen": {"rotary_dim": 8}, "gpt_bigcode": {}, "biogpt": {},
    "xglm": {"attention_heads": 4, "num_layers": 2, "ffn_dim": 96, "d_model": 64, "init_std": 0.15},
    "opt": {"word_embed_proj_dim": 64, "ffn_dim": 96, "init_std": 0.15}, "bloom": {}, "mpt": {"max_seq_len": 512},
    "falcon": {"new_decoder_architecture": False}, "stablelm": {}, "starcoder2": {}, "olmo": {}, "olmo2": {}, "olmo3": WINDOW,
    "cohere": {}, "cohere2": WINDOW, "granite": {}, "glm": {}, "glm4": {}, "smollm3": {"no_rope_layers": [1, 0, 1, 1]}, "nemotron": {},
    "helium": {}, "exaone4": WINDOW, "ernie4_5": {}, "hunyuan_v1_dense": {}, "seed_oss": {}, "arcee": {}, "apertus": {},
    "diffllama": {}, "persimmon": {}, "hrm_text": {}, "doge": {}, "bitnet": {}, "nanochat": {}, "vaultgemma": WINDOW, "cwm": WINDOW, "jais2": {},
    "gemma4_text": WINDOW | {"initializer_range": 0.08, "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 16},
    "modernbert-decoder": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "granite_swa": WINDOW, "iquestcoder": {}, "ministral3": {}, "hyperclovax": {},
    "ctrl": {"n_layer": 2, "n_head": 4, "n_embd": 64, "dff": 96, "n_positions": 512},
    "openai-gpt": {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 512},
    # experts
    "afmoe": MOE | WINDOW, "aria_text": MOE, "cohere2_moe": MOE | WINDOW, "exaone_moe": MOE | WINDOW, "laguna": MOE | WINDOW,
    "mimo_v2_flash": MOE | WINDOW, "solar_open": MOE, "hy_v3": MOE,
    "minimax_m3_vl_text": MOE | INDEXED,
    "mixtral": MOE, "qwen2_moe": MOE, "qwen3_moe": MOE, "olmoe": MOE, "granitemoe": MOE, "granitemoeshared": MOE,
    "jetmoe": MOE | {"kv_channels": 16}, "phimoe": MOE, "gpt_oss": MOE | WINDOW, "glm4_moe": MOE, "dots1": MOE | {"n_shared_experts": 1},
    "ernie4_5_moe": MOE, "hunyuan_v1_moe": MOE | {"moe_topk": [2] * 4}, "flex_olmo": MOE, "minimax": MOE | {"block_size": 8},
    "minimax_m2": MOE,
    "llama4_text": MOE | {"attention_chunk_size": 16, "intermediate_size_mlp": 64, "num_hidden_layers": 4},
    # latent attention
    "deepseek_v2": MLA, "deepseek_v3": MLA, "minicpm3": MLA, "glm4_moe_lite": MLA, "sarvam_mla": MLA, "youtu": MLA,
    "deepseek_v32": MLA | INDEXED, "glm_moe_dsa": MLA | INDEXED,
    "longcat_flash": MLA | {"num_layers": 2, "zero_expert_num": 2},
    # no causal language models
    "bert": {}, "xlnet": {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 96},
    # recurrent, and both
    "mamba": {"state_size": 4, "num_hidden_layers": 2}, "falcon_mamba": {"state_size": 4, "num_hidden_layers": 2},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 8, "num_hidden_layers": 2},
    "falcon_h1": MAMBA, "jamba": MOE | MAMBA | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_mem_blocks": 1, "adapter_rank": 8,
               "mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 16, "chunk_size": 8},
    "granitemoehybrid": MOE | MAMBA | {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 32},
    "lfm2_moe": MOE | {"layer_types": ["conv", "full_attention"] * 2}, "lara_mini": {}, "bailing_hybrid": MLA,
    "olmo_hybrid": LINEAR, "qwen3_5_text": LINEAR, "qwen3_5_moe_text": MOE | LINEAR,
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8, "n_mamba_heads": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2}, "recurrent_gemma": {"lru_width": 64, "attention_window_size": 8},
    "rwkv": {"attention_hidden_size": 64}, "xlstm": {"num_heads": 4, "chunk_size": 8, "num_blocks": 2, "num_hidden_layers": 2},
    "qwen3_next": MOE | {"initializer_range": 0.08,
                         "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
    "nemotron_h": MAMBA | MOE | {"moe_shared_expert_intermediate_size": 32, "hybrid_override_pattern": "M*M-",
                                 "mamba_num_heads": 8, "mamba_head_dim": 16,
                                 "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8},
}  # fmt: skip
VARIANTS = {
    "phi3 longrope": ("phi3", longrope(32)),
    "phi3 longrope, long": ("phi3", longrope(2)),
    "llama dynamic rope": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
    "mistral, window": ("mistral", {"sliding_window": 8}),
    "falcon alibi": ("falcon", {"alibi": True}),
    "llama eager": ("llama", {"attn_implementation": "eager"}),
}
ALL = {kind: (kind, extra) for kind, extra in KINDS.items()} | VARIANTS
REFUSED = {"doge", "bert", "xlnet", "deepseek_v32", "glm_moe_dsa"}
"""Those that some transformers within our bounds cannot compute in batches, and those whose tokens see later ones, or choose among them."""
_PACKED, _WINDOWS = "rows without padding", "padded rows (its cache has DynamicSlidingWindowLayer)"
QUICK = {
    "llama": ("cache loop", _PACKED), "gemma3_text": ("cache loop", _WINDOWS), "gpt2": ("cache loop", _PACKED),
    "mixtral": ("cache loop", _PACKED), "jetmoe": ("cache loop", _PACKED), "deepseek_v3": ("cache loop", _PACKED),
    "llama eager": ("cache loop", "padded rows"), "phi3 longrope": ("cache loop", _PACKED),
    "rwkv": ("generate() without a cache on prompts of one length at a time", "padded rows"),
}  # fmt: skip
"""How sampler and update must run by any transformers within our bounds, so that no release switches a quick way off unseen."""


def left_out(name):
    """Why the installed transformers cannot build an architecture, or None."""
    return None if ALL[name][0] in CONFIG_MAPPING else f"transformers {transformers.__version__} does not know it"


def make(name):
    """A model and its tokenizer; the same weights every time."""
    kind, extra = ALL[name]
    tokenizer, config = byte_tokenizer(), CONFIG_MAPPING[kind]
    settings = {**BASE, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, **extra}
    known = {*config().to_dict(), *getattr(config(), "attribute_map", {}), "attn_implementation"}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**{k: v for k, v in settings.items() if k in known})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # some architectures begin with the uniform distribution
            if parameter.ndim > 1 and parameter.std() < 0.05:
                parameter.normal_(std=0.15)
    model.generation_config.eos_token_id = [*range(0, 300, 9), tokenizer.eos_token_id]  # so that responses differ in length
    return model, tokenizer


def rolled(model, tokenizer, generator, texts=TEXTS, new=12):
    """Three rollouts of each prompt."""
    rows = tuple(tuple(tokenizer(text)["input_ids"]) for text in texts)
    chats = (({"role": "user", "content": "?"},),) * len(rows)
    prompts = Prompts(tuple(map(str, range(len(rows)))), chats, tokens=rows)
    seeds, sampling = range(len(rows)), Sampling(max_new_tokens=new)
    return generator.generate(model, tokenizer, prompts, group_size=3, seeds=[*seeds], sampling=sampling)


def flat(rollouts):
    """Prompts, their mask, responses and their mask, a sequence a row."""
    g = rollouts.group_size
    prompts = (rollouts.prompt_ids.repeat_interleave(g, 0), rollouts.prompt_mask.repeat_interleave(g, 0))
    return *prompts, rollouts.response_ids.flatten(0, 1), rollouts.response_mask.flatten(0, 1)


def one_by_one(model, prompts, prompt_mask, responses, response_mask, temperature=1.0):
    """Log-probabilities, entropies and self-certainties ``[N, T]`` by transformers' forward of one unpadded sequence at a time."""
    found = [torch.zeros(responses.shape) for _ in range(3)]
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        prompt, response = prompt[prompt_mask[i]], response[response_mask[i]]
        if len(response):
            logits = model(input_ids=torch.cat([prompt, response])[None], use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            logp = torch.log_softmax(logits / temperature, -1)
            entropy, certainty = -(logp.exp() * logp).sum(-1), -logp.mean(-1) - math.log(logp.shape[-1])  # KL(uniform || policy)
            for into, value in zip(found, (logp.gather(-1, response[:, None])[:, 0], entropy, certainty), strict=True):
                into[i, : len(response)] = value
    return found[0], {"entropy": found[1], "self_certainty": found[2]}


def gradients(model, logp):
    """Of a sum that weighs every token differently, in one row, by the largest of all."""
    model.zero_grad()
    (logp * torch.linspace(-1, 2, logp.numel()).reshape(logp.shape)).sum().backward()
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()])


def measured(name):
    """What becomes of an architecture: the words for sampler and update, and the largest differences from transformers alone."""
    (model, tokenizer), (untouched, _) = make(name), make(name)
    generator = HFGenerator()
    try:
        rollouts = rolled(model, tokenizer, generator)
    except RuntimeError as error:
        if name not in REFUSED or "cannot be sampled from here" not in str(error):
            raise
        return SimpleNamespace(sampler="refused", update="refused", gaps={}, lengths=[])
    rows, sizes = flat(rollouts), Sizes.of(*flat(rollouts)[1::2], rollouts.group_size)
    own, _ = one_by_one(untouched, *rows)
    wanted = gradients(untouched, own)
    gaps = {"sampler": rollouts.logp.flatten(0, 1) - own}
    for mode, given in (("packed", sizes), ("padded", None)):
        logp = response_logp(model, *rows, sizes=given)
        gaps[mode], gaps[f"{mode} gradients"] = logp - own, (gradients(model, logp) - wanted) / wanted.abs().max()
    return SimpleNamespace(
        sampler=generator.describe(model).rsplit(",", 1)[0],
        update=rows_in_words(model),
        gaps={key: float(gap.detach().abs().max()) for key, gap in gaps.items()},
        lengths=sizes.lengths,
    )


HEAD = f"""\
# Models

Any causal language model of transformers can be a policy. What replaces a model's own computation is tried before it is used, on
the model at hand and a few rows of unequal length, and compared with its own forward over one row at a time: the loop that decodes,
its CUDA graphs, padding, rows without padding. Where the numbers differ by more than rounding, the next way is taken, and the first
line of a run says which and why.

* The sampler runs transformers' cache in a loop of its own, else `generate()`, else `generate()` without a cache, which is slow for long
  responses. Prompts of unequal length are padded at their beginning; a model that cannot take that is given prompts of one length at a
  time.
* The update lays rows of unequal length out in one without padding, each prompt once; else side by side, padded at their ends, where
  no token of a causal model sees it; else one length at a time.
* Positions that depend on the longest row of a call: with `longrope`, rows on either side of the length where they change are computed
  apart, and a prompt whose response may pass it is refused; with `dynamic`, rows beyond the context are refused.

* The rows of a run's first batch are computed in both ways, too, before they are learnt from: the shortest, the longest and another response
  to each of their prompts, log-probabilities and, where the policy is whole on its process, gradients. At most five rows are computed
  four times, twice of these with gradients.

Each of these was tried on a tiny random model with transformers {{version}}: log-probabilities of the sampler and of the update, packed and
padded, lie within {EXACT:.0e} nats of transformers' own, and gradients within {EXACT:.0e} of the largest. The table is made by
`python -m tests.models.architectures`.

| architecture | sampler | update |
| --- | --- | --- |
"""


def line(name, found):
    """Its row of the table; numbers in reasons vary with the machine."""
    return re.sub(r",? by [\d.e-]+ (on average|nats a token)", "", f"| {name} | {found.sampler} | {found.update} |")


if __name__ == "__main__":
    lines = [line(name, measured(name)) for name in ALL]
    PAGE.write_text(HEAD.format(version=transformers.__version__) + "\n".join(lines) + "\n", encoding="utf-8")
