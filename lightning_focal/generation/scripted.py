"""Responses written beforehand: for tests and dry runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_focal.generation.assemble import check_request, eos_ids, make_rollouts
from lightning_focal.generation.base import Finished, Generator, Sampling
from lightning_focal.types import Prompts, Rollouts

__all__ = ["ScriptedGenerator"]


class ScriptedGenerator(Generator):
    """Returns given responses, tokenised by the policy's tokenizer, each ended by eos.

    Rollout ``g`` of a prompt is response ``g`` of its list, starting over at the list's end. Seeds, temperature, ``top_k`` and
    ``top_p`` have no influence; ``max_new_tokens`` cuts (and marks as truncated) as it would for a real policy. ``logp`` is None.

    Args:
        responses: one list for every prompt, or a mapping from prompt id to its list.

    Raises:
        ValueError: if there is no response, for all or for a prompt id.

    >>> from lightning_focal.models import encode_chat, load_policy
    >>> from lightning_focal.types import Prompts
    >>> policy, tokenizer = load_policy("random:tiny-llama?layers=1")
    >>> chat = ({"role": "user", "content": "Yes?"},)
    >>> prompts = Prompts(ids=("a",), messages=(chat,), tokens=(encode_chat(tokenizer, chat),))
    >>> rollouts = ScriptedGenerator(["yes", "no"]).generate(
    ...     policy, tokenizer, prompts, group_size=3, seeds=[0], sampling=Sampling(max_new_tokens=3)
    ... )
    >>> rollouts.texts, rollouts.truncated
    ((('yes', 'no', 'yes'),), tensor([[ True, False,  True]]))
    """

    tells_finished: ClassVar[bool] = True

    def __init__(self, responses: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        if isinstance(responses, str):
            raise ValueError(f"`responses` must be a list of texts or a mapping of lists, got the string {responses!r}")
        if not responses:
            raise ValueError("`responses` must hold at least one response, got none")
        self.responses = responses
        self.version = 0

    def sync(self, policy: nn.Module, version: int) -> None:
        """Remember ``version``."""
        self.version = version

    def _script(self, prompt_id: str) -> Sequence[str]:
        if not isinstance(self.responses, Mapping):
            return self.responses
        script = self.responses.get(prompt_id)
        if not script or isinstance(script, str):
            raise ValueError(f"`responses` must hold a list with at least one response for prompt {prompt_id!r}, got {script!r}")
        return script

    def generate(
        self,
        policy: nn.Module,
        tokenizer: Any,
        prompts: Prompts,
        *,
        group_size: int,
        seeds: Sequence[int],
        sampling: Sampling,
        finished: Finished | None = None,
    ) -> Rollouts:
        """See :meth:`Generator.generate`; ``policy`` only lends its device and its eos ids."""
        check_request(prompts, group_size, seeds)
        eos = eos_ids(policy, tokenizer)
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(eos)
        scripts = [(self._script(prompt_id), g) for prompt_id in prompts.ids for g in range(group_size)]
        texts = [script[g % len(script)] for script, g in scripts]
        rows = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end][: sampling.max_new_tokens] for text in texts]
        device = next((p.device for p in policy.parameters()), torch.device("cpu"))
        width = max(map(len, rows), default=1)
        tokens = torch.tensor([row + [end] * (width - len(row)) for row in rows], device=device, dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows], device=device, dtype=torch.int64)
        rollouts = make_rollouts(
            prompts,
            tokenizer,
            tokens.reshape(len(prompts), group_size, width),
            eos=eos,
            lengths=lengths.reshape(len(prompts), group_size),
            version=self.version,
        )
        for row, group in enumerate(rollouts.texts):
            for place, text in enumerate(group if finished is not None else ()):
                finished(row, place, text)  # type: ignore[misc]
        return rollouts
