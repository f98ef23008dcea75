"""Functions that the tests name by import path."""

from __future__ import annotations

import numpy as np


def has_lines(messages, response, lines):
    return len(response.splitlines()) >= lines


def constant(messages, response, value=None):
    return value


def numpy_bool(messages, response):
    return np.bool_(True)


def numpy_float(messages, response):
    return np.float32(0.5)


def raises(messages, response):
    raise KeyError("no such thing")
