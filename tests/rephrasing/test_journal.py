"""What is on disk after any end."""

import pytest

from lightning_focal.rephrasing import Journal

HEADER = {"input": {"file": "q.jsonl", "sha256": "abc"}, "settings": {"model": "tiny", "temperature": 0.7, "instruction": "1"}}
ENTRIES = [{"id": "a", "rephrased": "x\n\u2028y"}, {"id": "b", "rephrased": None}, {"id": "ü", "rephrased": "z"}]


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "new" / "pairs.journal.jsonl", HEADER) as journal:
        for entry in ENTRIES:
            journal.append(entry)
    return journal.path


def test_entries_are_there_again(path):
    with Journal(path, HEADER) as journal:
        assert list(journal.entries.values()) == ENTRIES
        assert not journal.repaired
        journal.append({"id": "c"})
        assert path.read_bytes().count(b"\n") == 5  # at once
    for _ in range(2):
        with Journal(path, HEADER) as journal:
            assert list(journal.entries) == ["a", "b", "ü", "c"]
            with pytest.raises(RuntimeError, match="another process is at work on it"):
                Journal(path, HEADER)


def test_torn_at_any_byte(path):
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        lines = sum(end <= cut for end in ends)
        with Journal(path, HEADER) as journal:
            assert list(journal.entries.values()) == ENTRIES[: max(lines - 1, 0)]
            assert journal.repaired == (cut not in (0, *ends))
            journal.append({"id": "next"})
        with Journal(path, HEADER) as journal:  # what follows a repair is whole
            assert list(journal.entries)[-1] == "next"
            assert not journal.repaired


def test_other_work_and_damaged_lines_are_refused(path):
    other = {"input": {"file": "q.jsonl", "sha256": "def"}, "settings": {**HEADER["settings"], "temperature": 1.0}}
    changed = 'was begun with input sha256 "abc", now it is "def"; temperature 0.7, now it is 1.0'
    with pytest.raises(ValueError, match=f"{changed}: go on as it was begun, or name another"):
        Journal(path, other)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], lines[2][:5], *lines[3:]]))
    with pytest.raises(ValueError, match=r"pairs.journal.jsonl:3: the journal is damaged"):
        Journal(path, HEADER)


def test_a_header_alone_binds_nobody(tmp_path):
    other = {**HEADER, "settings": {}}
    Journal(tmp_path / "j", HEADER).__exit__(None, None, None)
    with Journal(tmp_path / "j", other) as journal:
        journal.append(ENTRIES[0])
    with Journal(tmp_path / "j", other) as journal:
        assert len(journal.entries) == 1


def test_other_files_are_refused_and_left_alone(tmp_path):
    for content in ('{"id": 1}\n{"id": 2}\n', "text\nmore", "[1]\n[2]\n"):
        (tmp_path / "j").write_text(content)
        with pytest.raises(ValueError, match=r"j.* journal"):
            Journal(tmp_path / "j", HEADER)
        assert (tmp_path / "j").read_text() == content
