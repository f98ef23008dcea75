"""The server of the benchmarks that misbehaves on purpose, for tests."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "benchmarks" / "faulty_server.py"
_spec = importlib.util.spec_from_file_location("benchmark_faulty_server", PATH)
server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(server)

FAULTS, HARMLESS, AT_ONCE = server.FAULTS, server.HARMLESS, server.AT_ONCE
asked, completion, entries, http = server.asked, server.completion, server.entries, server.http
serving, truth, verdicts = server.serving, server.truth, server.verdicts
