"""A run folder, whole or in parts, its recorded rollouts, metrics.csv as series, and runs that differ in seeds alone."""

import json
import math
import shutil
from pathlib import Path

import pytest

from lightning_focal.files import write_parquet
from lightning_focal.report.methods import group_runs
from lightning_focal.report.metrics import Series, keys, read_metrics
from lightning_focal.report.run import Run, evenly, read_recorded, read_run, with_ranks
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


def series(pairs):
    made = Series()
    for batch, value in pairs:
        made.add(batch, value)
    return made


def test_trailing_means_against_a_plain_loop():
    pairs = [(0, 1.0), (1, 4.0), (4, 2.0), (5, 8.0), (9, 3.0)]
    for window in (1, 2, 3, 5, 20):
        near = [[value for other, value in pairs if batch - window < other <= batch] for batch, _ in pairs]
        assert series(pairs).trailing(window) == pytest.approx([sum(values) / len(values) for values in near])


def test_sums_pool_by_count_and_what_is_not_finite_is_left_out():
    made = Series()
    made.add(0, 3.0, 3)
    made.add(1, 0.0, 1)
    assert (made.mean(0, 1), made.trailing(2)) == (0.75, [1.0, 0.75])
    made = series([(0, math.nan), (1, 0.5), (2, math.inf)])
    assert (made.batches, made.values) == ([1], [0.5])
    assert math.isnan(made.mean(2, 9))


def test_means_of_the_ends_are_those_of_a_tenth():
    assert series([(batch, float(batch)) for batch in range(20)]).ends(20) == (0.5, 18.5)


def test_a_file_cut_off_in_the_middle(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,train/a,train/b\n0,0.0,1.5,\n1,0.0,nan,2.5\n2,0.0,3.5,4\n3,0.0,4.")
    found = read_metrics(path)
    assert (found["train/a"].batches, found["train/b"].values) == ([0, 2], [2.5, 4.0])
    assert "epoch" not in found


@pytest.mark.parametrize("text", ["", "step", "step,a\n", "step,a\nx,1\n", "a,b\n1,2\n"])
def test_files_without_values(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    assert read_metrics(tmp_path / "metrics.csv") == {}


def test_odd_names(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text('step,"train/criterion/a, ""b""\nc/score"\n0,0.25\n')
    assert keys(read_metrics(path), "train/criterion/", "/score") == ['a, "b"\nc']
    path.write_bytes(b"step,train/\xff\n0,1.0\n")
    assert [found.values for found in read_metrics(path).values()] == [[1.0]]


def run(name, seed=0, reward="FocalReward", callbacks=None, **init_args):
    config = {"seed_everything": seed, "run_dir": f"runs/{name}", "model": {"policy": f"random:tiny?hidden=8&seed={seed}"}}
    config["data"] = {"init_args": {"seed": seed, "batch_size": 4}}
    if reward is not None:
        config["reward"] = {"class_path": f"lightning_focal.rewards.{reward}", "init_args": init_args}
    if callbacks is not None:
        config["trainer"] = {"callbacks": callbacks}
    return Run(Path("runs") / name, config)


def labels(*runs):
    return [(method.label, method.seeds) for method in group_runs(runs)]


def test_seeds_are_grouped_in_the_order_given():
    focal, static = group_runs([run("a", 0, gamma=1.0), run("s", 0, "StaticReward"), run("b", 1, gamma=1.0)])
    assert [(m.label, m.seeds) for m in (focal, static)] == [("FocalReward", (0, 1)), ("StaticReward", (0,))]
    assert [title for title, _ in focal.titles] == ["FocalReward, seed 0", "FocalReward, seed 1"]
    assert static.titles == [("StaticReward", static.runs[0])]
    (twice,) = group_runs([run("a", 0), run("b", 0)])
    assert [title for title, _ in twice.titles] == ["FocalReward, a", "FocalReward, b"]


def test_a_strategy_among_the_callbacks_and_odd_configurations():
    for path in ("lightning_focal.rewards.CoRewardingII", "my.HardReward"):
        callbacks = [{"class_path": "x.Watch"}, "odd", {"class_path": path}]
        assert labels(run("a", reward=None, callbacks=callbacks))[0][0] == path.rsplit(".", 1)[-1]
    odd = [{"reward": None}, {"reward": 3, "trainer": 4}, {"trainer": {"callbacks": {"a": 1}}}, {"seed_everything": True}]
    assert [labels(Run(Path("runs/odd"), config))[0][0] for config in odd] == ["odd"] * 4
    assert labels(Run(Path("runs/a")), Run(Path("runs/b"))) == [("a", (None,)), ("b", (None,))]  # each is its own


def test_a_setting_that_differs_tells_methods_apart():
    found = labels(run("a", gamma=0.5), run("b", gamma=3.0))
    assert [label for label, _ in found] == ["FocalReward, gamma 0.5", "FocalReward, gamma 3"]
    first, second = run("a"), run("b")
    second.config["data"]["init_args"]["only_here"] = 1
    del second.config["data"]["init_args"]["batch_size"]
    assert len({label for label, _ in labels(first, second)}) == 2  # labels that would be equal name the folder
