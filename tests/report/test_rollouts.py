"""Recorded rollouts: which are read, and how their rank changes."""

import pytest

from lightning_focal.report.rollouts import evenly, read_recorded, with_ranks
from tests.report.made_run import make_run


def ranked(pairs):
    rows = [{"batch": 0, "prompt_id": "p", "static_reward": s, "reward": r} for s, r in pairs]
    with_ranks(rows)
    return [row["rank_change"] for row in rows]


def test_rank_changes_by_hand():
    assert ranked([(0.9, 0.1), (0.8, 0.2), (0.7, 0.3)]) == [-2, 0, 2]
    assert ranked([(0.5, 0.5), (0.5, 0.4)]) == [0, -1]  # tied for the first place, then second
    assert ranked([(0.5, 0.5)]) == [0]


def test_groups_do_not_mix():
    rows = [
        {"batch": b, "prompt_id": p, "static_reward": s, "reward": 1 - s}
        for b, p, s in ((0, "p", 0.1), (0, "q", 0.9), (1, "p", 0.5))
    ]
    with_ranks(rows)
    assert [row["rank_change"] for row in rows] == [0, 0, 0]


def test_what_was_not_judged_has_no_rank():
    rows = [
        {"batch": 0, "prompt_id": "p", "static_reward": s, "reward": r, "valid": valid}
        for s, r, valid in ((0.9, 0.1, True), (0.0, 0.0, False), (0.2, 0.2, True), (None, 0.3, True), (0.3, float("nan"), True))
    ]
    with_ranks(rows)
    assert [row["rank_change"] for row in rows] == [-1, None, 1, None, None]


def test_first_and_last_are_among_the_chosen():
    for count in (2, 3, 7, 10):
        chosen = evenly(range(10), count)
        assert (chosen[0], chosen[-1], len(set(chosen))) == (0, 9, count)
    assert evenly([0, 1, 2], 0) == [0, 2]


def test_the_limit_keeps_whole_batches(tmp_path):
    make_run(tmp_path, batches=10, prompts=2, group=4)
    found = read_recorded(tmp_path / "rollouts", "train", limit=33)
    assert found.total == 80
    assert found.batches == [0, 3, 6, 9]
    assert len(found.rows) == 32
    assert read_recorded(tmp_path / "rollouts", "train", limit=1).batches == [0, 9]
    assert len(read_recorded(tmp_path / "rollouts", "train", limit=80).rows) == 80


def test_evaluations_are_read_at_the_ends(tmp_path):
    make_run(tmp_path, batches=4, evaluations=(0, 2, None), held_out=3)
    found = read_recorded(tmp_path / "rollouts", "val", limit=10_000, ends_only=True)
    assert found.batches == [0, 4]
    assert found.total == 3 * 3 * 4


@pytest.mark.parametrize("damage", ["half", "empty", "other", "name"])
def test_a_damaged_file_is_told_and_passed_over(tmp_path, damage):
    make_run(tmp_path, batches=3)
    path = tmp_path / "rollouts" / "train-000002-r0.parquet"
    if damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"batch": [2], "prompt_id": ["p"]}), path)
    else:
        path.rename(path.with_name("train-x.parquet"))
    found = read_recorded(tmp_path / "rollouts", "train", limit=10_000)
    assert found.batches == [0, 1]
    (problem,) = found.problems
    assert "cannot be read" in problem
    assert ("train-x" if damage == "name" else "train-000002") in problem


def test_no_folder(tmp_path):
    found = read_recorded(tmp_path / "rollouts", "train", limit=10)
    assert (found.rows, found.total, found.problems) == ([], 0, [])


def test_ranks_of_two_processes(tmp_path):
    """A group is whole on one rank; the files of a batch are read one after the other."""
    make_run(tmp_path, batches=1, prompts=2)
    path = tmp_path / "rollouts" / "train-000000-r0.parquet"
    path.with_name("train-000000-r1.parquet").write_bytes(path.read_bytes())
    assert len(read_recorded(tmp_path / "rollouts", "train", limit=100).rows) == 16
