import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_focal.environments.tool_process import Result, ToolProcess


def echo(text: str) -> str:
    return text


def meet(folder: str, me: str, other: str) -> str:
    """Wait for another call."""
    Path(folder, me).touch()
    while not Path(folder, other).exists():
        time.sleep(0.01)
    return me


def ends_all() -> str:
    os.kill(os.getppid(), signal.SIGKILL)
    return "survived"


def sleeps() -> str:
    time.sleep(60)
    return "awake"


@pytest.fixture
def process():
    made = ToolProcess([echo, meet, ends_all, sleeps])
    yield made
    made.close()


def test_calls_run_side_by_side_and_answer_in_their_order(process, tmp_path):
    calls = [(1, {"folder": str(tmp_path), "me": me, "other": other}) for me, other in (("a", "b"), ("b", "a"))]
    echoes = [(0, {"text": str(i)}) for i in range(40)]
    assert process.run([*calls, *echoes], 20, 100) == [
        Result("value", text, len(text)) for text in ("a", "b", *map(str, range(40)))
    ]
    assert process.run([], 20, 100) == []


def test_a_call_that_ends_the_process_costs_no_other_its_answer(process):
    found = process.run([(0, {"text": "a"}), (2, {}), (0, {"text": "b"})], 20, 100)
    assert [result.kind for result in found] == ["value", "error", "value"]
    assert found[1].text == "the tool ended its process"


def test_a_late_call_holds_up_no_other(process):
    assert process.run([(0, {"text": "warm"})], 20, 100) == [Result("value", "warm", 4)]
    found = process.run([(3, {}), *[(0, {"text": "a"})] * 8], 3, 100)
    assert [result.kind for result in found] == ["late", *["value"] * 8]


def test_shipped_tools_run_without_torch():
    """A fork of a small process takes little time."""
    code = "import sys; import lightning_focal.environments, lightning_focal.environments.tool_process; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
