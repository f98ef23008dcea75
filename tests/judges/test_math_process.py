"""The process that compares formulas: it starts by itself, survives whatever happens to it, and never outlives its parent."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_focal.judges import math_process
from lightning_focal.judges.math_process import Comparison, compare_texts, stop_process
from lightning_focal.judges.math_worker import _Comparer, clearly_differ

TWO, ROOT_FOUR, BOMB = r"\boxed{2}", r"\boxed{\sqrt{4}}", r"\boxed{9999999999!}"

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


def equal():
    return compare_texts(TWO, ROOT_FOUR, 5.0, both=True).comparison is Comparison.EQUAL


def pid():
    assert equal()
    return math_process._process.popen.pid


def gone(pid):
    """True when the process is no more, or a zombie that waits for whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pid, seconds=30):
    until = time.monotonic() + seconds
    while not gone(pid):
        assert time.monotonic() < until, f"process {pid} still runs"
        time.sleep(0.05)


def test_one_process_serves_all_and_leaves_nothing():
    first = pid()
    assert pid() == first
    stop_process()
    assert not Path(f"/proc/{first}").exists()  # not even a zombie
    assert math_process._process is None
    stop_process()
    assert pid() != first


def test_one_way_and_both_ways():
    one, equation = r"\boxed{1}", r"\boxed{2x+z=1}"
    assert compare_texts(one, equation, 5.0, both=False).comparison is Comparison.EQUAL  # as math-verify grades
    assert compare_texts(equation, one, 5.0, both=False).comparison is Comparison.DIFFERENT
    assert compare_texts(one, equation, 5.0, both=True).comparison is Comparison.DIFFERENT
    assert compare_texts(equation, one, 5.0, both=True).comparison is Comparison.DIFFERENT


def test_what_was_read_is_shown_one_way():
    reply = compare_texts(TWO, "I say 2, no: 41", 5.0, both=False)
    assert (reply.comparison, reply.shown) == (Comparison.DIFFERENT, "41")
    reply = compare_texts(TWO, "none", 5.0, both=False)
    assert (reply.comparison, reply.unread, reply.error) == (Comparison.UNDECIDED, "given", "nothing to read")
    assert compare_texts("none", TWO, 5.0, both=False).unread == "gold"


def test_a_killed_process_is_replaced():
    first = pid()
    os.kill(first, signal.SIGKILL)
    wait_until_gone(first)
    assert pid() != first


def test_a_process_killed_at_work_is_asked_once_more(monkeypatch):
    first = pid()
    send = math_process._Process.send

    def send_and_kill(self, request):
        if self.popen.pid == first:
            os.kill(first, signal.SIGSTOP)  # so that it cannot have answered before
        send(self, request)
        if self.popen.pid == first:
            os.kill(first, signal.SIGKILL)

    monkeypatch.setattr(math_process._Process, "send", send_and_kill)
    assert pid() != first


def test_a_process_that_dies_of_the_question_leaves_it_undecided(monkeypatch, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("print('{\"ready\": true}', flush=True)\ninput()\nraise SystemExit(3)\n")
    stop_process()
    monkeypatch.setattr(math_process, "_SCRIPT", script)
    reply = compare_texts(TWO, ROOT_FOUR, 5.0, both=True)
    assert (reply.comparison, reply.error) == (Comparison.UNDECIDED, "the process died 2 times")
    monkeypatch.undo()
    assert equal()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(3)", "it ended with status 3"),
        ('print(\'{"failed": "ModuleNotFoundError: No module named math_verify"}\')', "No module named math_verify"),
        ("import time; time.sleep(60)", "no word from it in 0.5 s"),
    ],
)
def test_a_process_that_does_not_start_is_an_error_in_words(monkeypatch, tmp_path, code, why):
    script = tmp_path / "broken.py"
    script.write_text(code)
    stop_process()
    monkeypatch.setattr(math_process, "_SCRIPT", script)
    monkeypatch.setattr(math_process, "_START_SECONDS", 0.5 if "sleep" in code else 60.0)
    with pytest.raises(RuntimeError, match=f"the process that compares formulas did not start .*{why}"):
        compare_texts(TWO, ROOT_FOUR, 5.0, both=True)
    monkeypatch.undo()
    assert equal()


