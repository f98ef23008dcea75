"""Chats to token ids, through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lightning_focal.types import Message

__all__ = ["encode_chat", "validate_messages"]


def validate_messages(messages: Sequence[Message]) -> None:
    """Check that a chat can be put to a policy: at least one turn, each with a role and a text, the last not the assistant's.

    Args:
        messages: ``[{"role": "user", "content": "..."}, ...]``.

    Raises:
        TypeError: if ``messages`` is a string, or a turn is no mapping.
        ValueError: if the chat is empty, a ``role`` or ``content`` is missing or no string, or the assistant spoke last.

    >>> validate_messages([{"role": "user", "content": "Hi"}])
    >>> validate_messages([{"role": "user"}])
    Traceback (most recent call last):
    ...
    ValueError: `messages[0]["content"]` must be a string, got None
    """
    if isinstance(messages, (str, Mapping)):
        raise TypeError(f"`messages` must be a sequence of turns, got {type(messages).__name__}")
    if not messages:
        raise ValueError("`messages` must hold at least one turn, got none")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(f"`messages[{i}]` must be a mapping with `role` and `content`, got {type(message).__name__}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise ValueError(f'`messages[{i}]["{key}"]` must be a string, got {message.get(key)!r}')
        if not message["role"]:
            raise ValueError(f'`messages[{i}]["role"]` must not be empty')
    if messages[-1]["role"] == "assistant":
        raise ValueError(f"`messages[{len(messages) - 1}]` is the assistant's: a prompt ends with a turn that awaits a response")


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    r"""Token ids of a chat, ending where the assistant's response begins.

    Args:
        tokenizer: must carry a chat template.
        messages: see :func:`validate_messages`.

    Returns:
        The ids, unpadded, special tokens included.

    Raises:
        ValueError: if the tokenizer has no chat template, the chat is malformed, or the template refuses it (a role that it
            does not know, say).

    >>> from lightning_focal.models import load_tokenizer
    >>> tokenizer = load_tokenizer("random:tiny-llama")
    >>> tokenizer.decode(encode_chat(tokenizer, [{"role": "user", "content": "Hi"}]))
    '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    """
    validate_messages(messages)
    if not tokenizer.chat_template:
        raise ValueError(
            f"`tokenizer` must have a chat template, {tokenizer.name_or_path or type(tokenizer).__name__!r} has none"
        )
    from jinja2 import TemplateError

    try:
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        raise ValueError(f"the chat template refuses `messages` with roles {roles}: {error}") from error
    return tuple(int(i) for i in ids)
