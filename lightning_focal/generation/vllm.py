"""Rollouts by vLLM in the trainer's process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lightning_focal.foreign import load_vllm_weights
from lightning_focal.generation.base import Sampling
from lightning_focal.generation.vllm_engine import Engine, import_vllm, unnoticed
from lightning_focal.generation.vllm_requests import Answer, VLLMBase, best_mode, expect_comparable
from lightning_focal.models.export import hub_weights, write_description, write_weights
from lightning_focal.models.weights import is_sharded
from lightning_focal.precision import expect_dtype, resolved_dtype

__all__ = ["VLLMGenerator"]

_OWN = {"model", "tokenizer", "dtype", "max_model_len", "load_format", "enable_lora", "max_lora_rank", "logprobs_mode", "seed"}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VLLMGenerator(VLLMBase):
    """Decodes with a vLLM engine (arXiv:2309.06180) that lives in the trainer's process, on its device.

    With several processes each has an engine of its own, for its own prompts. The engine is made at the first rollout. After every
    update it takes over the policy's weights in place and empties its prefix cache. Every answer names the weights that wrote it;
    one with other weights than the last :meth:`sync`'s is an error.

    Response ``g`` of a prompt is drawn with the prompt's seed plus ``g``: the same seeds give the same responses, beyond rounding
    that depends on what else is in the batch. They are not those of :class:`HFGenerator`, which draws otherwise. ``logp`` is vLLM's
    own, and None where vLLM reports another distribution than a trainer computes (temperature other than 1 together with ``top_k``,
    ``top_p`` or ``min_new_tokens``).

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
        super().__init__()
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
        self._mode: str | None = None
        self._engine: Engine | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._adapter: Any = None

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
            self._mode = best_mode(sampling)  # training's, whatever is rolled out first

    def sync(self, policy: nn.Module, version: int) -> None:
        """Hand over the weights, if there is an engine; a collective when the policy is sharded.

        Raises:
            ValueError: for ``lora: adapter`` and a policy without adapters, or a sharded one.
            RuntimeError: if vLLM's model does not take them.
        """
        self.version, self._held = version, None
        if self._engine is not None:
            self._renew(policy)

    def close(self) -> None:
        """Free the engine's memory; a later rollout makes a new one."""
        if self._engine is not None:
            self._engine.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._engine = self._folder = self._held = self._adapter = None

    def _connect(self, policy: nn.Module, tokenizer: Any, sampling: Sampling) -> tuple[int, str]:
        mode = self._mode = self._mode or best_mode(sampling)
        if self._engine is None:
            self._folder = tempfile.TemporaryDirectory(prefix="lightning_focal_vllm_")
            self._engine = self._made(policy, tokenizer, Path(self._folder.name) / "model", mode)
        return int(self._engine.llm.model_config.max_model_len), mode

    def _made(self, policy: nn.Module, tokenizer: Any, folder: Path, mode: str) -> Engine:
        import_vllm()
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        folder.mkdir()
        write_description(policy, tokenizer, folder)
        own = str(next(p.dtype for p in policy.parameters() if p.is_floating_point())).removeprefix("torch.")
        options: dict[str, Any] = {
            "dtype": resolved_dtype(self.dtype, "cpu" if cpu else "cuda") or own,
            "load_format": "dummy",  # the weights are handed over later
            "skip_tokenizer_init": True,
            "logprobs_mode": mode,
            "max_model_len": self.max_model_len,
            "enforce_eager": cpu if self.enforce_eager is None else self.enforce_eager,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_sleep_mode": self.sleeps,
        }
        if cpu:
            options["enable_chunked_prefill"] = False  # a seeded request whose prompt is split ends vLLM on a CPU
        else:
            options["device_ids"] = [torch.cuda.current_device()]  # else every process's engine would take the first GPU
        if cpu or self.kv_cache_gb is not None:
            options["kv_cache_memory_bytes"] = math.ceil((self.kv_cache_gb or 1.0) * 2**30)
        if self.lora == "adapter":
            rank = _adapter_rank(policy)
            options |= {"load_format": "auto", "enable_lora": True, "max_lora_rank": next(r for r in _RANKS if r >= rank)}
            with policy.disable_adapter():  # type: ignore[operator]
                write_weights(policy, folder)
        return Engine(folder, options | self.engine_options)

    @contextmanager
    def _awake(self) -> Iterator[Any]:
        llm = self._engine.llm  # type: ignore[union-attr]
        with unnoticed():
            if self.sleeps:
                torch.cuda.empty_cache()  # what the trainer's allocator holds back is needed now
                llm.wake_up()
            try:
                yield llm
            finally:
                if self.sleeps:
                    llm.sleep(level=1)

    def _hand_over(self, policy: nn.Module, label: str) -> str:
        with self._awake() as llm:
            llm.update_weight_version(f"loading {label}")
            if self.lora == "adapter":
                from vllm.lora.request import LoRARequest

                _adapter_rank(policy)
                folder = f"{self._folder.name}/adapter-{self._syncs}"  # type: ignore[union-attr]
                policy.save_pretrained(folder)  # type: ignore[operator]
                self._adapter = LoRARequest(lora_name=f"adapter-{self._syncs}", lora_int_id=self._syncs, lora_path=folder)
            else:
                weights = hub_weights(policy)
                try:
                    missing = load_vllm_weights(llm, weights)
                finally:
                    for _ in weights:  # a gather of shards hangs the other processes if it stops half-way
                        pass
                if missing:
                    raise RuntimeError(f"vLLM's model and the policy do not match: no values for {', '.join(sorted(missing))}")
            if not llm.reset_prefix_cache():
                raise RuntimeError("vLLM did not empty its prefix cache: it holds values of the old weights")
            llm.update_weight_version(label)
        return label

    def _arithmetic(self) -> tuple[torch.dtype, str | None]:
        config = self._engine.llm.model_config  # type: ignore[union-attr]
        return config.dtype, config.quantization

    def _ask(self, rows: Sequence[Sequence[int]], params: Sequence[dict[str, Any]], *_: Any) -> list[tuple[str, list[Answer]]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        wanted = [SamplingParams(**given, output_kind=RequestOutputKind.FINAL_ONLY) for given in params]
        with self._awake() as llm:
            prompts = [{"prompt_token_ids": list(row)} for row in rows]
            outputs = llm.generate(prompts, wanted, use_tqdm=False, lora_request=self._adapter)
        return [("vLLM", [_answer(choice) for choice in sorted(output.outputs, key=lambda c: c.index)]) for output in outputs]


def _answer(choice: Any) -> Answer:
    tokens = tuple(choice.token_ids)
    return Answer(
        tokens=tokens,
        logp=tuple(step[token].logprob for step, token in zip(choice.logprobs, tokens, strict=True)),
        labels=tuple(dict.fromkeys(span.version for span in choice.weight_versions or ())),
        finished=str(choice.finish_reason),
    )


def _adapter_rank(policy: nn.Module) -> int:
    if not hasattr(policy, "peft_config"):
        raise ValueError("`lora: adapter` needs a policy with adapters (`model.lora`), got one without")
    if is_sharded(policy):
        raise ValueError("`lora: adapter` cannot hand over sharded adapters: use `lora: merged`")
    return max(int(config.r) for config in policy.peft_config.values())  # type: ignore[operator]
