"""Which precision a device is quick at, asked of the device itself."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch

from lightning_focal.functional.choices import expect_choice

__all__ = ["describe_device", "expect_dtype", "quick_at_bfloat16", "resolved_dtype", "resolved_precision", "warn_if_slow"]

_log = logging.getLogger(__name__)
_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""What a processor with bfloat16 products of its own calls them. They may still be slower than those in float32."""
_QUICK = 0.8
"""Share of the time in float32 that a product may take to be called quick. An Intel Xeon with ``avx512_bf16`` and no AMX took 2.0."""


def quick_at_bfloat16(device: torch.device | str) -> bool:
    """Say whether products in bfloat16 are quicker on ``device`` than those in float32.

    True for GPUs that have the type, and for processors with ``avx512_bf16`` or AMX on which a product was measured to be quicker, as
    long as nothing caps what torch and oneDNN may use of them (``ATEN_CPU_CAPABILITY``, ``ONEDNN_MAX_CPU_ISA``). Elsewhere they are
    emulated, four to forty times slower; some processors that have them take twice as long as in float32.

    Args:
        device: or its type.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and bool(_flags()) and _uncapped() and _slowdown(torch.bfloat16) < _QUICK


def _uncapped() -> bool:
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT")).upper()
    known = allowed in ("DEFAULT", "ALL") or any(word in allowed for word in ("BF16", "AMX", "FP16", "AVX10"))
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and known


@functools.cache
def _flags() -> tuple[str, ...]:
    ask: Any = getattr(torch.cpu, "get_capabilities", None)  # not in older releases of torch
    if ask is not None:
        found = ask()
        return tuple(name for name in _BFLOAT16 if found.get(name))
    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8", errors="replace").split()) if info.exists() else set()
    return tuple(name for name in _BFLOAT16 if name in words)


def describe_device(device: torch.device | str) -> str:
    """Name a device and what decides about its precision.

    >>> describe_device("cpu").startswith("CPU with ")
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, bfloat16 {'' if quick_at_bfloat16(device) else 'not '}supported"
    if device.type != "cpu":
        return device.type
    has = "no quick bfloat16"
    if _flags() and _uncapped():
        slow = "" if quick_at_bfloat16(device) else f" that takes {_slowdown(torch.bfloat16):.1f} times as long as float32"
        has = f"{' and '.join(_flags())}{slow}"
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}, {has}, {torch.get_num_threads()} threads"


def expect_dtype(key: str, value: str | None, *, auto: bool = True) -> None:
    """Check the name of a precision.

    Raises:
        ValueError: naming ``key``, what it takes and what came.

    >>> expect_dtype("dtype", "int8")
    Traceback (most recent call last):
    ...
    ValueError: `dtype` must be null, 'auto', 'bfloat16', 'float16' or 'float32', got 'int8'
    """
    expect_choice(key, value, (None, *["auto"] * auto, "bfloat16", "float16", "float32"))


def resolved_dtype(name: str | None, device: torch.device | str) -> str | None:
    """Return the precision that ``auto`` stands for on a device: bfloat16 where it is quick, else float32; others as they are.

    >>> resolved_dtype("float16", "cpu"), resolved_dtype(None, "cpu"), resolved_dtype("auto", "meta")
    ('float16', None, 'float32')
    """
    if name != "auto":
        return name
    return "bfloat16" if quick_at_bfloat16(device) else "float32"


def resolved_precision(name: Any, accelerator: Any = "auto") -> Any:
    """Return Lightning's precision that ``auto`` stands for: ``bf16-mixed`` where bfloat16 is quick, else ``32-true``.

    Args:
        name: what `trainer.precision` says; anything but ``auto`` is returned as it is.
        accelerator: what `trainer.accelerator` says.

    >>> resolved_precision("64-true")
    '64-true'
    """
    if name != "auto":
        return name
    return "bf16-mixed" if quick_at_bfloat16(_device(accelerator)) else "32-true"


def _device(accelerator: Any) -> str:
    word = accelerator.lower() if isinstance(accelerator, str) else type(accelerator).__name__.lower()
    if word.startswith(("gpu", "cuda", "auto")) and torch.cuda.is_available():
        return "cuda"
    return "mps" if word.startswith(("gpu", "mps", "auto")) and torch.backends.mps.is_available() else "cpu"


def warn_if_slow(key: str, value: str, dtype: str, device: torch.device | str) -> None:
    """Say once how much slower than float32 a precision is that a configuration asks for, where this processor emulates it.

    Args:
        key: what asks for it.
        value: what it says.
        dtype: of the arithmetic that follows.
        device: that computes.
    """
    if torch.device(device).type == "cpu" and dtype != "float32" and not (dtype == "bfloat16" and quick_at_bfloat16(device)):
        _warn(key, value, dtype)


@functools.cache
def _warn(key: str, value: str, dtype: str) -> None:
    times = _slowdown(getattr(torch, dtype))
    if times > 1:
        _log.warning(
            "`%s` is %s: products take %.1f times as long as in float32 on this processor; `auto` chooses what it is quick at",
            *(key, value, times),
        )


@functools.cache
def _slowdown(dtype: torch.dtype) -> float:
    """Measure how many times as long a product takes in ``dtype`` as in float32 on this processor; the best of some, in 50 ms or so."""
    seconds = {}
    for kind in (torch.float32, dtype):
        left, clock = torch.ones(512, 512, dtype=kind), [time.perf_counter()]
        while len(clock) < 5 or clock[-1] - clock[0] < 0.02:
            left @ left.t()
            clock.append(time.perf_counter())
        seconds[kind] = min(after - before for before, after in itertools.pairwise(clock))
    return seconds[dtype] / seconds[torch.float32]
