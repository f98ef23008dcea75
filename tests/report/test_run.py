"""A run folder, whole or in parts, and its recorded rollouts."""

import json
import shutil

import pytest

from lightning_focal.files import write_parquet
from lightning_focal.report.run import evenly, read_recorded, read_run, with_ranks
from tests.report.made_run import make_run


def test_a_whole_run(folder):
    run = read_run(folder, rollouts=100)
    assert (run.name, run.batches, len(run.evaluations), run.notes) == ("run", 3, 2, ())
    assert run.config["seed_everything"] == 0
    assert len(run.train.rows) == 3 * 2 * 4
    assert run.held_out.batches == [0, 3]
    assert run.finished is None  # not recorded
    without = read_run(folder)
    assert (without.train.rows, without.held_out.rows) == ([], [])
    (folder / "run.json").write_text(json.dumps({"starts": [{"ended": True}, {"ended": False}]}))
    assert read_run(folder).finished is False


def test_a_part_may_be_missing(folder):
    for part in ("metrics.csv", "held_out.json", "rollouts", "config.yaml"):
        away = (folder / part).rename(folder.parent / part)
        assert read_run(folder, rollouts=100).batches == 3, part
        away.rename(folder / part)


@pytest.mark.parametrize(("name", "text", "told"), [
    ("held_out.json", "{", True),
    ("held_out.json", "[1]", False),
    ("held_out.json", '{"evaluations": []}', False),
    ("config.yaml", "a: [1", True),
    ("config.yaml", "\x00", True),
    ("config.yaml", "- 1\n- 2\n", False),
    ("config.yaml", "", False),
])  # fmt: skip
def test_a_broken_file(folder, name, text, told):
    (folder / name).write_text(text)
    run = read_run(folder)
    assert run.config == {} if name == "config.yaml" else run.evaluations == ()
    assert any(name in note for note in run.notes) == told


def test_no_folder_and_a_folder_of_something_else(tmp_path):
    with pytest.raises(ValueError, match=r"`runs`: '.*nothing' must be a run folder such as runs/focal, got no folder"):
        read_run(tmp_path / "nothing")
    for part in ("other.txt", "config.yaml"):
        with pytest.raises(ValueError, match=r"must be a run folder with metrics\.csv, held_out\.json or rollouts/, got"):
            read_run(tmp_path)
        (tmp_path / part).write_text("a: 1\n")
    with pytest.raises(ValueError, match="got no folder"):
        read_run(tmp_path / "other.txt")
    assert read_recorded(tmp_path / "rollouts", "train", limit=10).total == 0
    (tmp_path / "metrics.csv").write_text("step,val/reward/mean\n0,0.5\n")
    with pytest.raises(ValueError, match="the folder of a run that trained"):
        read_run(tmp_path)


# -- rollouts --------------------------------------------------------------------------------------------------------------------


def ranked(*rows):
    names = ("static_reward", "reward", "valid", "prompt_id", "batch")
    made = [dict(zip(names, (*row, *(True, "p", 0)[len(row) - 2 :]), strict=True)) for row in rows]
    with_ranks(made)
    return [row["rank_change"] for row in made]


def test_rank_changes_by_hand():
    assert ranked((0.9, 0.1), (0.8, 0.2), (0.7, 0.3)) == [-2, 0, 2]
    assert ranked((0.5, 0.5), (0.5, 0.4)) == [0, -1]  # tied for the first place, then second
    assert ranked((0.1, 0.9, True, "p", 0), (0.9, 0.1, True, "q", 0), (0.5, 0.5, True, "p", 1)) == [0, 0, 0]  # groups do not mix
    unjudged = ((0.0, 0.0, False), (None, 0.3), (0.3, float("nan")))
    assert ranked((0.9, 0.1), (0.2, 0.2), *unjudged) == [-1, 1, None, None, None]


def test_first_and_last_are_among_the_chosen():
    for count in (2, 3, 7, 10):
        chosen = evenly(range(10), count)
        assert (chosen[0], chosen[-1], len(set(chosen))) == (0, 9, count)
    assert evenly([0, 1, 2], 0) == [0, 2]


def test_the_limit_keeps_whole_batches(tmp_path):
    make_run(tmp_path, batches=10, prompts=2, group=4, evaluations=(0, 2, None), held_out=3)
    found = read_recorded(tmp_path / "rollouts", "train", limit=33)
    assert (found.total, found.batches, len(found.rows)) == (80, [0, 3, 6, 9], 32)
    assert read_recorded(tmp_path / "rollouts", "train", limit=1).batches == [0, 9]
    assert len(read_recorded(tmp_path / "rollouts", "train", limit=80).rows) == 80
    ends = read_recorded(tmp_path / "rollouts", "val", limit=10_000, ends_only=True)
    assert (ends.batches, ends.total) == ([0, 10], 3 * 3 * 4)


@pytest.mark.parametrize("damage", ["half", "empty", "other", "name"])
def test_a_damaged_file_is_told_and_passed_over(folder, damage):
    path = folder / "rollouts" / "train-000002-r0.parquet"
    if damage == "other":
        write_parquet(path, [{"batch": 2, "prompt_id": "p"}])
    elif damage == "name":
        path.rename(path.with_name("train-x.parquet"))
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half" else b"")
    found = read_recorded(folder / "rollouts", "train", limit=10_000)
    assert found.batches == [0, 1]
    (problem,) = found.problems
    assert problem.startswith(f"rollouts/{'train-x' if damage == 'name' else 'train-000002-r0'}.parquet cannot be read")


def test_rollouts_of_two_processes(folder):
    """A group is whole on one rank; the files of a batch are read one after the other."""
    shutil.copy(folder / "rollouts" / "train-000000-r0.parquet", folder / "rollouts" / "train-000000-r1.parquet")
    assert len(read_recorded(folder / "rollouts", "train", limit=100).rows) == 4 * 2 * 4
