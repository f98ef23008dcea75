import sys

import pytest
from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging as bars

from lightning_focal.models import load_policy
from lightning_focal.models.pypi import no_bars


@pytest.fixture(autouse=True)
def shown():
    before = bars.is_progress_bar_enabled()
    bars.enable_progress_bar()
    yield
    if not before:
        bars.disable_progress_bar()


def test_bars_are_back_afterwards_also_after_an_error():
    tqdm, within = gguf.tqdm, []

    def work():
        within.append((bars.is_progress_bar_enabled(), list(gguf.tqdm([1, 2], desc="Converting"))))
        raise KeyError("x")

    with pytest.raises(KeyError), no_bars():
        work()
    assert within == [(False, [1, 2])]
    assert bars.is_progress_bar_enabled()
    assert gguf.tqdm is tqdm


@pytest.mark.parametrize("terminal", [True, False])
def test_loading_is_shown_on_terminals_alone(monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with no_bars(on_terminals=False):
        assert bars.is_progress_bar_enabled() is terminal


def test_a_folder_loads_without_a_bar(tmp_path, capfd):
    for part in load_policy("random:tiny-llama?hidden=32&layers=1"):
        part.save_pretrained(tmp_path)
    load_policy(tmp_path)
    assert "Loading weights" not in capfd.readouterr().err
