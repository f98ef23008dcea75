"""The process that compares formulas: it starts by itself, survives whatever happens to it, and never outlives its parent."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lightning_focal.judges import math_process
from lightning_focal.judges.math_process import Comparison, compare_texts, stop_process
from lightning_focal.judges.math_worker import compare, decide, read

TWO, ROOT_FOUR, BOMB = r"\boxed{2}", r"\boxed{\sqrt{4}}", r"\boxed{9999999999!}"
HEALTHY = "pipe.send('')\nwhile pipe.recv():\n    pipe.send({'comparison': 'equal'})"

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


def equal():
    return compare_texts(TWO, ROOT_FOUR, 5.0).comparison is Comparison.EQUAL


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


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Let a script take the place of the worker that starts next, ``pipe`` its end: at once, where math-verify takes a second."""
    script, start = tmp_path / "worker.py", "import sys, time\nfrom multiprocessing.connection import Connection\n"
    stop_process()
    monkeypatch.setattr(math_process, "_SCRIPT", script)
    yield lambda code: script.write_text(f"{start}pipe = Connection(int(sys.argv[1]))\n{code}\n")
    stop_process()


def test_one_process_serves_all_is_replaced_where_it_goes_and_leaves_nothing(stand_in, monkeypatch):
    stand_in(HEALTHY)
    first = pid()
    assert pid() == first
    stop_process()
    assert not Path(f"/proc/{first}").exists()  # not even a zombie
    assert math_process._process is None
    stop_process()
    os.kill(second := pid(), signal.SIGKILL)
    wait_until_gone(second)
    os.kill(third := pid(), signal.SIGSTOP)  # so that it cannot answer before: asked once more if at work
    threading.Timer(0.5, os.kill, (third, signal.SIGKILL)).start()
    fourth = pid()
    assert len({first, second, third, fourth}) == 4

    def interrupt(timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr(math_process._process.pipe, "poll", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare_texts(TWO, r"\boxed{3}", 5.0)
    assert gone(fourth)
    assert equal()


def test_either_of_two_formulas_may_be_the_gold_one():
    one, equation = r"\boxed{1}", r"\boxed{2x+z=1}"
    for gold, given in ((equation, one), (one, equation)):
        assert compare_texts(gold, given, 5.0).comparison is Comparison.DIFFERENT
    reply = compare_texts(TWO, "none", 5.0)
    assert (reply.comparison, reply.unread, reply.error) == (Comparison.UNDECIDED, "given", "nothing to read")
    assert compare_texts("none", TWO, 5.0).unread == "gold"


@pytest.mark.parametrize(("code", "why"), [
    ("raise SystemExit(3)", "it ended with status 3"),
    ("pipe.send('ModuleNotFoundError: No module named math_verify')", "No module named math_verify"),
    ("time.sleep(60)", "no word from it in 0.5 s"),
])  # fmt: skip
def test_a_process_that_does_not_start_is_an_error_in_words(stand_in, monkeypatch, code, why):
    stand_in(code)
    monkeypatch.setattr(math_process, "_START_SECONDS", 0.5 if "sleep" in code else 60.0)
    with pytest.raises(RuntimeError, match=f"the process that compares formulas did not start .*{why}"):
        compare_texts(TWO, ROOT_FOUR, 5.0)
    monkeypatch.setattr(math_process, "_START_SECONDS", 60.0)
    stand_in(HEALTHY)
    assert equal()


@pytest.mark.parametrize(("code", "said"), [
    ("pipe.recv()\nraise SystemExit(3)", (Comparison.UNDECIDED, "", "the process died 2 times")),
    ("pipe.send(None)\ntime.sleep(600)", (Comparison.CUT_OFF, "given", "")),  # uses no CPU time
])  # fmt: skip
def test_a_process_that_dies_of_the_question_or_takes_too_long_by_the_clock(stand_in, monkeypatch, code, said):
    stand_in(f"pipe.send('')\n{code}")
    with monkeypatch.context() as briefly:
        briefly.setattr(math_process, "_WALL_FACTOR", 1.0)
        start = time.monotonic()
        reply = compare_texts(TWO, ROOT_FOUR, 0.1)
    assert (reply.comparison, reply.unread, reply.error) == said
    assert time.monotonic() - start < 60
    stand_in(HEALTHY)
    assert equal()


def test_memory_is_limited_and_running_out_of_it_ends_the_process(monkeypatch):
    limits = Path(f"/proc/{pid()}/limits").read_text()
    assert next(line for line in limits.splitlines() if "address space" in line).split()[3] == str(1 << 30)
    assert compare(TWO, ROOT_FOUR)["comparison"] == "equal"

    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("math_verify.verify", full)
    assert compare(r"\boxed{x}", r"\boxed{y}") == {"comparison": "undecided", "error": "MemoryError"}


def test_the_process_does_without_torch():
    ours, theirs = multiprocessing.Pipe()
    command = [sys.executable, "-P", "-X", "importtime", str(math_process._SCRIPT), str(theirs.fileno())]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, pass_fds=[theirs.fileno()])
    theirs.close()
    assert ours.recv() == ""
    ours.close()
    _, imported = process.communicate(timeout=60)  # it ends with the pipe
    assert b"math_verify" in imported
    assert b"torch" not in imported
    assert b"lightning_focal.judges" not in imported


@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_process_starts_its_own_which_ends_with_it_however_that_ends(busy):
    first = pid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # no return from here
        try:
            before, second = math_process._process is None, pid()
            if busy:
                threading.Thread(target=compare_texts, args=(TWO, BOMB, 1.0), daemon=True).start()
                time.sleep(0.3)
            os.write(writing, f"{before} {second}".encode())
            time.sleep(600)
        finally:
            os._exit(0)
    before, second = os.read(reading, 100).decode().split()
    os.close(reading)
    os.close(writing)
    assert before == "True"
    assert int(second) != first
    assert not gone(int(second))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until_gone(int(second), seconds=60)
    assert not gone(first)
    assert pid() == first


FORMULAS = [
    *("x", "2x", "x+1", "1+x", "(x+1)^2", "x^2+2x+1", r"\frac{x+1}{x}", r"1+\frac1x", r"\sqrt{2}", r"\frac{2}{\sqrt2}", r"2\sqrt2"),
    *(r"\pi", "3.141593", "e", "2.718282", r"\sin 2x", r"2\sin x\cos x", r"\log 8", r"3\log 2", r"50\%", "0.5", "50", "Monday", "yes"),
    *("f(x)", "f(x)+1", "x_1+x_2", "1+i", r"\sqrt{-1}", r"\infty", "|x|", r"\sqrt{x^2}", "5!", "120", "x=5", "1<x<2", "(1,2)", "xy", "yx"),
    *("0.333333x", r"\frac{x}{3}", r"\begin{pmatrix}1\\2\end{pmatrix}", r"\log(xy)", r"\log x+\log y", r"\frac{1}{x-1}"),
]  # fmt: skip


@pytest.mark.slow  # math-verify simplifies some hundred differences
def test_what_clearly_differs_is_different_to_math_verify():
    import math_verify

    found = [read(f"\\boxed{{{formula}}}")[0][0] for formula in FORMULAS]
    decided = 0
    for i, (a, b) in enumerate(itertools.combinations(found, 2)):
        if i % 3 == 0 and decide(a, b) is False:
            decided += 1
            assert not math_verify.verify(a, b, allow_set_relation_comp=True, timeout_seconds=None), (a, b)
    assert decided > 100
