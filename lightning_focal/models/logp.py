"""Log-probabilities of given responses under a policy: what the update differentiates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lightning_focal.functional import chunked_logp_from_hidden, self_certainty, token_entropy
from lightning_focal.models.packing import Pack, Sizes, ranges, why_not_packed
from lightning_focal.models.weights import bare_model, compute_device

__all__ = ["dummy_forward", "response_logp", "response_measures"]

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
    sizes: Sizes | None = None,
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
        sizes: of these rows. With it, they are laid out in one row without padding and each prompt is computed once for all the
            responses to it, where the model's attention allows (:func:`~lightning_focal.models.why_not_packed`).

    Returns:
        ``[N, T]`` float32 in nats, 0 where ``response_mask`` is False.

    Raises:
        ValueError: on shapes that disagree, a temperature or chunk size out of range, or a row without a prompt.

    >>> from lightning_focal.models import load_policy
    >>> model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1&std=1e-9")
    >>> prompt, response = torch.tensor([[5, 6]]), torch.tensor([[7, 8]])
    >>> with torch.no_grad():  # all of 259 tokens are equally likely: log(1/259)
    ...     response_logp(model, prompt, prompt > 0, response, response > 7)
    tensor([[ 0.0000, -5.5568]])
    """
    inputs = (prompt_ids, prompt_mask, response_ids, response_mask)
    return response_measures(model, *inputs, temperature=temperature, chunk_size=chunk_size, sizes=sizes)[0]


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
    sizes: Sizes | None = None,
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
        sizes: of these rows, see :func:`response_logp`.

    Returns:
        ``(logp, measures)``, each ``[N, T]`` float32 in nats, 0 where ``response_mask`` is False; measures carry no gradient.

    Raises:
        ValueError: as :func:`response_logp`.
    """
    _check(prompt_ids, prompt_mask, response_ids, response_mask, temperature, chunk_size, sizes)
    if sizes is None:
        sizes, shared = Sizes.of(prompt_mask, response_mask), False
    else:
        shared = sizes.pays(prompt_ids.device) and why_not_packed(model) is None
    kept = max(sizes.response_lengths, default=0)
    if kept == 0:
        nothing = torch.zeros(response_ids.shape, device=response_ids.device)
        return nothing, {name: nothing.clone() for name in measures}
    if shared:
        pack = Pack.of(prompt_ids, response_ids, sizes)
        inputs = {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "use_cache": False, "layout": pack}
        places, wanted = pack.predicting, pack.targets
    else:
        inputs = _padded(prompt_ids, prompt_mask, response_ids, response_mask, sizes)
        places = ranges([(row * kept, tokens) for row, tokens in enumerate(sizes.response_lengths)]).to(prompt_ids.device)
        wanted = response_ids[:, :kept].flatten().index_select(0, places)
    scored = _score(model, inputs, places, wanted, temperature, chunk_size, measures)
    logp, *others = (torch.zeros(response_mask.shape, device=scored.device).masked_scatter(response_mask, row) for row in scored)
    return logp, {name: values.detach() for name, values in zip(measures, others, strict=True)}


def dummy_forward(model: nn.Module) -> Tensor:
    """One token through the model for nothing: a zero that depends on every parameter.

    Where parameters are sharded, a forward or backward needs every process. One that has no rows left keeps the others company.

    >>> from lightning_focal.models import load_policy
    >>> zero = dummy_forward(load_policy("random:tiny-llama?hidden=32&layers=1")[0])
    >>> zero.requires_grad, abs(float(zero))
    (True, 0.0)
    """
    token = torch.zeros(1, 1, dtype=torch.int64, device=compute_device(model))
    logits: Tensor = model(input_ids=token, use_cache=False).logits
    return logits.float().sum() * 0.0


def _check(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    temperature: float,
    chunk_size: int,
    sizes: Sizes | None,
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
    if not (min(sizes.prompt_lengths) > 0 if sizes is not None else bool(prompt_mask.any(1).all())):
        raise ValueError("`prompt_mask` must have a True in every row: a response needs a prompt")


def _padded(prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor, sizes: Sizes) -> dict[str, Any]:
    """A call over whole rows, without the columns that are padding in all of them; nothing is predicted from the last token."""
    kept, first = max(sizes.response_lengths), prompt_ids.shape[1] - max(sizes.prompt_lengths)
    inputs: dict[str, Any] = {
        "input_ids": torch.cat([prompt_ids[:, first:], response_ids[:, : kept - 1]], dim=1),
        "use_cache": False,
        "logits_to_keep": kept,
    }
    if min(sizes.prompt_lengths) < max(sizes.prompt_lengths):  # right padding needs no mask: attention is causal
        attended = torch.cat([prompt_mask[:, first:], response_mask[:, : kept - 1]], dim=1).long()
        inputs["attention_mask"] = attended
        inputs["position_ids"] = (attended.cumsum(1) - 1).clamp(min=0)
    return inputs


def _score(
    model: nn.Module,
    inputs: dict[str, Any],
    places: Tensor,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    measures: Sequence[str],
) -> Tensor:
    """``[1 + M, tokens]``: log-probabilities of ``targets`` and M measures at ``places`` of the flattened last positions."""
    base = bare_model(model)
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    kept = inputs.get("logits_to_keep", inputs["input_ids"].shape[1])
    if isinstance(head, nn.Linear) and _is_plain(head) and base not in _whole_logits:

        def score(hidden: Tensor) -> Tensor:
            rows = hidden.flatten(0, 1).index_select(0, places)
            logp, measured = chunked_logp_from_hidden(
                rows, head.weight, targets, temperature, chunk_size, bias=head.bias, measures=measures
            )
            # with a gradient, even one of zeros, the backward pass would make the measures' part of it
            return torch.stack([logp, *(values.detach() for values in measured.values())])

        with _replaced(head, score, kept) as made:
            found: Tensor = model(**inputs).logits
        if len(made) == 1 and found is made[0]:
            return made[0]
    if base not in _whole_logits:
        _whole_logits.add(base)
        _log.warning(
            "%s has no separable output layer: its logits [N, T, V] are held whole for log-probabilities", type(base).__name__
        )
    logits: Tensor = model(**inputs).logits[:, -kept:].flatten(0, 1).index_select(0, places)
    scaled = logits.float() / temperature
    logp = torch.log_softmax(scaled, dim=-1).gather(-1, targets[:, None])[:, 0]
    made_of = {"entropy": token_entropy, "self_certainty": self_certainty}
    return torch.stack([logp, *(made_of[name](scaled.detach()) for name in measures)])


def _is_plain(head: nn.Linear) -> bool:
    # A quantised layer is a Linear, too, but packs its weight; hooks of offloading wrappers replace `forward`.
    return (
        "forward" not in head.__dict__
        and head.weight.is_floating_point()
        # between two forwards the weight may be a piece of a flat parameter
        and (head.weight.ndim < 2 or tuple(head.weight.shape) == (head.out_features, head.in_features))
    )


@contextmanager
def _replaced(head: nn.Linear, score: Callable[[Tensor], Tensor], kept: int) -> Iterator[list[Tensor]]:
    """Within the context ``head`` returns ``score(hidden)``, not logits."""
    made: list[Tensor] = []

    def forward(hidden: Tensor) -> Tensor:
        if hidden.ndim != 3 or hidden.shape[1] != kept:  # `logits_to_keep` was not understood
            return nn.functional.linear(hidden, head.weight, head.bias)
        made.append(score(hidden))
        return made[-1]

    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield made
    finally:
        del head.forward
