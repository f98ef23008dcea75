"""Seconds by phase."""

import time

import pytest

from lightning_focal.modules.phases import Phases


def test_a_phase_within_another_counts_for_itself_alone():
    phases = Phases()
    phases.start()
    with phases("outer"):
        time.sleep(0.02)
        with phases("inner"):
            time.sleep(0.05)
        with phases("inner"):
            time.sleep(0.01)
    seconds = phases.seconds()
    assert seconds["inner"] >= 0.06
    assert 0.02 <= seconds["outer"] < 0.05
    assert seconds["step"] >= seconds["inner"] + seconds["outer"]


def test_an_error_ends_a_phase():
    phases = Phases()
    with pytest.raises(KeyError), phases("outer"), phases("inner"):
        raise KeyError
    with phases("outer"):
        pass
    assert phases.seconds()["outer"] >= 0


def test_a_new_step_starts_from_nothing():
    phases = Phases()
    with phases("generate"):
        pass
    phases.start()
    assert list(phases.seconds()) == ["step"]
