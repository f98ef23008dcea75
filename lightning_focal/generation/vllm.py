"""Rollouts by vLLM in the trainer's process."""

from __future__ import annotations

import itertools
import math
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from lightning_focal.generation.assemble import check_request, eos_ids
from lightning_focal.generation.base import Generator, Sampling
from lightning_focal.generation.vllm_engine import Engine, import_vllm
from lightning_focal.generation.vllm_requests import (
    LogprobsMode,
    assemble,
    best_mode,
    expect_comparable,
    expect_context,
    sampling_params,
)
from lightning_focal.models.folder import hub_weights, write_description, write_weights
from lightning_focal.models.weights import bare_model, is_held, is_sharded, stamp
from lightning_focal.precision import expect_dtype, resolved_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lightning_focal.types import Prompts, Rollouts

__all__ = ["VLLMGenerator"]

_OWN = {"model", "tokenizer", "dtype", "max_model_len", "load_format", "enable_lora", "max_lora_rank", "logprobs_mode", "seed"}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VLLMGenerator(Generator):
    """Decodes with a vLLM engine (arXiv:2309.06180) that lives in the trainer's process, on its device.

    With several processes each has an engine of its own, for its own prompts. The engine is made at the first rollout. After every
    update the policy's weights are handed over in place, by vLLM's ``reload_weights``, and its prefix cache is emptied; every
    answer names the weights that wrote it, and one with other weights than the last :meth:`sync`'s is an error.

    Response ``g`` of a prompt is drawn with the prompt's seed plus ``g``: the same seeds give the same responses, beyond rounding
    that depends on what else is in the batch. They are not those of :class:`HFGenerator`, which draws otherwise.

    Log-probabilities are vLLM's own. Where they are of another distribution than a trainer computes (temperature other than 1
    together with ``top_k``, ``top_p`` or ``min_new_tokens``), ``logp`` is None.

    Args:
        dtype: of the engine's weights and arithmetic, ``"bfloat16"``, ``"float16"`` or ``"float32"``; ``"auto"``: bfloat16 where the
            device is quick at it, else float32; None = the policy's.
        max_model_len: tokens of a prompt and its response together; None = the policy's context. Less needs less memory.
        kv_cache_gb: GiB for keys and values; None = 1 on a CPU, on a GPU what ``gpu_memory_utilization`` leaves.
        gpu_memory_utilization: share of a GPU's memory for weights, keys and values of the engine, in (0, 1]; the trainer needs the rest.
        lora: ``merged`` hands over the weights with adapters added; ``adapter`` hands over the adapters alone, which vLLM
            applies itself: less to copy, a little slower to decode.
        sleep: leave the GPU's memory to the trainer between rollouts; weights wait in main memory.
        enforce_eager: no compilation and no CUDA graphs; None = on a CPU alone.
        engine: further arguments of ``vllm.LLM``.

    Raises:
        ValueError: on a value out of range.
    """

    def __init__(
        self,
        dtype: str | None = None,
        max_model_len: int | None = None,
        kv_cache_gb: float | None = None,
        gpu_memory_utilization: float = 0.3,
        lora: Literal["merged", "adapter"] = "merged",
        sleep: bool = False,
        enforce_eager: bool | None = None,
        engine: dict[str, Any] | None = None,
    ) -> None:
        expect_dtype("dtype", dtype)
        if max_model_len is not None and max_model_len < 2:
            raise ValueError(f"`max_model_len` must be >= 2 tokens or null, got {max_model_len}")
        if kv_cache_gb is not None and not kv_cache_gb > 0:
            raise ValueError(f"`kv_cache_gb` must be > 0 or null, got {kv_cache_gb}")
        if not 0 < gpu_memory_utilization <= 1:
            raise ValueError(f"`gpu_memory_utilization` must be in (0, 1], got {gpu_memory_utilization}")
        if lora not in ("merged", "adapter"):
            raise ValueError(f"`lora` must be 'merged' or 'adapter', got {lora!r}")
        taken = _OWN & set(engine or {})
        if taken:
            raise ValueError(f"`engine` must not hold {', '.join(sorted(taken))}: arguments of their own, or the policy's")
        if (engine or {}).get("tensor_parallel_size", 1) != 1:
            raise ValueError(
                "`engine.tensor_parallel_size` must be 1: weights are handed over within a process; start a server instead"
            )
        self.dtype, self.max_model_len, self.kv_cache_gb = dtype, max_model_len, kv_cache_gb
        self.gpu_memory_utilization, self.lora, self.sleeps = gpu_memory_utilization, lora, sleep
        self.enforce_eager, self.engine_options = enforce_eager, dict(engine or {})
        self.version = 0
        self._engine: Engine | None = None
        self._mode: LogprobsMode | None = None
        self._run, self._syncs = uuid.uuid4().hex[:8], itertools.count()
        self._held: tuple[nn.Module, int] | None = None  # whose weights the engine has, and their stamp
        self._adapter: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self, sampling: Sampling, needs_logp: bool = False) -> None:
        """See :meth:`Generator.start`.

        Raises:
            ImportError: without vLLM.
            ValueError: if it cannot sleep here, or its log-probabilities are needed and of another distribution.
        """
        import_vllm()
        from vllm.platforms import current_platform

        if self.sleeps and current_platform.is_cpu():
            raise ValueError("`sleep` must be false on a CPU: vLLM leaves memory to others on GPUs alone")
        if needs_logp:
            expect_comparable(sampling, best_mode(sampling))
        if self._engine is None:
            self._mode = best_mode(sampling)  # training's, whatever comes first

    def sync(self, policy: nn.Module, version: int) -> None:
        """Hand over the weights, if there is an engine; a collective when the policy is sharded.

        Raises:
            ValueError: for ``lora: adapter`` and a policy without adapters, or a sharded one.
            RuntimeError: if vLLM's model does not take them.
        """
        self.version = version
        self._held = None
        if self._engine is not None:
            self._hand_over(self._engine, policy)

    def generate(
        self,
        policy: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Prompts,
        *,
        group_size: int,
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> Rollouts:
        """See :meth:`Generator.generate`.

        Raises:
            ValueError: on prompts without tokens, too few seeds, or a prompt too long for the engine's context.
            RuntimeError: if the policy was changed after the last :meth:`sync`.
        """
        check_request(prompts, group_size, seeds)
        mode = self._mode = self._mode or best_mode(sampling)
        if self._engine is None:
            self._engine = self._made(policy, tokenizer, mode)
        if not is_held(self._held, policy, self.version):
            self._hand_over(self._engine, policy)
        expect_context(prompts, sampling, self._engine.context)
        eos = eos_ids(bare_model(policy), tokenizer)
        wanted = [sampling_params(sampling, seed=seed, count=group_size, eos=eos) for seed in seeds]
        with self._awake(self._engine):
            answers = self._engine.generate(prompts.tokens, wanted, self._adapter)
        return assemble(
            answers,
            prompts,
            tokenizer,
            group_size=group_size,
            sampling=sampling,
            mode=mode,
            eos=eos,
            device=next(policy.parameters()).device,
            version=self.version,
            label=self._engine.label,
        )

    def close(self) -> None:
        """Free the engine's memory; a later rollout makes a new one."""
        if self._engine is not None:
            self._engine.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._engine = self._folder = self._held = self._adapter = None

    def _made(self, policy: nn.Module, tokenizer: Any, mode: LogprobsMode) -> Engine:
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        self._folder = tempfile.TemporaryDirectory(prefix="lightning_focal_vllm_")
        folder = Path(self._folder.name) / "model"
        folder.mkdir()
        write_description(policy, tokenizer, folder)
        dtype = resolved_dtype(self.dtype, "cpu" if cpu else "cuda")
        dtype = dtype or str(next(p.dtype for p in policy.parameters() if p.is_floating_point())).removeprefix("torch.")
        options: dict[str, Any] = {
            "dtype": dtype,
            "load_format": "dummy",  # the weights come by `load`
            "skip_tokenizer_init": True,
            "logprobs_mode": mode,
            "max_model_len": self.max_model_len,
            "enforce_eager": cpu if self.enforce_eager is None else self.enforce_eager,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_sleep_mode": self.sleeps,
        }
        if cpu:
            options["enable_chunked_prefill"] = False  # a seeded request whose prompt is split ends vLLM on a CPU
        gigabytes = self.kv_cache_gb or (1.0 if cpu else None)
        if gigabytes is not None:
            options["kv_cache_memory_bytes"] = math.ceil(gigabytes * 2**30)
        if self.lora == "adapter":
            rank = _adapter_rank(policy)
            options |= {"load_format": "auto", "enable_lora": True, "max_lora_rank": next(r for r in _RANKS if r >= rank)}
            with policy.disable_adapter():  # type: ignore[operator]
                write_weights(policy, folder)
        return Engine(folder, options | self.engine_options)

    def _hand_over(self, engine: Engine, policy: nn.Module) -> None:
        number = next(self._syncs)
        label = f"{self._run}/{number}/{self.version}"
        with self._awake(engine):
            if self.lora == "adapter":
                self._adapter = self._written_adapter(policy, number + 1)
                engine.mark(label)
            else:
                engine.load(hub_weights(policy), label)
        self._held = (policy, stamp(policy))

    def _written_adapter(self, policy: nn.Module, number: int) -> Any:
        from vllm.lora.request import LoRARequest

        _adapter_rank(policy)
        folder = Path(str(self._folder and self._folder.name)) / f"adapter-{number}"
        policy.save_pretrained(folder)  # type: ignore[operator]
        return LoRARequest(lora_name=folder.name, lora_int_id=number, lora_path=str(folder))

    @contextmanager
    def _awake(self, engine: Engine) -> Iterator[None]:
        if not self.sleeps:
            yield
            return
        torch.cuda.empty_cache()  # what the trainer's allocator holds back is needed now
        engine.wake()
        try:
            yield
        finally:
            engine.sleep()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_engine": None, "_held": None, "_adapter": None, "_folder": None}


def _adapter_rank(policy: nn.Module) -> int:
    if not hasattr(policy, "peft_config"):
        raise ValueError("`lora: adapter` needs a policy with adapters (`model.lora`), got one without")
    if is_sharded(policy):
        raise ValueError("`lora: adapter` cannot hand over sharded adapters: use `lora: merged`")
    return max(int(config.r) for config in policy.peft_config.values())  # type: ignore[operator]
