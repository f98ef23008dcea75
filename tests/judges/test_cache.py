"""Verdicts on disk: kept, shared, bounded, whole after a sudden end."""

import hashlib
import logging
import multiprocessing
import os
import pickle
import sqlite3
import time

import pytest

from lightning_focal.judges import Outcome, Verdict, VerdictCache
from lightning_focal.judges import cache as cache_module

MET = Verdict(Outcome.MET, None, "says so")
KINDS = {
    b"a": MET,
    b"b": Verdict(Outcome.NOT_MET),
    b"c": Verdict(Outcome.GRADED, 0.1 + 0.2, "größer"),
    b"d": Verdict(Outcome.NOT_APPLICABLE),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "verdicts.sqlite"


def key(name):
    return hashlib.sha256(str(name).encode()).digest()


def test_every_kind_comes_back_as_it_was_and_errors_are_not_kept(path):
    VerdictCache(path).put({b"a": KINDS[b"c"]})
    VerdictCache(path).put({**KINDS, b"e": Verdict(Outcome.ERROR, None, "time-out")})
    assert VerdictCache(path).get([*KINDS, b"e", b"x", b"a"]) == KINDS  # the last one counts
    assert VerdictCache(path).get([]) == {}
    cache = pickle.loads(pickle.dumps(VerdictCache(path)))
    cache.put({})
    assert len(cache) == 4
    cache.close()
    many = {key(i): Verdict(Outcome.MET, None, str(i)) for i in range(2500)}
    cache.put(many)
    assert cache.get(many) == many


def test_the_size_is_bounded_and_the_oldest_go(path, monkeypatch):
    now = [1_000_000]
    monkeypatch.setattr(time, "time", lambda: now[0])
    cache = VerdictCache(path, max_bytes=1 << 18)
    for i in range(4000):
        now[0] += 1
        cache.put({key(i): Verdict(Outcome.MET, None, "x" * 200)})
        if i % 100 == 0:  # used again and again
            now[0] += 4000
            assert key(0) in cache.get([key(0)])
    cache.close()
    assert path.stat().st_size <= 1 << 18
    kept = cache.get(map(key, range(4000)))
    assert 400 < len(kept) < 1200
    assert key(0) in kept
    assert {key(i) for i in range(3700, 4000)} <= kept.keys()


def write(path, name, count):
    cache = VerdictCache(path)
    for i in range(count):
        cache.put({key(f"{name}-{i}"): Verdict(Outcome.MET, None, f"{name}-{i}")})


def test_processes_share_a_file(path):
    """They make it at the same moment, too; a fork opens anew what its parent holds."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(path, name, 50)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    names = [f"{name}-{i}" for name in "abcd" for i in range(50)]
    assert VerdictCache(path).get(map(key, names)) == {key(name): Verdict(Outcome.MET, None, name) for name in names}
    cache = VerdictCache(path)
    cache.put({b"a": MET})
    child = os.fork()
    if not child:
        good = cache.get([b"a"]) == {b"a": MET}
        cache.put({b"b": MET})
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get([b"a", b"b"]) == {b"a": MET, b"b": MET}


def write_until_killed(path, name, pipe):
    cache, number = VerdictCache(path), 0
    while True:
        cache.put({key(f"{name}-{number}"): Verdict(Outcome.MET, None, f"{name}-{number}")})
        number += 1
        os.write(pipe, b".")


def test_a_sudden_end_loses_nothing(path):
    context, expected = multiprocessing.get_context("fork"), []
    for round_ in range(5):
        read, written = os.pipe()
        writer = context.Process(target=write_until_killed, args=(path, round_, written))
        writer.start()
        os.close(written)
        said = len(os.read(read, 1))
        time.sleep(0.01 * round_)
        writer.kill()
        writer.join()
        while chunk := os.read(read, 65536):
            said += len(chunk)
        os.close(read)
        expected += [f"{round_}-{i}" for i in range(said)]
    found = VerdictCache(path).get(map(key, expected))
    assert found == {key(name): Verdict(Outcome.MET, None, name) for name in expected}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_something_else_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("notes that somebody needs " * 100, encoding="utf-8")
    with pytest.raises(ValueError, match="`max_bytes` must be >= 65536, got 1000"):
        VerdictCache(path, max_bytes=1000)
    with pytest.raises(ValueError, match=r"`cache` must be a file of verdicts, or none yet, got '.*' \(file is not a database\)"):
        VerdictCache(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    with pytest.raises(ValueError, match="a database of something else"):
        VerdictCache(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_a_cache_that_breaks_costs_no_run(path, caplog, monkeypatch):
    monkeypatch.setattr(cache_module, "_WAIT_S", 0.05)
    cache = VerdictCache(path)
    cache.put(KINDS)
    with sqlite3.connect(path, isolation_level=None) as other, caplog.at_level(logging.WARNING):
        other.execute("BEGIN EXCLUSIVE")
        cache.put({b"x": MET})
        cache.put({b"x": MET})
        assert cache.get(KINDS) == KINDS
        other.execute("COMMIT")
    assert caplog.text.count("the run goes on without it") == 1
    with sqlite3.connect(path) as other:
        other.execute("UPDATE verdicts SET outcome = 'perhaps'")
    assert cache.get([b"a"]) == {}
