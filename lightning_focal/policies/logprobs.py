"""Log-probabilities of given responses under a policy: what the update differentiates."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lightning_focal.functional import chunked_logp_from_hidden, self_certainty, token_entropy

__all__ = ["response_logp", "response_measures"]

_log = logging.getLogger(__name__)
_whole_logits: WeakSet[nn.Module] = WeakSet()
"""Models whose logits are more than their output layer's product (soft-capped, scaled, ...), found out at the first call."""


def response_logp(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int = 256,
) -> Tensor:
    r"""Per-token log-probabilities ``log softmax(logits / temperature)[token]`` of responses, teacher-forced in one pass.

    Logits are made only where a response token is predicted, ``chunk_size`` positions at a time, and made again in backward:
    ``[N, T, V]`` never exists. Columns that are padding in every row are not computed. Padding, batch size and row order change
    nothing beyond rounding.

    The output layer is handed a function that returns log-probabilities in place of logits, so the model is called as a whole
    and the hooks of sharding wrappers run. A model that changes its output layer's result (soft-capped or scaled logits, an
    adapter on the output layer) is detected at its first call and gives up its logits ``[N, T, V]`` instead; this is logged once.

    Args:
        model: a transformers causal language model, peft-wrapped or sharded ones included; used in its current mode.
        prompt_ids: ``[N, L]`` int64, left-padded.
        prompt_mask: ``[N, L]`` bool, True = a real token.
        response_ids: ``[N, T]`` int64, right-padded.
        response_mask: ``[N, T]`` bool, True = a token of the response.
        temperature: > 0, divides the logits.
        chunk_size: positions per chunk of logits.

    Returns:
        ``[N, T]`` float32 in nats, 0 where ``response_mask`` is False.

    Raises:
        ValueError: on shapes that disagree, a temperature or chunk size out of range, or a row without a prompt.

    >>> from lightning_focal.policies import load_policy
    >>> model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1&std=1e-9")
    >>> prompt, response = torch.tensor([[5, 6]]), torch.tensor([[7, 8]])
    >>> with torch.no_grad():  # all of 259 tokens are equally likely: log(1/259)
    ...     response_logp(model, prompt, prompt > 0, response, response > 7)
    tensor([[ 0.0000, -5.5568]])
    """
    return response_measures(
        model, prompt_ids, prompt_mask, response_ids, response_mask, temperature=temperature, chunk_size=chunk_size
    )[0]


