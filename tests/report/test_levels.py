"""Levels by key, name and tag."""

import pytest

from lightning_focal.report.levels import run_levels
from lightning_focal.report.run import read_run
from tests.report.made_run import NINE, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(make_run(tmp_path_factory.mktemp("run"), batches=4, prompts=3), rollouts=1000)


def test_groupings(run):
    assert {kind: levels.labels for kind, levels in run_levels(run).items()} == {
        "key": ["brevity", "caution", "content", "engagement", "format", "honesty", "tone"],
        "name": sorted(name for name, _ in NINE),
        "level": ["easy", "hard", "medium"],
    }


def test_recorded_levels_are_those_that_were_logged(run):
    """By key, from the rollouts alone and from metrics.csv."""
    logged = run_levels(run)["key"]
    recorded = run_levels(type(run)(run.folder, train=run.train))["key"]
    for part in ("score", "saturation", "weight"):
        for key in logged.labels:
            ours, theirs = getattr(logged, part)[key], getattr(recorded, part)[key]
            assert ours.batches == theirs.batches
            assert ours.values == pytest.approx(theirs.values, abs=1e-5)


def test_a_tag_by_a_plain_loop(run):
    wanted = {}
    for row in run.train.rows:
        for criterion in row["criteria"]:
            if "level:hard" in criterion["tags"] and criterion["score"] is not None:
                wanted.setdefault(row["batch"], []).append(criterion["score"])
    found = run_levels(run)["level"].score["hard"]
    assert found.values == pytest.approx([sum(wanted[batch]) / len(wanted[batch]) for batch in found.batches])


def test_shares_make_one(run):
    for kind, levels in run_levels(run).items():
        for part in (levels.share, levels.prior):
            assert [sum(series.values[at] for series in part.values()) for at in range(4)] == pytest.approx([1] * 4), kind
        prior = levels.prior[levels.labels[0]].values
        assert prior == pytest.approx([prior[0]] * 4)


def test_shares_without_rollouts_are_scaled_weights(run):
    levels = run_levels(type(run)(run.folder, metrics=run.metrics))["key"]
    weights = [run.metrics[f"train/weight/{key}"].values[2] for key in levels.labels]
    assert [levels.share[key].values[2] for key in levels.labels] == pytest.approx([w / sum(weights) for w in weights])
    assert levels.prior == {}


def test_names_that_hardly_recur_are_not_a_grouping(tmp_path):
    many = [(f"criterion {i}", (f"axis:{i % 4}",)) for i in range(130)]
    found = run_levels(read_run(make_run(tmp_path, batches=2, prompts=1, criteria=many), rollouts=100))
    assert {kind: levels.labels for kind, levels in found.items()} == {"key": ["0", "1", "2", "3"]}


def test_criteria_without_tags(tmp_path):
    found = run_levels(read_run(make_run(tmp_path, batches=2, criteria=[("polite", ()), ("short", ("easy",))]), rollouts=100))
    assert {kind: levels.labels for kind, levels in found.items()} == {"key": ["polite", "short"], "tag": ["easy"]}
    assert (sorted(found["tag"].share), list(found["tag"].weight)) == (["(none)", "easy"], ["easy"])
