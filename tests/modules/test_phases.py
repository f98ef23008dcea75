"""Seconds by phase."""

from types import SimpleNamespace

import pytest

from lightning_focal.modules import phases as module
from lightning_focal.modules.phases import Phases


def test_a_phase_within_another_counts_for_itself_alone(monkeypatch):
    clock = iter([0, 1, 10, 12, 17, 18, 19, 21, 30])  # made, started; outer from 10 to 21, inner from 12 to 17 and from 18 to 19
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    phases = Phases()
    phases.start()
    with phases("outer"):
        with phases("inner"):
            pass
        with phases("inner"):
            pass
    assert phases.seconds() == {"inner": 6, "outer": 5, "step": 29}


def test_an_error_ends_a_phase_and_a_new_step_starts_from_nothing():
    phases = Phases()
    with pytest.raises(KeyError), phases("outer"), phases("inner"):
        raise KeyError
    with phases("outer"):
        pass
    assert phases.seconds()["outer"] >= 0
    phases.start()
    assert list(phases.seconds()) == ["step"]
