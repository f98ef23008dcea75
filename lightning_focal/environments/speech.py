"""The tokens between two turns of a policy, as its own chat template writes them; its own tokens are never encoded again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning_focal.models.chat import encode_chat
from lightning_focal.types import Message

__all__ = ["Speech"]


class Speech:
    """A chat template over several turns.

    What stands between the end of a turn and the beginning of the next is the difference of two renderings: prompt, a turn and what the
    environment says, and the prompt alone. Earlier turns stay as they were sampled, thoughts included.

    Args:
        tokenizer: with a chat template.
        eos: ids that end a turn.
        schemas: of the tools, that the template shows.
    """

    def __init__(self, tokenizer: Any, eos: Collection[int], schemas: Sequence[Mapping[str, Any]] = ()) -> None:
        self.tokenizer, self.options = tokenizer, {"tools": [*schemas]} if schemas else {}
        self.ends = {tokenizer.decode([i], skip_special_tokens=False): i for i in sorted(eos)}
        self._marks = [str(token) for token in tokenizer.all_special_tokens]

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a prompt, tools included; see :func:`~lightning_focal.models.encode_chat`."""
        return encode_chat(self.tokenizer, messages, self.options)

    def harmless(self, message: Message) -> dict[str, str]:
        """Return a message whose text holds no special token: a zero-width space parts what would end a turn."""
        content = message["content"]
        for mark in self._marks:
            content = content.replace(mark, f"{mark[:1]}\u200b{mark[1:]}")
        return {**message, "content": content}

    def between(self, messages: Sequence[Message], said: Sequence[Message]) -> list[int]:
        """Return the tokens behind the eos of a turn, up to where the next begins.

        Args:
            messages: the prompt.
            said: what the environment says between the two turns, at least one message.

        Raises:
            ValueError: for a template that changes the prompt when turns follow, does not end a turn with an eos, or refuses the messages.
        """
        results = [i for i, message in enumerate(said) if message["role"] == "tool"]
        turn: dict[str, Any] = {"role": "assistant", "content": "" if results else "..."}
        shown = [dict(message) for message in said]
        if results:  # many templates show a result behind its call alone
            calls = [(f"call{i:05d}", said[i].get("name", "tool")) for i in results]
            turn["tool_calls"] = [{"id": i, "type": "function", "function": {"name": n, "arguments": {}}} for i, n in calls]
            for place, (name, _) in zip(results, calls, strict=True):
                shown[place]["tool_call_id"] = name
        given = [dict(message) for message in messages]
        before, whole = self._render(given, False), self._render([*given, turn, *shown], True)
        if not whole.startswith(before):
            raise ValueError(
                "the chat template writes a prompt otherwise when turns follow: `model.environment` needs one that does not"
            )
        rest = whole[len(before) :]
        found = [(rest.index(end), end) for end in self.ends if end in rest]
        if not found:
            raise ValueError(
                f"the chat template ends a turn with none of {[*self.ends]}: where the environment's begins is not known"
            )
        place, end = min(found)
        first, *tokens = self.tokenizer(rest[place:], add_special_tokens=False)["input_ids"]
        if first != self.ends[end]:
            raise ValueError(f"the tokenizer does not read {end!r} as the token that ends a turn")
        return [int(i) for i in tokens]

    def check(self, role: str) -> None:
        """Try a message of the environment in the first round and in the second.

        Raises:
            ValueError: as :meth:`between`, and for a template that writes it otherwise the second time.
        """
        ask, probe = {"role": "user", "content": "?"}, {"role": role, "content": "!", "name": "tool"}
        turn = {"role": "assistant", "content": "..."}
        first = self.between([ask], [probe])
        if role == "user" and self.between([ask, turn, {"role": "user", "content": "!"}], [probe]) != first:
            raise ValueError(
                "the chat template writes the second round otherwise than the first: `model.environment` needs one that does not"
            )

    def _render(self, messages: Sequence[Mapping[str, Any]], generation: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=generation, tokenize=False, **self.options
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses roles {[m['role'] for m in messages]}: {error}") from error
        return text
