"""Memory of a process in training: parameters counted on the policy itself, built without memory, and lengths of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lightning_focal.models import Lora, Sharding, apply_lora, blocks_of, empty_policy

__all__ = ["WIDTHS", "Counts", "Job", "Share", "count_parameters", "memory", "together"]

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""

Phase = Literal["always", "samples", "learns"]


@dataclass(frozen=True)
class Counts:
    """Parameters of a policy: in all, adapters included, and of these those that are trained; the same as held on the fullest process.

    ``block`` are those of the largest block, which is gathered as one, ``outside`` those outside of all: embeddings, output layer.
    """

    total: int
    trained: int
    held: int
    held_trained: int
    block: int
    outside: int
    blocks: int


def count_parameters(config: Any, dtype: str, lora: Lora | None, sharding: Sharding, processes: int) -> Counts:
    """Build a policy on the meta device and count, as ``fully_shard`` splits it over ``processes``: every parameter by its rows.

    The numbers are those of the first process, which is the fullest: rows that do not divide evenly are rounded up there.
    """
    policy = empty_policy(config, dtype)
    policy = policy if lora is None else apply_lora(policy, lora)
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks_of(policy, sharding.blocks)]
    total = trained = held = held_trained = 0
    for parameter in policy.parameters():
        rows = parameter.shape[0]
        mine = -(-rows // processes) * (parameter.numel() // rows)
        total, held = total + parameter.numel(), held + mine
        if parameter.requires_grad:
            trained, held_trained = trained + parameter.numel(), held_trained + mine
    return Counts(total, trained, held, held_trained, max(sizes), total - sum(sizes), len(sizes))


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


@dataclass(frozen=True)
class Share:
    """One line of a plan: what takes memory, the arithmetic in words, bytes on the device and in main memory.

    A ``rough`` one is an estimate, not a count; ``phase`` is ``always``, or only while the process ``samples`` or ``learns``.
    """

    name: str
    how: str
    device: float
    host: float = 0.0
    rough: bool = False
    phase: Phase = "always"


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
    """
    text = config.get_text_config()
    layers, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or hidden // text.num_attention_heads)
    width, compute = WIDTHS[job.dtype], WIDTHS[job.compute_dtype]
    own = width if counts.trained == counts.total else 4  # peft keeps adapters in float32
    kv = 2 * layers * heads * size * WIDTHS[job.rollout_dtype or job.dtype]
    shares: list[Share] = []

    def add(name: str, how: str, size: float, phase: Phase = "always", *, host: bool = False, rough: bool = False) -> None:
        shares.append(Share(name, how, 0 if host else size, size if host else 0, rough, phase))

    adapters = counts.held_trained * (own - width)
    add("weights", f"{counts.held:,} x {width}", counts.held * width + adapters, host=job.offload)
    states = f"{counts.held_trained:,} x {job.states} x {own}"
    add("optimiser", states, counts.held_trained * job.states * own, host=job.offload)
    add("gradients", f"{counts.held_trained:,} x {own}", counts.held_trained * own, "learns", host=job.offload)
    if job.teacher is not None:
        taught = counts.held if counts.trained == counts.total else counts.held_trained
        add("teacher", f"{taught:,} x 4", taught * 4, host=job.teacher == "host" or job.offload)
    if job.reference_dtype is not None:
        bytes_each = WIDTHS[job.reference_dtype]
        add("reference", f"{counts.held:,} x {bytes_each}", counts.held * bytes_each, host=job.offload)
    if job.rollout_dtype is not None:
        bytes_each = WIDTHS[job.rollout_dtype]
        add("rollout copy, whole", f"{counts.total:,} x {bytes_each}", counts.total * bytes_each)
    if job.split:
        gathered = (2 * counts.block + counts.outside) * compute + counts.block * compute
        how = f"2 blocks of {counts.block:,}, {counts.outside:,} outside of blocks, one block's gradients, x {compute}"
        add("gathered blocks", how, gathered, "learns", rough=True)
    length = job.prompt_tokens + job.new_tokens
    how = f"{job.rollouts} rollouts x {length} tokens x {kv:,}" if job.rollouts else "on the server"
    add("key/value cache", how, job.rollouts * length * kv, "samples")
    wide = int(getattr(text, "moe_intermediate_size", None) or text.intermediate_size)  # of an expert, where there are experts
    inside = (16 * hidden + 4 * (getattr(text, "num_experts_per_tok", None) or 1) * wide) * compute  # of one block, a token
    kept = layers * hidden * compute + inside if job.checkpointing else layers * inside
    add("activations", f"{job.micro_tokens:,} tokens x {kept:,}", job.micro_tokens * kept, "learns", rough=True)
    return shares
