"""Policies: where they come from, how chats become tokens, adapters, and log-probabilities of responses."""

from __future__ import annotations

from lightning_focal.policies.chat import encode_chat, validate_messages
from lightning_focal.policies.errors import PolicySourceError
from lightning_focal.policies.export import export_policy
from lightning_focal.policies.logprobs import response_logp, response_measures
from lightning_focal.policies.lora import Lora, adapters_off, apply_lora, has_adapters
from lightning_focal.policies.packing import Sizes, packed_attention, why_not_packed
from lightning_focal.policies.source import load_policy, load_tokenizer, resolve_source
from lightning_focal.policies.tiny import TinyLlama
from lightning_focal.policies.trainable import load_trainable

__all__ = [
    "Lora",
    "PolicySourceError",
    "Sizes",
    "TinyLlama",
    "adapters_off",
    "apply_lora",
    "encode_chat",
    "export_policy",
    "has_adapters",
    "load_policy",
    "load_tokenizer",
    "load_trainable",
    "packed_attention",
    "resolve_source",
    "response_logp",
    "response_measures",
    "validate_messages",
    "why_not_packed",
]
