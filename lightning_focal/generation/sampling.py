"""Drawing tokens: seeded by prompt, blind to the global random state and to what else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_focal.generation.base import Sampling

__all__ = ["draw_uniforms", "pick_tokens", "truncate_logits"]


def draw_uniforms(seeds: Sequence[int], group_size: int, length: int) -> Tensor:
    """One random number for each token that may be sampled.

    A larger ``length`` extends what a smaller one drew, so raising the length limit continues the same responses.

    Returns:
        ``[P, G, T]`` float32 in [0, 1), on the CPU.

    >>> draw_uniforms([7], 2, 3)[:, :, :2].equal(draw_uniforms([7, 8], 2, 2)[:1])
    True
    """
    draws = [torch.rand(length, group_size, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(draws).transpose(1, 2) if draws else torch.zeros(0, group_size, length)


def truncate_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Set the logits of tokens outside of the top-k and the nucleus to -inf.

    The nucleus (arXiv:1904.09751) is taken among the ``top_k`` survivors: the fewest most likely tokens whose probabilities sum
    to at least ``top_p``; the most likely one always stays, and so do tokens as likely as the last one kept.

    Args:
        logits: ``[N, V]`` float32.
        top_k: 0 keeps all.
        top_p: in (0, 1]; 1 keeps all.

    Returns:
        ``[N, V]``; ``logits`` itself when nothing is cut.

    >>> truncate_logits(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_p=0.6).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    >>> truncate_logits(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_k=1).exp()
    tensor([[0.5000, 0.0000, 0.0000]])
    """
    cut_k = 0 < top_k < logits.shape[-1]
    if not cut_k and top_p >= 1:
        return logits
    ranked = logits.topk(top_k, dim=-1).values if cut_k else logits.sort(dim=-1, descending=True).values
    if top_p >= 1:
        threshold = ranked[:, -1:]
    else:
        probabilities = ranked.softmax(-1)
        needed = probabilities.cumsum(-1) - probabilities < top_p  # the mass before this token does not suffice
        threshold = ranked.gather(1, needed.sum(-1, keepdim=True) - 1)
    return logits.masked_fill(logits < threshold, -torch.inf)


def pick_tokens(logits: Tensor, uniforms: Tensor, sampling: Sampling, barred: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution.

    Much cheaper than ``torch.multinomial`` for large vocabularies. Probabilities are those of
    ``softmax(logits / temperature)`` after top-k and top-p.

    Args:
        logits: ``[N, V]``, any floating dtype.
        uniforms: ``[N]`` float32 in [0, 1); not read when the temperature is 0.
        sampling: temperature, ``top_k``, ``top_p``.
        barred: ids that must not be drawn, or None.

    Returns:
        ``(tokens [N] int64, logp [N] float32)``. ``logp`` is ``log softmax(logits / temperature)`` **before** top-k, top-p and what is barred:
        what a trainer computes again from the same weights. At temperature 0 it is that of temperature 1.

    >>> pick_tokens(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([0.6]), Sampling())
    (tensor([1]), tensor([-1.2040]))
    """
    logits = logits.float()
    if sampling.temperature == 0:
        tokens = (logits if barred is None else logits.index_fill(1, barred, -torch.inf)).argmax(-1)
        return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    scaled = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    weights = scaled.exp()
    normaliser = weights.sum(-1, keepdim=True)
    if sampling.top_k > 0 or sampling.top_p < 1:
        kept = scaled if barred is None else scaled.index_fill(1, barred, -torch.inf)
        weights = truncate_logits(kept, sampling.top_k, sampling.top_p).exp()
    elif barred is not None:
        weights = weights.index_fill(1, barred, 0.0)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Strictly below the total: rounding may never reach a token of probability 0 at the end of the vocabulary.
    position = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, position, right=True)
    logp = scaled.gather(1, tokens) - normaliser.log()
    return tokens[:, 0], logp[:, 0]
