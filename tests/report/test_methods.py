"""Runs that differ in seeds alone are one method."""

from pathlib import Path

from lightning_focal.report.methods import group_runs
from lightning_focal.report.run import Run


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