def test_the_wall_clock_is_limited_too(monkeypatch, tmp_path):
    script = tmp_path / "sleeps.py"  # uses no CPU time
    script.write_text(
        "import time\nprint('{\"ready\": true}', flush=True)\nprint('{\"read\": true}', flush=True)\ntime.sleep(600)\n"
    )
    stop_process()
    monkeypatch.setattr(math_process, "_SCRIPT", script)
    monkeypatch.setattr(math_process, "_WALL_FACTOR", 1.0)
    start = time.monotonic()
    reply = compare_texts(TWO, ROOT_FOUR, 0.1, both=True)
    assert (reply.comparison, reply.unread) == (Comparison.CUT_OFF, "given")
    assert time.monotonic() - start < 60
    monkeypatch.undo()
    assert equal()


def test_an_interrupted_question_spoils_no_answer(monkeypatch):
    first = pid()

    def interrupt(self, until):
        raise KeyboardInterrupt

    monkeypatch.setattr(math_process._Process, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare_texts(TWO, r"\boxed{3}", 5.0, both=True)
    monkeypatch.undo()
    assert gone(first)
    assert equal()


def test_memory_is_limited_and_running_out_of_it_ends_the_process(monkeypatch):
    limits = Path(f"/proc/{pid()}/limits").read_text()
    assert next(line for line in limits.splitlines() if "address space" in line).split()[3] == str(1 << 30)

    comparer = _Comparer()
    assert comparer.compare(TWO, ROOT_FOUR, True)["outcome"] == "equal"

    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(comparer._package, "verify", full)
    assert comparer.compare(r"\boxed{x}", r"\boxed{y}", True) == {"outcome": "undecided", "error": "MemoryError"}


def test_the_process_does_without_torch():
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", str(math_process._SCRIPT)], input=b"", capture_output=True, check=True
    )
    assert b'{"ready": true}' in done.stdout
    assert b"math_verify" in done.stderr
    assert b"torch" not in done.stderr
    assert b"lightning_focal.judges" not in done.stderr


def test_what_libraries_print_is_no_answer(monkeypatch, tmp_path):
    script = tmp_path / "chatty.py"
    source = Path(math_process._SCRIPT).read_text()
    script.write_text(
        source.replace("        self._package = math_verify", "        print('hello')\n        self._package = math_verify")
    )
    assert "hello" in script.read_text()
    stop_process()
    monkeypatch.setattr(math_process, "_SCRIPT", script)
    assert equal()
    stop_process()


def test_a_forked_process_starts_its_own():
    first = pid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # no return from here
        try:
            before = math_process._process is None
            os.write(writing, f"{before} {pid()}".encode())
            stop_process()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    before, second = os.read(reading, 100).decode().split()
    os.close(reading)
    os.close(writing)
    assert before == "True"
    assert int(second) != first
    assert gone(int(second))
    assert not gone(first)
    assert pid() == first


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_its_parent_however_that_ends(busy):
    code = f"""
import threading, time
from lightning_focal.judges import math_process
math_process.compare_texts({TWO!r}, {ROOT_FOUR!r}, 5.0, both=True)
if {busy}:
    threading.Thread(target=math_process.compare_texts, args=({TWO!r}, {BOMB!r}, 3.0, True), daemon=True).start()
    time.sleep(0.5)
print(math_process._process.popen.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    worker = int(parent.stdout.readline())
    assert not gone(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until_gone(worker, seconds=60)


FORMULAS = [
    *("x", "2x", "x+1", "1+x", "(x+1)^2", "x^2+2x+1", r"\frac{x+1}{x}", r"1+\frac1x", r"\sqrt{2}", r"\frac{2}{\sqrt2}", r"2\sqrt2"),
    *(r"\pi", "3.141593", "e", "2.718282", r"\sin 2x", r"2\sin x\cos x", r"\log 8", r"3\log 2", r"50\%", "0.5", "50", "Monday", "yes"),
    *("f(x)", "f(x)+1", "x_1+x_2", "1+i", r"\sqrt{-1}", r"\infty", "|x|", r"\sqrt{x^2}", "5!", "120", "x=5", "1<x<2", "(1,2)", "xy", "yx"),
    *("0.333333x", r"\frac{x}{3}", r"\begin{pmatrix}1\\2\end{pmatrix}", r"\log(xy)", r"\log x+\log y", r"\frac{1}{x-1}"),
]  # fmt: skip


@pytest.mark.slow  # math-verify simplifies some hundred differences
def test_what_clearly_differs_is_different_to_math_verify():
    import math_verify

    comparer = _Comparer()
    found = [comparer.read(f"\\boxed{{{formula}}}", True)[0][0] for formula in FORMULAS]
    decided = 0
    for i, (a, b) in enumerate(itertools.combinations(found, 2)):
        if i % 3 == 0 and clearly_differ(a, b):
            decided += 1
            assert not math_verify.verify(a, b, allow_set_relation_comp=True, timeout_seconds=None), (a, b)
    assert decided > 100
