"""Prompts and the slow, plain way to continue them."""

import torch

from lightning_focal.models import encode_chat
from lightning_focal.types import Prompts

QUESTIONS = ("Hi", "Why is the sky blue, and since when?", "One?", "Tell me more of that")


def make_prompts(tokenizer, questions=QUESTIONS):
    chats = tuple(({"role": "user", "content": question},) for question in questions)
    return Prompts(
        ids=tuple(f"p{i}" for i in range(len(chats))),
        messages=chats,
        tokens=tuple(encode_chat(tokenizer, chat) for chat in chats),
    )


def reversed_prompts(prompts):
    return Prompts(ids=prompts.ids[::-1], messages=prompts.messages[::-1], tokens=prompts.tokens[::-1])


def greedy(model, row, limit, eos):
    """No cache, no batch, whole logits at every step."""
    sequence = list(row)
    with torch.no_grad():
        for _ in range(limit):
            sequence.append(int(model(torch.tensor([sequence])).logits[0, -1].argmax()))
            if sequence[-1] == eos:
                break
    return sequence[len(row) :]


def responses(rollouts):
    """``[P][G]`` lists of token ids."""
    return [
        [ids[mask].tolist() for ids, mask in zip(group, masks, strict=True)]
        for group, masks in zip(rollouts.response_ids, rollouts.response_mask, strict=True)
    ]
