"""What tests of whole runs look at."""

import copy

import pytest

from lightning_focal.modules import GRPOModule


@pytest.fixture
def learned(monkeypatch):
    """The policy before each update, and the rows of it."""
    calls, plain = [], GRPOModule._with_logp

    def spy(module, rows):
        calls.append((copy.deepcopy(module.policy), rows))
        return plain(module, rows)

    monkeypatch.setattr(GRPOModule, "_with_logp", spy)
    return calls
