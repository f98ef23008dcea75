"""Policies: where they come from, how chats become tokens, adapters, shards, and log-probabilities of responses."""

from __future__ import annotations

from lightning_focal.models.chat import Chat, encode_chat, prompt_opening, template_switch, validate_messages
from lightning_focal.models.checkpoints import check_shards, is_sharded_checkpoint, read_weights
from lightning_focal.models.export import export_adapter, export_policy
from lightning_focal.models.load import (
    empty_policy,
    load_policy,
    load_sharded,
    load_tokenizer,
    load_trainable,
    policy_config,
    resolve_source,
)
from lightning_focal.models.logp import dummy_forward, first_rows, prove_rows, response_logp, response_measures
from lightning_focal.models.lora import Lora, adapters_off, apply_lora, has_adapters
from lightning_focal.models.packing import Sizes
from lightning_focal.models.pypi import PolicySourceError
from lightning_focal.models.rows import alike, rows_in_words, why_not_packed, why_not_padded
from lightning_focal.models.shard import Sharding, adding_backward, blocks_of, reshard, wrap_flat
from lightning_focal.models.tiny import TinyLlama

__all__ = [
    "Chat",
    "Lora",
    "PolicySourceError",
    "Sharding",
    "Sizes",
    "TinyLlama",
    "adapters_off",
    "adding_backward",
    "alike",
    "apply_lora",
    "blocks_of",
    "check_shards",
    "dummy_forward",
    "empty_policy",
    "encode_chat",
    "export_adapter",
    "export_policy",
    "first_rows",
    "has_adapters",
    "is_sharded_checkpoint",
    "load_policy",
    "load_sharded",
    "load_tokenizer",
    "load_trainable",
    "policy_config",
    "prompt_opening",
    "prove_rows",
    "read_weights",
    "reshard",
    "resolve_source",
    "response_logp",
    "response_measures",
    "rows_in_words",
    "template_switch",
    "validate_messages",
    "why_not_packed",
    "why_not_padded",
    "wrap_flat",
]
