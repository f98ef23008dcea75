"""Memory of a process in training, from numbers of parameters and lengths of sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from lightning_focal.commands.plan_sharded import Counts

__all__ = ["WIDTHS", "Job", "Share", "memory", "together"]

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""


@dataclass(frozen=True)
class Job:
    """What decides on memory, beside the parameters.

    Args:
        dtype: of the weights, their gradients and the optimiser's states.
        compute_dtype: of activations and gathered blocks.
        states: numbers the optimiser keeps for each trained parameter; AdamW 2.
        split: the parameters are split over processes.
        offload: shards wait in main memory.
        teacher: float32 average kept, ``device``, ``host`` or None.
        reference_dtype: of a frozen copy of the policy, or None.
        rollout_dtype: of a whole copy to sample from, or None where the policy itself is sampled from, or a server.
        rollouts: sampled at once on a process.
        prompt_tokens: longest prompt.
        new_tokens: longest response.
        micro_tokens: tokens, of prompts and responses, in one forward and backward.
        checkpointing: activations are computed again in backward.
        tensor_parallel: processes that compute a layer together; each keeps what it computes of it.
        reference_filed: the frozen copy is in a file while the policy learns.
    """

    dtype: str
    compute_dtype: str
    states: int
    split: bool
    offload: bool
    teacher: str | None
    reference_dtype: str | None
    rollout_dtype: str | None
    rollouts: int
    prompt_tokens: int
    new_tokens: int
    micro_tokens: int
    checkpointing: bool
    tensor_parallel: int = 1
    reference_filed: bool = False


@dataclass(frozen=True)
class Share:
    """One line of a plan.

    Args:
        name: of what takes memory.
        how: the arithmetic, in words.
        device: bytes on the device.
        host: bytes in main memory.
        rough: an estimate, not a count.
        phase: ``always``, or only while it ``samples`` or ``learns``.
    """

    name: str
    how: str
    device: float
    host: float = 0.0
    rough: bool = False
    phase: Literal["always", "samples", "learns"] = "always"


def together(shares: list[Share], phase: str) -> tuple[float, float]:
    """Return the bytes on the device and in main memory of one phase, ``samples`` or ``learns``.

    >>> shares = [Share("weights", "", 2.0), Share("cache", "", 4.0, phase="samples"), Share("gradients", "", 1.0, phase="learns")]
    >>> together(shares, "samples"), together(shares, "learns")
    ((6.0, 0.0), (3.0, 0.0))
    """
    present = [share for share in shares if share.phase in ("always", phase)]
    return sum(share.device for share in present), sum(share.host for share in present)


def memory(counts: Counts, config: Any, job: Job) -> list[Share]:
    """Return what takes memory on the fullest process.

    Weights, gradients, optimiser, teacher, reference and rollout copy are counted; the key/value cache is what the longest
    responses fill; activations are rough: a block's inputs at every layer, and one block's inside. Sampling and learning take turns.

    Args:
        counts: of parameters.
        config: of transformers.
        job: the rest.
    """
    text = config.get_text_config()
    layers, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or hidden // text.num_attention_heads)
    width, compute = WIDTHS[job.dtype], WIDTHS[job.compute_dtype]
    own = width if counts.trained == counts.total else 4  # peft keeps adapters in float32
    kv = 2 * layers * heads * size * WIDTHS[job.rollout_dtype or job.dtype]
    shares = [
        _placed("weights", f"{counts.held:,} x {width}", counts.held * width + counts.held_trained * (own - width), job.offload),
        _placed(
            "optimiser", f"{counts.held_trained:,} x {job.states} x {own}", counts.held_trained * job.states * own, job.offload
        ),
        replace(_placed("gradients", f"{counts.held_trained:,} x {own}", counts.held_trained * own, job.offload), phase="learns"),
    ]
    if job.teacher is not None:
        taught = counts.held if counts.trained == counts.total else counts.held_trained
        shares.append(_placed("teacher", f"{taught:,} x 4", taught * 4, job.teacher == "host" or job.offload))
    if job.reference_dtype is not None:
        bytes_each = WIDTHS[job.reference_dtype]
        share = _placed("reference", f"{counts.held:,} x {bytes_each}", counts.held * bytes_each, job.offload)
        shares.append(replace(share, phase="samples") if job.reference_filed else share)
    if job.rollout_dtype is not None:
        bytes_each = WIDTHS[job.rollout_dtype]
        shares.append(Share("rollout copy, whole", f"{counts.total:,} x {bytes_each}", counts.total * bytes_each))
    if job.split:
        gathered = (2 * counts.block + counts.outside) * compute + counts.block * compute
        how = f"2 blocks of {counts.block:,}, {counts.outside:,} outside of blocks, one block's gradients, x {compute}"
        shares.append(Share("gathered blocks", how, gathered, rough=True, phase="learns"))
    length = job.prompt_tokens + job.new_tokens
    shares.append(
        Share(
            "key/value cache", f"{job.rollouts} rollouts x {length} tokens x {kv:,}", job.rollouts * length * kv, phase="samples"
        )
        if job.rollouts
        else Share("key/value cache", "on the server", 0, phase="samples")
    )
    wide = 8 * hidden + 4 * (getattr(text, "num_experts_per_tok", None) or 1) * _wide(text)  # within attention and experts
    inside = int(8 * hidden + wide / job.tensor_parallel) * compute
    kept = layers * hidden * compute + inside if job.checkpointing else layers * inside
    shares.append(
        Share("activations", f"{job.micro_tokens:,} tokens x {kept:,}", job.micro_tokens * kept, rough=True, phase="learns")
    )
    return shares


def _placed(name: str, how: str, size: float, offload: bool) -> Share:
    return Share(name, how, 0, size) if offload else Share(name, how, size)


def _wide(text: Any) -> int:
    """Width of one feed-forward network: of an expert, where there are experts."""
    return int(getattr(text, "moe_intermediate_size", None) or text.intermediate_size)
