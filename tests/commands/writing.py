"""What the tests of commands that have a model write share."""

import json

from lightning_focal.terminal import plain_errors


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def server_of(fake, *extra):
    return ("--server", fake.url, "--model", "tiny", "--timeout", "5", "--deadline", "20", *extra)


def caller(command, given, capsys, source, out):
    """Return a function that runs a command and tells its exit status, what it printed and what it said of errors."""

    def call(*extra, source=source, out=out):
        status = 0
        try:
            with plain_errors():
                command([*given, str(source), "--out", str(out), *map(str, extra)])
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return call
