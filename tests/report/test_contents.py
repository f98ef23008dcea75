"""What the figures of a report show."""

import math

import pytest

from lightning_focal.report.contents import (
    all_figures,
    balance_figure,
    change_figure,
    curve_over_seeds,
    hues,
    level_figure,
    over_time,
    share_figure,
)
from lightning_focal.report.figures import PALETTE, CourseFigure, Point, matplotlib_figure
from lightning_focal.report.held_out import Change
from lightning_focal.report.levels import Levels, run_levels
from lightning_focal.report.methods import group_runs
from lightning_focal.report.metrics import Series
from lightning_focal.report.run import read_run
from tests.report.made_run import make_run


def series(*values):
    made = Series()
    for batch, value in enumerate(values):
        made.add(batch, value)
    return made


def levels_of(count):
    one = {f"c{i:02d}": series(0.5, 0.5 + i / 1000) for i in range(count)}
    return Levels(one, one, *({name: series(1 / count, 1 / count) for name in one} for _ in range(2)))


def figures_of(*folders):
    runs = [read_run(folder) for folder in folders]
    return {views.name: views.views for views in all_figures(group_runs(runs), {run.folder: run_levels(run) for run in runs})}


def test_long_runs_are_thinned_and_keep_their_end():
    curve = over_time("a", series(*(i / 5000 for i in range(5000))), 10, 0, faint=True)
    assert len(curve.x) == len(curve.faint) <= 302
    assert curve.x[-1] == 4999
    assert curve.y[-1] == pytest.approx(sum(i / 5000 for i in range(4990, 5000)) / 10)
    assert over_time("a", series(0.1, 0.2), 1, 0, faint=True).faint == ()  # a window of one has nothing behind it


def test_curves_over_seeds():
    three = curve_over_seeds("m", [series(0.1, 0.2), series(0.2, 0.2, 0.9), series(0.6, 0.2)], 1, 0)
    assert list(three.x) == [0, 1]
    assert three.y == pytest.approx([0.3, 0.2])
    assert (three.low[1], three.high[1]) == pytest.approx((0.2, 0.2))
    two = curve_over_seeds("m", [series(0.1), series(0.3)], 1, 0)
    assert (two.y[0], two.low[0], two.high[0]) == pytest.approx((0.2, 0.1, 0.3))  # their range
    assert curve_over_seeds("m", [series(0.1)], 1, 0).low == ()


def test_few_labels_are_all_in_colour_and_of_many_the_telling_ones():
    assert hues(levels_of(10)) == {f"c{i:02d}": i for i in range(10)}
    levels = levels_of(64)
    levels.score["c07"] = series(0.9, 0.1)  # fell furthest
    levels.weight["c09"] = series(0.0, 0.5)  # gets most weight
    shown = {label: hue for label, hue in hues(levels).items() if hue >= 0}
    assert {"c07", "c09", "c63"} <= set(shown)
    assert len(shown) == len(set(shown.values())) <= 10


def test_stacked_shares_make_one():
    (panel,) = share_figure(levels_of(64), 1).panels
    assert [sum(curve.y[at] for curve in panel.curves) for at in (0, 1)] == pytest.approx([1, 1])
    assert panel.curves[-1].name == "55 others"
    assert {curve.hue for curve in panel.curves} == {-1, *range(9)}
    assert share_figure(levels_of(1), 1) == CourseFigure(())


def test_levels_of_one_run_and_of_several():
    one, several = level_figure([levels_of(3)], 1), level_figure([levels_of(3), levels_of(3), levels_of(2)], 1)
    assert [panel.title for panel in one.panels] == [panel.title for panel in several.panels] == ["score", "saturation", "weight"]
    assert [[curve.name for curve in figure.panels[0].curves] for figure in (one, several)] == [
        ["c00", "c01", "c02"],
        ["c00", "c01"],
    ]
    assert several.panels[0].curves[0].banded
    assert not level_figure([levels_of(5)] * 2, 1).panels[0].curves[0].banded


def test_balance(tmp_path):
    run = read_run(make_run(tmp_path / "nine", batches=4, evaluations=(0, 2, None)))
    figure = balance_figure(group_runs([run]))
    assert [panel.title for panel in figure.panels] == ["worst criterion", "Gini coefficient", "strict completion"]
    training, held_out = figure.panels[1].curves
    assert list(training.y) == pytest.approx(run.metrics["train/balance/gini"].values)
    assert list(held_out.x) == [0, 2, 4]
    assert list(held_out.y) == pytest.approx([entry["measures"]["val/balance/gini"] for entry in run.evaluations])
    methods = group_runs([run, read_run(make_run(tmp_path / "static", batches=4, strategy="StaticReward"))])
    assert [curve.name for curve in balance_figure(methods).panels[0].curves] == ["FocalReward", "StaticReward"]
    single = read_run(make_run(tmp_path / "one", batches=2, criteria=[("a", ())]))
    assert balance_figure(group_runs([single])) == CourseFigure(())


def test_votes_are_drawn_where_there_are_some(tmp_path):
    def votes(batch):
        return {"train/vote/share": 0.5 + batch / 10, "train/vote/accuracy": math.nan, "train/collapse/signs": float(batch > 2)}

    without = figures_of(make_run(tmp_path / "a", batches=3))
    assert "votes" not in without
    (health,) = without["health"].values()
    assert [panel.title for panel in health.panels][:2] == ["reward", "response length, tokens"]
    (figure,) = figures_of(make_run(tmp_path / "b", batches=4, extra=votes))["votes"].values()
    assert [[curve.name for curve in panel.curves] for panel in figure.panels] == [["votes for the label"], ["signs in force"]]


def test_many_criteria_show_those_that_moved_most():
    changes = {f"c{i}": Change(Point(0.5), Point(0.5), Point(i / 100)) for i in range(40)}
    figure = change_figure(changes, "score")
    assert (figure.rows, figure.span) == (tuple(f"c{i}" for i in range(16, 40)), (0, 1))
    wide = Change(Point(0.5, -0.1, 1.2), Point(0.5), Point(0))
    assert change_figure({"a": wide}, "score").span is None  # an interval past the axis


def test_matplotlib_draws_what_is_there(tmp_path):
    run = read_run(make_run(tmp_path, batches=5), rollouts=100)
    levels = run_levels(run)["key"]
    figure = level_figure([levels], 1)
    lines = [(line.get_color(), list(line.get_ydata())) for axis in matplotlib_figure(figure).axes for line in axis.get_lines()]
    assert lines == [(PALETTE[curve.hue % 7], list(curve.y)) for panel in figure.panels for curve in panel.curves]
    assert len(lines) == 21
    hatched = [area.get_hatch() for area in matplotlib_figure(share_figure(levels_of(9), 1)).axes[0].collections]
    assert (hatched.count("//"), len(hatched)) == (2, 9)  # areas that repeat a colour
