"""Log-probabilities of given responses under a policy: what the update differentiates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_focal.functional import chunked_logp_from_hidden, self_certainty, token_entropy
from lightning_focal.models.cache import accepted
from lightning_focal.models.packing import Pack, Sizes, ranges
from lightning_focal.models.rows import alike, coarseness, how_they_differ, leave, own_logp, why_not_packed, why_not_padded
from lightning_focal.models.shard import reshard
from lightning_focal.models.weights import bare_model, compute_device, eval_mode, is_sharded

__all__ = ["dummy_forward", "first_rows", "prove_rows", "response_logp", "response_measures"]

_log = logging.getLogger(__name__)
_PROVED_TOKENS, _PROVED_PROMPT = 64, 128
"""Tokens of a response that an update is tried on, and of a prompt where gradients are compared."""
Rows = Sequence[tuple[int, list[int], list[int]]]
_whole_logits: WeakSet[nn.Module] = WeakSet()
"""Models whose logits are more than their output layer's product (soft-capped, scaled, ...), found out at the first call."""


def response_logp(model: nn.Module, *rows: Tensor, **options: Any) -> Tensor:
    r"""Per-token log-probabilities ``log softmax(logits / temperature)[token]`` of responses, as :func:`response_measures` gives them.

    >>> from lightning_focal.models import load_policy
    >>> model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1&std=1e-9")
    >>> prompt, response = torch.tensor([[5, 6]]), torch.tensor([[7, 8]])
    >>> with torch.no_grad():  # all of 259 tokens are equally likely: log(1/259)
    ...     response_logp(model, prompt, prompt > 0, response, response > 7)
    tensor([[ 0.0000, -5.5568]])
    """
    prompt_ids, prompt_mask, response_ids, response_mask = rows
    return response_measures(model, prompt_ids, prompt_mask, response_ids, response_mask, **options)[0]


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
    gradients: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities of responses, teacher-forced in one pass, and more about each next-token distribution.

    Logits are made only where a response token is predicted, ``chunk_size`` positions at a time, and made again in backward:
    ``[N, T, V]`` never exists. Rows are laid out anew: each prompt with its response behind it, padding at the end alone, where
    no token of a causal model sees it; so models that know no mask are right, too. Padding, batch size and row order change
    nothing beyond rounding. Rows that a model cannot take together are computed apart (:func:`~lightning_focal.models.alike`).

    The output layer is handed a function that returns log-probabilities in place of logits, so the model is called as a whole
    and the hooks of sharding wrappers run. A model that changes its output layer's result (soft-capped or scaled logits, an
    adapter on the output layer) is detected at its first call and gives up its logits ``[N, T, V]`` instead; this is logged once.

    Args:
        model: a transformers causal language model, peft-wrapped or sharded ones included; used in its current mode.
        prompt_ids: ``[N, L]`` int64, left-padded.
        prompt_mask: ``[N, L]`` bool, True = a real token.
        response_ids: ``[N, T]`` int64, right-padded.
        response_mask: ``[N, T]`` bool, True = a token of the response.
        measures: ``entropy``, ``self_certainty`` (:func:`~lightning_focal.functional.self_certainty`), of
            ``softmax(logits / temperature)``; ``router_loss``: the load-balancing loss of a mixture of experts over all tokens of these
            rows, prompts included, as its own forward computes it.
        temperature: > 0, divides the logits.
        chunk_size: positions per chunk of logits.
        sizes: of these rows. With it, they are laid out in one row without padding and each prompt is computed once for all the
            responses to it, where the model's attention allows (:func:`~lightning_focal.models.why_not_packed`).
        gradients: measures carry a gradient, too.

    Returns:
        ``(logp, measures)``, each ``[N, T]`` float32 in nats, 0 where ``response_mask`` is False; measures carry no gradient by default.
        ``router_loss`` is a scalar and carries one.

    Raises:
        ValueError: on shapes that disagree, a temperature or chunk size out of range, a row without a prompt, and rows that a sharded
            model cannot take together.
    """
    asked, routed = measures, "router_loss" in measures
    measures = [name for name in asked if name != "router_loss"]
    rows = (prompt_ids, prompt_mask, response_ids, response_mask)
    _check(rows, temperature, chunk_size, sizes)
    given, sizes = sizes, Sizes.of(prompt_mask, response_mask) if sizes is None else sizes
    kept = max(sizes.response_lengths, default=0)
    if kept == 0:
        nothing = torch.zeros(response_ids.shape, device=response_ids.device)
        return nothing, {name: nothing.clone() for name in measures} | ({"router_loss": nothing.sum()} if routed else {})
    parts = alike(model, sizes.lengths)
    if len(parts) > 1:
        if is_sharded(model):
            raise ValueError(
                f"{type(bare_model(model)).__name__} takes rows of {sorted(set(sizes.lengths))} tokens one length at a time, which one "
                "call of a model that is split over processes cannot"
            )
        arguments: dict[str, Any] = {"temperature": temperature, "chunk_size": chunk_size, "gradients": gradients}
        return _apart(model, rows, parts, given, asked, arguments)
    if given is not None and given.pays(prompt_ids.device) and why_not_packed(model) is None:
        pack = Pack.of(prompt_ids, response_ids, sizes)
        inputs = {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "use_cache": False, "layout": pack}
        places, wanted = pack.predicting, pack.targets
    else:
        inputs, places = _padded(prompt_ids, response_ids, sizes, masked=routed)
        pieces = ranges([(row * kept, tokens) for row, tokens in enumerate(sizes.response_lengths)])
        wanted = response_ids[:, :kept].flatten().index_select(0, pieces.to(response_ids.device))
    if routed:
        inputs["output_router_logits"] = True
    scored, router_loss = _score(model, inputs, places, wanted, temperature, chunk_size, measures, gradients)
    logp, *others = (torch.zeros(response_mask.shape, device=scored.device).masked_scatter(response_mask, row) for row in scored)
    measured = {name: values if gradients else values.detach() for name, values in zip(measures, others, strict=True)}
    return logp, measured | ({"router_loss": router_loss} if routed else {})


def first_rows(prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor, sizes: Sizes) -> Rows:
    """Choose rows of a batch that an update is tried on: the shortest, the longest, and another response to the prompt of each.

    Returns:
        Number of the prompt, its tokens, and the first of the response's, for each; none where nobody responded.
    """
    order = sorted((row for row, tokens in enumerate(sizes.response_lengths) if tokens), key=lambda row: sizes.lengths[row])
    numbers = [sizes.prompts[row] for row in (*order[:1], *order[-1:])]
    twins = [[row for row in order if sizes.prompts[row] == number] for number in numbers]
    return [
        (
            sizes.prompts[row],
            prompt_ids[row][prompt_mask[row]].tolist(),
            response_ids[row][response_mask[row]][:_PROVED_TOKENS].tolist(),
        )
        for row in sorted({*order[:1], *order[-1:], *(row for twin in twins for row in twin[:2])})
    ]


def prove_rows(model: nn.Module, rows: Rows, temperature: float = 1.0, packed: bool = True) -> None:
    """Compare what an update computes of real rows with the model's own forward, one row at a time without cache or padding.

    Log-probabilities are compared, and of a model that is whole on its process also gradients, of rows with the ends of their
    prompts. A way that differs by more than rounding is left for the next slower one, in words.

    Raises:
        RuntimeError: where rows of one length at a time differ, too.
    """
    ends = [] if is_sharded(model) else [(number, prompt[-_PROVED_PROMPT:], response) for number, prompt, response in rows]
    with eval_mode(model):
        while why := _misfit(model, rows, temperature, packed) or _misfit(model, ends, temperature, packed, gradients=True):
            leave(model, why)
    reshard(model)


def _misfit(model: nn.Module, rows: Rows, temperature: float, packed: bool, gradients: bool = False) -> str | None:
    if not rows:
        return None
    device = compute_device(model)
    numbers, prompts, responses = zip(*rows, strict=True)
    sizes = Sizes(numbers, tuple(map(len, prompts)), tuple(map(len, responses)))
    left, right = (
        pad_sequence([torch.tensor(row) + 1 for row in side], batch_first=True, padding_side=where).to(device)
        for side, where in ((prompts, "left"), (responses, "right"))
    )
    tokens = ((left - 1).clamp(min=0), left > 0, (right - 1).clamp(min=0), right > 0)
    weights = torch.linspace(-1, 2, right.numel(), device=device).reshape(right.shape)  # every token another
    with torch.set_grad_enabled(gradients):
        own, gaps = torch.zeros(right.shape, device=device), list[tuple[Tensor, float]]()
        sums = [own.sum(), own.sum()]
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            logp, bound = own_logp(model, prompt, right[row, : len(response)] - 1, temperature)
            sums[0] = sums[0] + (logp * weights[row, : len(response)]).sum()
            gaps.append((logp.detach(), bound))
        for part in alike(model, sizes.lengths):
            own_sizes = sizes.rows(part) if packed else None
            made = response_logp(model, *(tensor[part] for tensor in tokens), temperature=temperature, sizes=own_sizes)
            sums[1] = sums[1] + (made * weights[part]).sum()
            for row, logp in zip(part, made.detach(), strict=True):
                gaps[row] = (logp[: len(responses[row])] - gaps[row][0], gaps[row][1])
        if not gradients:
            return how_they_differ(gaps)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        first, second = (torch.stack([_sketch(g) for g in torch.autograd.grad(x, trained, materialize_grads=True)]) for x in sums)
    gap = float((second - first).norm() / first.norm().clamp(min=1e-12))
    exact = gap <= 10 * coarseness(model)  # a backward pass rounds more often
    return None if exact else f"its gradients there differ from those of its own forward by {gap:.2g} of their size"


def _sketch(gradient: Tensor) -> Tensor:
    """One number for a gradient, linear in it, so that never two of a whole model are held."""
    table = gradient.float().reshape(len(gradient) if gradient.ndim else 1, -1)
    row, column = (torch.linspace(-1, 2, n, device=table.device) / n**0.5 for n in table.shape)
    number: Tensor = row.double() @ (table @ column).double()
    return number


def dummy_forward(model: nn.Module) -> Tensor:
    """One token through the model for nothing: a zero that depends on every parameter.

    Where parameters are sharded, a forward or backward needs every process. One that has no rows left keeps the others company.

    >>> from lightning_focal.models import load_policy
    >>> zero = dummy_forward(load_policy("random:tiny-llama?hidden=32&layers=1")[0])
    >>> zero.requires_grad, abs(float(zero))
    (True, 0.0)
    """
    why_not_padded(model)  # tries the model out, as other processes do with their first rows
    token = torch.zeros(1, 1, dtype=torch.int64, device=compute_device(model))
    logits: Tensor = model(**accepted(bare_model(model), {"input_ids": token, "use_cache": False})).logits
    return logits.float().sum() * 0.0


def _check(rows: Sequence[Tensor], temperature: float, chunk_size: int, sizes: Sizes | None) -> None:
    prompt_ids, prompt_mask, response_ids, response_mask = rows
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


def _apart(
    model: nn.Module, rows: Sequence[Tensor], parts: list[list[int]], sizes: Sizes | None, measures: Sequence[str], arguments: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """:func:`response_measures` of each part on its own, put together again."""
    found = []
    for part in parts:
        index = torch.tensor(part, device=rows[0].device)
        own = None if sizes is None else sizes.rows(part)
        prompt_ids, prompt_mask, response_ids, response_mask = (tensor[index] for tensor in rows)
        tokens = (prompt_ids, prompt_mask, response_ids, response_mask)
        found.append(response_measures(model, *tokens, measures, sizes=own, **arguments))
    order = torch.tensor([row for part in parts for row in part], device=rows[0].device).argsort()
    joined = {name: torch.cat([m[name] for _, m in found])[order] for name in measures if name != "router_loss"}
    if "router_loss" in measures:
        shares = [len(part) / len(order) for part in parts]
        joined["router_loss"] = torch.stack([m["router_loss"] * share for (_, m), share in zip(found, shares, strict=True)]).sum()
    return torch.cat([logp for logp, _ in found])[order], joined


def _padded(prompt_ids: Tensor, response_ids: Tensor, sizes: Sizes, masked: bool) -> tuple[dict[str, Any], Tensor]:
    """A call over whole rows, each response right behind its prompt, and where in it tokens are predicted.

    Nothing is predicted from the last token. A causal model needs no mask, its router's loss counts tokens by one.
    """
    device, width = prompt_ids.device, prompt_ids.shape[1]
    used = [(p, p + r - 1) for p, r in zip(sizes.prompt_lengths, sizes.response_lengths, strict=True) if r]
    last, first = max(stop for _, stop in used), min(p for p, _ in used) - 1
    whole, columns = torch.cat([prompt_ids, response_ids], dim=1), torch.arange(last, device=device)
    begins = torch.tensor([width - p for p in sizes.prompt_lengths]).to(device)[:, None]
    inputs: dict[str, Any] = {
        "input_ids": whole.gather(1, (begins + columns).clamp(max=whole.shape[1] - 1)),
        "use_cache": False,
        "logits_to_keep": last - first,
    }
    if masked:
        inputs["attention_mask"] = (columns < torch.tensor(sizes.lengths).to(device)[:, None] - 1).long()
    rows = enumerate(zip(sizes.prompt_lengths, sizes.response_lengths, strict=True))
    return inputs, ranges([(row * (last - first) + p - 1 - first, r) for row, (p, r) in rows]).to(device)


def _score(
    model: nn.Module,
    inputs: dict[str, Any],
    places: Tensor,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    measures: Sequence[str],
    gradients: bool,
) -> tuple[Tensor, Tensor]:
    """``[1 + M, tokens]``: log-probabilities of ``targets`` and M measures at ``places`` of the flattened last positions; a router's loss."""
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
            return torch.stack([logp, *(values if gradients else values.detach() for values in measured.values())])

        with _replaced(head, score, kept) as made:
            output = model(**accepted(base, inputs))
        if len(made) == 1 and output.logits is made[0]:
            return made[0], _router_loss(output)
    if base not in _whole_logits:
        _whole_logits.add(base)
        _log.warning(
            "%s has no separable output layer: its logits [N, T, V] are held whole for log-probabilities", type(base).__name__
        )
    output = model(**accepted(base, inputs))
    logits: Tensor = output.logits[:, -kept:].flatten(0, 1).index_select(0, places)
    scaled = logits.float() / temperature
    logp = torch.log_softmax(scaled, dim=-1).gather(-1, targets[:, None])[:, 0]
    made_of = {"entropy": token_entropy, "self_certainty": self_certainty}
    return torch.stack([logp, *(made_of[name](scaled if gradients else scaled.detach()) for name in measures)]), _router_loss(
        output
    )


def _router_loss(output: Any) -> Tensor:
    found = getattr(output, "aux_loss", None)
    return found if isinstance(found, Tensor) else output.logits.new_zeros(())


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
