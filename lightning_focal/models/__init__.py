"""Policies: where they come from, how chats become tokens, adapters, and log-probabilities of responses."""

from __future__ import annotations

from lightning_focal.models.chat import encode_chat, validate_messages
from lightning_focal.models.checkpoints import check_shards, is_sharded_checkpoint, read_weights
from lightning_focal.models.errors import PolicySourceError
from lightning_focal.models.export import export_adapter, export_policy
from lightning_focal.models.flat import adding_backward, wrap_flat
from lightning_focal.models.liger import expect_liger
from lightning_focal.models.logprobs import idle_pass, response_logp, response_measures
from lightning_focal.models.lora import Lora, adapters_off, apply_lora, has_adapters
from lightning_focal.models.mapped import MappedWeights
from lightning_focal.models.packing import Sizes, packed_attention, why_not_packed
from lightning_focal.models.sharding import Sharding, blocks_of, put_away, shard
from lightning_focal.models.skeleton import empty_policy
from lightning_focal.models.source import load_policy, load_tokenizer, policy_config, resolve_source
from lightning_focal.models.tensor_parallel import check_tensor_parallel
from lightning_focal.models.tiny import TinyLlama
from lightning_focal.models.trainable import load_sharded, load_trainable

__all__ = [
    "Lora",
    "MappedWeights",
    "PolicySourceError",
    "Sharding",
    "Sizes",
    "TinyLlama",
    "adapters_off",
    "adding_backward",
    "apply_lora",
    "blocks_of",
    "check_shards",
    "check_tensor_parallel",
    "empty_policy",
    "encode_chat",
    "expect_liger",
    "export_adapter",
    "export_policy",
    "has_adapters",
    "idle_pass",
    "is_sharded_checkpoint",
    "load_policy",
    "load_sharded",
    "load_tokenizer",
    "load_trainable",
    "packed_attention",
    "policy_config",
    "put_away",
    "read_weights",
    "resolve_source",
    "response_logp",
    "response_measures",
    "shard",
    "validate_messages",
    "why_not_packed",
    "wrap_flat",
]
