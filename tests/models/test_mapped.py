"""Frozen weights in a file."""

import mmap
import re
from pathlib import Path

import pytest
import torch

from lightning_focal.models import MappedWeights, load_policy, response_logp


def resident_file_bytes():
    """Of this process, in pages of files."""
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


@pytest.fixture
def model():
    return load_policy("random:tiny-llama?hidden=32&layers=2&seed=3&std=0.2")[0].eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_computes_the_same(model, dtype):
    model.to(dtype)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits.clone()
    mapped = MappedWeights(model)
    for _ in range(2):
        with mapped.lent("cpu"):
            assert model(input_ids=ids).logits.equal(before)


def test_tied_weights_stay_tied():
    model, _ = load_policy("random:tiny-llama?hidden=32&layers=1")
    model.lm_head.weight = model.model.embed_tokens.weight
    before = model.lm_head.weight.detach().clone()
    mapped = MappedWeights(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with mapped.lent("cpu"):
        assert model.lm_head.weight.equal(before)


def test_serves_packed_rows(model):
    prompt, response = torch.tensor([[5, 6]]), torch.tensor([[7, 8, 9]])
    given = (prompt, prompt > 0, response, response > 0)
    with torch.no_grad():
        expected = response_logp(model, *given)
        mapped = MappedWeights(model)
        with mapped.lent("cpu"):
            assert response_logp(model, *given).equal(expected)


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system takes no pages back")
def test_takes_no_memory_between_two_passes():
    layer = torch.nn.Linear(4096, 2048, bias=False)
    size = layer.weight.numel() * 4
    mapped = MappedWeights(layer)
    idle = resident_file_bytes()
    with mapped.lent("cpu"):
        total = float(layer.weight.sum())
        assert resident_file_bytes() > idle + 0.9 * size
    assert resident_file_bytes() < idle + 0.1 * size
    with mapped.lent("cpu"):
        assert float(layer.weight.sum()) == total


def test_leaves_no_file_behind(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mapped = MappedWeights(model)
    assert not list(tmp_path.iterdir())
    with mapped.lent("cpu"):
        assert model.lm_head.weight.isfinite().all()


def test_an_error_in_the_context_gives_the_pages_back(model):
    mapped = MappedWeights(model)
    stored = {p.data_ptr() for p in model.parameters()}
    with pytest.raises(KeyError), mapped.lent("cpu"):
        raise KeyError
    assert {p.data_ptr() for p in model.parameters()} == stored


def test_refuses_weights_without_values(model):
    with torch.device("meta"):
        empty = torch.nn.Linear(2, 2)
    for bad in (empty, torch.nn.ReLU()):
        with pytest.raises(ValueError, match="whole and with its values"):
            MappedWeights(bad)


def test_too_little_room_is_said_before_anything_is_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(OSError, match=r"has 10 free; name another folder in TMPDIR"):
        MappedWeights(model)
