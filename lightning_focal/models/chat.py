"""Chats to token ids, through the tokenizer's own chat template, and what that template says of thoughts."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lightning_focal.functional.choices import expect_choice
from lightning_focal.thoughts import MARKS, opening_at_the_end
from lightning_focal.types import Message, Rollouts

__all__ = ["Chat", "check_template_kwargs", "encode_chat", "prompt_opening", "template_switch", "validate_messages"]

_log = logging.getLogger(__name__)
_SET = ("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "return_dict")
_SWITCHES = ("enable_thinking", "thinking")
_TAIL = 48  # tokens at the end of a prompt that hold the opening mark of a thought, if bytes are tokens


@dataclass(frozen=True)
class Chat:
    r"""How a policy is talked to, and whether its thoughts are told from its answers.

    What ``template_kwargs`` says becomes the default of the tokenizer's chat template: the same in training, validation and prediction,
    in demonstrations, in evaluations, and in the template that an export stores.

    Args:
        thinking: ``auto``: a thought is told by its marks, and begins with the response where the chat template opens it; ``on``: the
            template is asked to let the policy think, besides; ``off``: a response is an answer as it stands.
        template_kwargs: arguments of the chat template by name, ``{enable_thinking: false}`` say; plain values.

    Raises:
        ValueError: on an unknown ``thinking``, an argument that is set already, or a value that is no plain one.

    >>> from lightning_focal.models import load_tokenizer
    >>> tokenizer = load_tokenizer("random:tiny-llama")
    >>> tokenizer.chat_template += "{% if enable_thinking %}{{ '<think>' }}{% endif %}"
    >>> chat = Chat(template_kwargs={"enable_thinking": True})
    >>> chat.apply(tokenizer).decode(encode_chat(tokenizer, [{"role": "user", "content": "Hi"}]))[-17:]
    'assistant\n<think>'
    >>> chat.describe(tokenizer)
    'thoughts: opened by the chat template (<think>), enable_thinking=True'
    """

    thinking: Literal["auto", "off", "on"] | bool = "auto"
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.thinking, bool):  # what YAML makes of an unquoted `on` or `off`
            object.__setattr__(self, "thinking", "on" if self.thinking else "off")
        expect_choice("model.chat.thinking", self.thinking, ("auto", "off", "on"))
        check_template_kwargs(self.template_kwargs, "model.chat.template_kwargs")
        said = next((name for name in _SWITCHES if self.template_kwargs.get(name) is False), None)
        if self.thinking == "on" and said is not None:
            raise ValueError(
                f"`model.chat.thinking` is on, and `model.chat.template_kwargs.{said}` is false: drop one of the two"
            )

    def _arguments(self, template: str) -> dict[str, Any]:
        switch = template_switch(template)
        return ({switch: True} if self.thinking == "on" and switch else {}) | self.template_kwargs

    def apply(self, tokenizer: Any) -> Any:
        """Make the arguments the defaults of a tokenizer's chat template, and return the tokenizer.

        An argument that the template has no use for is warned of, once.
        """
        given: Any = tokenizer.chat_template
        templates: dict[str, str] = given if isinstance(given, dict) else {"": given}
        used = set[str]().union(*map(_names, templates.values()))
        for name in self.template_kwargs:
            if name not in used:
                known = ", ".join(sorted(used & {*_SWITCHES, "tools", "documents", "date_string", "system_message"}))
                _say_once(
                    f"`model.chat.template_kwargs.{name}`: the chat template takes no notice of it{f' (it knows {known})' if known else ''}"
                )
        if self.thinking == "on" and not any(map(template_switch, templates.values())):
            _say_once(
                "`model.chat.thinking: on`: the chat template has no switch for thoughts; they are told by their marks alone"
            )
        made = {name: _with_defaults(template, self._arguments(template)) for name, template in templates.items()}
        tokenizer.chat_template = made if isinstance(given, dict) else made[""]
        return tokenizer

    def mark(self, rollouts: Rollouts) -> Rollouts:
        """Return rollouts whose responses are answers as they stand, where thoughts are not told from answers."""
        if self.thinks:
            return rollouts
        pairs = zip(rollouts.texts, rollouts.openings or ("",) * len(rollouts.texts), strict=True)
        texts = tuple(tuple(self.marked(text, opening) for text in group) for group, opening in pairs)
        return replace(rollouts, texts=texts, openings=(), thinks=False, thought_tokens=None)

    @property
    def thinks(self) -> bool:
        """Whether thoughts are told from answers."""
        return self.thinking != "off"

    def marked(self, text: str, opening: str) -> str:
        """Return one response as :meth:`mark` leaves it; ``opening`` is the mark by which its prompt opened a thought, or empty."""
        return text if self.thinks else text.removeprefix(opening)

    def describe(self, tokenizer: Any) -> str:
        """Say how thoughts are told from answers, and what the template is told; empty where there is nothing to say."""
        template = (
            "".join(tokenizer.chat_template.values()) if isinstance(tokenizer.chat_template, dict) else tokenizer.chat_template
        )
        opening = prompt_opening(tokenizer, encode_chat(tokenizer, [{"role": "user", "content": "?"}])).strip()
        switch, mark = template_switch(template), next((mark for mark in (*MARKS, "<|channel|>") if mark in template), None)
        told = ""
        if self.thinking == "off":
            told = "not told from answers"
        elif opening:
            told = f"opened by the chat template ({opening})"
        elif switch or mark or self.thinking == "on":
            known = f", the chat template knows {switch or mark}" if switch or mark else ""
            told = f"told by their marks{known}"
        arguments = [f"{name}={value!r}" for name, value in self._arguments(template).items()]
        return f"thoughts: {told or 'told by their marks'}{''.join(f', {a}' for a in arguments)}" if told or arguments else ""


def check_template_kwargs(given: Mapping[str, Any], name: str) -> None:
    """Refuse arguments of a chat template that cannot be given.

    Raises:
        ValueError: for a name that is none or is set already, or a value other than numbers, texts, truth values, null, lists and mappings.
    """
    for key, value in given.items():
        if not isinstance(key, str) or not key.isidentifier() or key in _SET:
            why = "which is set already" if key in _SET else "which is no name"
            raise ValueError(f"`{name}` must hold arguments of the chat template by name, got {key!r}, {why}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(
                f"`{name}.{key}` must be a plain value (a date in quotation marks), got {value!r} of type {type(value).__name__}"
            ) from None


def template_switch(template: str) -> str | None:
    """Return the argument by which a chat template lets a model think, or None.

    >>> template_switch("{% if enable_thinking is false %}{{ '<think></think>' }}{% endif %}")
    'enable_thinking'
    """
    return next((name for name in _SWITCHES if name in _names(template)), None)


@functools.lru_cache(maxsize=64)
def _names(template: str) -> frozenset[str]:
    """Every name in a template's code; texts are left out."""
    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", template, re.DOTALL))
    return frozenset(re.findall(r"[^\W\d]\w*", re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "", code)))


def _with_defaults(template: str, arguments: Mapping[str, Any]) -> str:
    lines = "".join(
        f"{{% if {n} is not defined or {n} is none %}}{{% set {n} = {v!r} %}}{{% endif %}}" for n, v in arguments.items()
    )
    return f"{lines}\n{template}" if lines else template  # that line break is dropped, as any behind a block


@functools.cache
def _say_once(words: str) -> None:
    _log.warning(words)


def prompt_opening(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the mark by which the end of a prompt opens a thought, with what stands behind it; empty where it opens none."""
    return opening_at_the_end(tokenizer.decode(list(tokens[-_TAIL:]), skip_special_tokens=False))


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


def encode_chat(tokenizer: Any, messages: Sequence[Message], template_kwargs: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    r"""Token ids of a chat, ending where the assistant's response begins.

    Args:
        tokenizer: must carry a chat template.
        messages: see :func:`validate_messages`.
        template_kwargs: further arguments of the template; those of :class:`Chat` are its defaults.

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
            [dict(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **(template_kwargs or {}),
        )
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        raise ValueError(f"the chat template refuses `messages` with roles {roles}: {error}") from error
    return tuple(int(i) for i in ids)
