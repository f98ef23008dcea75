"""Prompts with a demonstration each, as padded tensors: what supervised learning learns from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_focal.generation.assemble import left_pad
from lightning_focal.models import encode_chat, prompt_opening
from lightning_focal.thoughts import split_thought
from lightning_focal.types import Prompts

__all__ = ["encode_demonstrations"]


def encode_demonstrations(
    tokenizer: Any, prompts: Prompts, max_tokens: int | None = None, key: str = "response", thinks: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Tokens of prompts and of the responses they should get, each response ended by the tokenizer's eos.

    Args:
        tokenizer: of the policy, with chat template and eos.
        prompts: ``N`` prompts whose ``extra[i][key]`` is a response.
        max_tokens: longest response, its eos included; None = any.
        key: where a response stands.
        thinks: thoughts are told from answers. Where the chat template opens the thought, a response need not, and must end it.

    Returns:
        ``prompt_ids [N, L]`` int64, left-padded; ``prompt_mask [N, L]`` bool, True = a real token; ``response_ids [N, T]`` int64,
        right-padded; ``response_mask [N, T]`` bool, True = a token of the response.

    Raises:
        ValueError: if a prompt has no response, one that is too long (a response cut short would teach not to end), or one that does
            not end the thought which the chat template opens.

    >>> from lightning_focal.models import load_tokenizer
    >>> chats = (({"role": "user", "content": "1 + 1 ="},),) * 2
    >>> prompts = Prompts(ids=("a", "b"), messages=chats, extra=({"response": "2"}, {"response": "two"}))
    >>> _, _, ids, mask = encode_demonstrations(load_tokenizer("random:tiny-llama"), prompts)
    >>> ids.shape, mask.sum(-1)
    (torch.Size([2, 4]), tensor([2, 4]))
    """
    responses, encoded = [], [encode_chat(tokenizer, messages) for messages in prompts.messages]
    for i, name in enumerate(prompts.ids):
        text = prompts.extra[i].get(key) if prompts.extra else None
        if not isinstance(text, str) or not text:
            raise ValueError(
                f"prompt {name!r} has no demonstration: supervised learning needs a column `{key}` with the text to learn, got {text!r}"
            )
        if opening := prompt_opening(tokenizer, encoded[i]) if thinks else "":
            if text.lstrip().startswith(opening.strip()):
                text = text.lstrip().removeprefix(opening.strip()).lstrip()
            if not split_thought(opening + text).finished:
                raise ValueError(
                    f"the chat template opens a thought ({opening.strip()}), and the demonstration of prompt {name!r} never ends it: write the "
                    "thought and its closing mark before the answer, or have none by `model.chat.template_kwargs` (enable_thinking: false)"
                )
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if max_tokens is not None and len(ids) > max_tokens:
            raise ValueError(f"the demonstration of prompt {name!r} has {len(ids)} tokens, {max_tokens} are allowed")
        responses.append(ids)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    prompt_ids, prompt_mask = left_pad(encoded, pad)
    width = max(map(len, responses), default=0)
    response_ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids in responses], dtype=torch.int64).reshape(
        len(responses), width
    )
    lengths = torch.tensor([len(ids) for ids in responses], dtype=torch.int64)
    return prompt_ids, prompt_mask, response_ids, torch.arange(width) < lengths[:, None]
