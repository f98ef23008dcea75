"""What the tests of commands that have a model write share."""

import json


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def server_of(fake, *extra):
    return ("--server", fake.url, "--model", "tiny", "--timeout", "5", "--deadline", "20", *extra)
