"""Randomly initialised policies for runs that take seconds: no download, no file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl

import torch

__all__ = ["CHATML", "TinyLlama", "byte_tokenizer"]

CHATML = (
    "{% if tools %}{{ '<|im_start|>tools\n' }}{% for tool in tools %}{% set tool = tool['function'] or tool %}"  # short: a byte is a token
    "{{ tool['name'] + '(' + (tool['parameters'] or {'properties': ''})['properties'] | join(', ') + ')\n' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ '<tool_call>' + call['function'] | tojson + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TinyLlama:
    """A randomly initialised Llama, spelt ``random:tiny-llama?hidden=64&layers=2&seed=0``.

    Args:
        hidden: width; a multiple of ``2 * heads``.
        layers: depth.
        heads: attention heads.
        kv_heads: key/value heads, a divisor of ``heads``.
        context: longest sequence in tokens.
        seed: of the weights; the global random state is left alone.
        std: standard deviation of the initial weights. 0.02 gives a nearly uniform next token; larger, a peaked one.

    Raises:
        ValueError: on sizes that do not fit, or an unknown key in :meth:`parse`.

    >>> TinyLlama.parse("random:tiny-llama?layers=1")
    TinyLlama(hidden=64, layers=1, heads=4, kv_heads=2, context=2048, seed=0, std=0.02)
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    context: int = 2048
    seed: int = 0
    std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "kv_heads", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be >= 1, got {getattr(self, name)}")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"`hidden` must be a multiple of 2 * `heads` = {2 * self.heads}, got {self.hidden}")
        if self.heads % self.kv_heads:
            raise ValueError(f"`kv_heads` must divide `heads` = {self.heads}, got {self.kv_heads}")
        if not self.std > 0:
            raise ValueError(f"`std` must be > 0, got {self.std}")

    @classmethod
    def parse(cls, source: str) -> TinyLlama:
        """Read ``random:tiny-llama?key=value&...``; keys are this class's arguments."""
        kind, _, query = source.removeprefix("random:").partition("?")
        if kind != "tiny-llama":
            raise ValueError(f"`source`: the only random policy is 'random:tiny-llama?hidden=64&layers=2&seed=0', got {source!r}")
        known = {f.name: float if f.type == "float" else int for f in fields(cls)}
        values: dict[str, int | float] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in known:
                raise ValueError(f"`source` {source!r}: unknown key {key!r}, known are {sorted(known)}")
            try:
                values[key] = known[key](value)
            except ValueError as error:
                raise ValueError(f"`source` {source!r}: {key!r} must be a number, got {value!r}") from error
        return cls(**values)  # type: ignore[arg-type]

    def build(self, tokenizer: Any) -> Any:
        """The model in float32 and eval mode; the same seed gives the same weights."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=2 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.context,
            initializer_range=self.std,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the same weights, whatever device they go to
            torch.manual_seed(self.seed)
            model = LlamaForCausalLM(config)
        return model.eval()


def byte_tokenizer() -> Any:
    """A tokenizer of the 256 bytes and three special tokens (259 in all), with a ChatML template.

    Any text survives encoding and decoding; one byte is one token.

    >>> tokenizer = byte_tokenizer()
    >>> len(tokenizer), tokenizer.decode(tokenizer("né 1")["input_ids"])
    (259, 'né 1')
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in ("<|pad|>", "<|im_start|>", "<|im_end|>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=CHATML,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