def response_measures(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    measures: Sequence[str] = (),
    *,
    temperature: float = 1.0,
    chunk_size: int = 256,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Like :func:`response_logp`, with more about each next-token distribution from the same pass.

    Args:
        model: see :func:`response_logp`, as for all that follow.
        prompt_ids: ``[N, L]``.
        prompt_mask: ``[N, L]``.
        response_ids: ``[N, T]``.
        response_mask: ``[N, T]``.
        measures: ``entropy``, ``self_certainty`` (:func:`~lightning_focal.functional.self_certainty`), of
            ``softmax(logits / temperature)``.
        temperature: > 0.
        chunk_size: positions per chunk of logits.

    Returns:
        ``(logp, measures)``, each ``[N, T]`` float32 in nats, 0 where ``response_mask`` is False.
    """
    _check(prompt_ids, prompt_mask, response_ids, response_mask, temperature, chunk_size)
    n, length = response_ids.shape
    columns = response_mask.any(0).nonzero()
    kept = int(columns[-1]) + 1 if columns.numel() else 0
    if kept == 0:
        nothing = torch.zeros(n, length, device=response_ids.device)
        return nothing, {name: nothing.clone() for name in measures}
    first = int(prompt_mask.any(0).nonzero()[0])
    prompt_ids, prompt_mask = prompt_ids[:, first:], prompt_mask[:, first:]
    targets, mask = response_ids[:, :kept], response_mask[:, :kept]
    inputs: dict[str, Any] = {
        "input_ids": torch.cat([prompt_ids, targets[:, :-1]], dim=1),  # nothing is predicted from the last token
        "use_cache": False,
        "logits_to_keep": kept,
    }
    if not bool(prompt_mask.all()):  # right padding needs no mask: attention is causal
        attended = torch.cat([prompt_mask, mask[:, :-1]], dim=1)
        inputs["attention_mask"] = attended.long()
        inputs["position_ids"] = (attended.long().cumsum(1) - 1).clamp(min=0)
    logp, measured = _forward(model, inputs, targets, mask, temperature, chunk_size, tuple(measures))

    def whole(values: Tensor) -> Tensor:
        return nn.functional.pad(values.masked_fill(~mask, 0.0), (0, length - kept))

    return whole(logp), {name: whole(values) for name, values in measured.items()}


def _check(
    prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor, temperature: float, chunk_size: int
) -> None:
    if prompt_ids.ndim != 2 or prompt_mask.shape != prompt_ids.shape:
        raise ValueError(
            f"`prompt_ids` and `prompt_mask` must both be [N, L], got {tuple(prompt_ids.shape)} and {tuple(prompt_mask.shape)}"
        )
    if response_ids.shape != response_mask.shape or response_ids.ndim != 2 or len(response_ids) != len(prompt_ids):
        raise ValueError(
            f"`response_ids` and `response_mask` must both be [N, T] with N = {len(prompt_ids)}, "
            f"got {tuple(response_ids.shape)} and {tuple(response_mask.shape)}"
        )
    for name, mask in (("prompt_mask", prompt_mask), ("response_mask", response_mask)):
        if mask.dtype != torch.bool:
            raise ValueError(f"`{name}` must be bool, got {mask.dtype}")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be > 0, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, got {chunk_size}")
    if not bool(prompt_mask.any(1).all()):
        raise ValueError("`prompt_mask` must have a True in every row: a response needs a prompt")


def _forward(
    model: nn.Module,
    inputs: dict[str, Any],
    targets: Tensor,
    mask: Tensor,
    temperature: float,
    chunk_size: int,
    measures: tuple[str, ...],
) -> tuple[Tensor, dict[str, Tensor]]:
    """``[N, T]`` log-probabilities of ``targets``, and what else is asked for."""
    base = _base(model)
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    if isinstance(head, nn.Linear) and _is_plain(head) and base not in _whole_logits:
        with _scoring_head(head, targets, mask, temperature, chunk_size, measures) as made:
            logits = model(**inputs).logits
        if len(made) == 1 and logits is made[0]:
            return logits[..., 0], {name: logits[..., 1 + i] for i, name in enumerate(measures)}
    if base not in _whole_logits:
        _whole_logits.add(base)
        _log.warning(
            "%s has no separable output layer: its logits [N, T, V] are held whole for log-probabilities", type(base).__name__
        )
    logits = model(**inputs).logits[:, -targets.shape[1] :]
    scaled = logits.float() / temperature
    logp = torch.log_softmax(scaled, dim=-1)
    made_of = {"entropy": token_entropy, "self_certainty": self_certainty}
    return logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1), {name: made_of[name](scaled) for name in measures}


def _base(model: nn.Module) -> Any:
    """The transformers model inside a peft wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _is_plain(head: nn.Linear) -> bool:
    # A quantised layer is a Linear, too, but packs its weight; hooks of offloading wrappers replace `forward`.
    return (
        "forward" not in head.__dict__
        and head.weight.is_floating_point()
        and tuple(head.weight.shape) == (head.out_features, head.in_features)
    )


@contextmanager
def _scoring_head(
    head: nn.Linear, targets: Tensor, mask: Tensor, temperature: float, chunk_size: int, measures: tuple[str, ...]
) -> Iterator[list[Tensor]]:
    """Within the context ``head`` returns ``[N, T, 1 + M]``: log-probabilities and M measures of ``targets``, not logits."""
    made: list[Tensor] = []

    def score(hidden: Tensor) -> Tensor:
        if hidden.ndim != 3 or hidden.shape[1] != targets.shape[1]:  # `logits_to_keep` was not understood
            return nn.functional.linear(hidden, head.weight, head.bias)
        logp, measured = chunked_logp_from_hidden(
            hidden, head.weight, targets, temperature, chunk_size, bias=head.bias, measures=measures, mask=mask
        )
        made.append(torch.stack([logp, *measured.values()], dim=-1))
        return made[-1]

    head.forward = score  # type: ignore[method-assign, assignment]
    try:
        yield made
    finally:
        del head.forward
