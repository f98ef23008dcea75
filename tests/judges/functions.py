"""Functions that the tests name by import path."""


def has_lines(messages, response, lines):
    return len(response.splitlines()) >= lines


def constant(messages, response, value=None):
    return value


def raises(messages, response):
    raise KeyError("no such thing")
