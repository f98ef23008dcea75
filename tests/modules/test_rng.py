# ruff: noqa: NPY002 - the global generators are what is under test
import io
import random

import numpy as np
import torch

from lightning_focal.modules.rng import rng_state, set_rng_state


def draws():
    return [torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(), [random.random(), random.gauss(0, 1)]]


def test_round_trip_through_a_safe_file():
    random.gauss(0, 1)  # leaves a second draw behind, which is part of the state
    np.random.randn()
    state = rng_state()
    expected = draws()
    file = io.BytesIO()
    torch.save(state, file)
    draws()
    file.seek(0)
    set_rng_state(torch.load(file, weights_only=True))
    assert draws() == expected


def test_state_is_a_copy():
    state = rng_state()
    before = state["torch"].clone(), state["numpy"][1].clone(), list(state["python"][1])
    draws()
    torch.rand(5000)
    np.random.rand(5000)
    assert state["torch"].equal(before[0])
    assert state["numpy"][1].equal(before[1])
    assert state["python"][1] == before[2]


def test_states_of_other_devices_are_left_alone():
    state = rng_state()
    state["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * (torch.cuda.device_count() + 1)
    set_rng_state(state)
