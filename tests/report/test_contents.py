"""What the figures of a report show."""

import math

import pytest

from lightning_focal.report.contents import (
    all_figures,
    balance_figure,
    change_figure,
    compared_figure,
    curve_over_seeds,
    hues,
    level_figure,
    over_time,
    share_figure,
    shows,
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
    several = [series(0.9), series(0.2), series(1.0)]
    curve = curve_over_seeds("m", several, 1, 0, share=True)
    assert (curve.low[0], curve.high[0]) == (0.0, 1.0)  # intervals of shares end at 0 and 1
    assert curve_over_seeds("m", several, 1, 0).high[0] > 1


def test_few_labels_are_all_in_colour_and_of_many_the_telling_ones():
    assert hues(levels_of(10)) == {f"c{i:02d}": i for i in range(10)}
    levels = levels_of(64)
    levels.score["c07"] = series(0.9, 0.1)  # fell furthest
    levels.weight["c09"] = series(0.0, 0.5)  # gets most weight
    shown = {label: hue for label, hue in hues(levels).items() if hue >= 0}
    assert {"c07", "c09", "c63"} <= set(shown)
    assert len(shown) == len(set(shown.values())) <= 10


def test_stacked_shares_make_one():
    (panel,) = share_figure({"m": [levels_of(64)]}, 1).panels
    assert [sum(curve.y[at] for curve in panel.curves) for at in (0, 1)] == pytest.approx([1, 1])
    assert panel.curves[-1].name == "55 others"
    assert {curve.hue for curve in panel.curves} == {-1, *range(9)}
    assert share_figure({"m": [levels_of(1)]}, 1) == CourseFigure(())
    two = share_figure({"focal": [levels_of(12)] * 2, "static": [levels_of(12)]}, 1).panels
    assert [panel.title for panel in two] == ["focal", "static"]
    assert [curve.name for curve in two[0].curves] == [curve.name for curve in two[1].curves]  # one order
    assert sum(curve.y[1] for curve in two[0].curves) == pytest.approx(1)


def test_levels_of_one_run_and_of_several():
    one, several = level_figure([levels_of(3)], 1), level_figure([levels_of(3), levels_of(3), levels_of(2)], 1)
    quantities = ["score", "saturation", "saturation minus score", "weight"]
    assert [panel.title for panel in one.panels] == [panel.title for panel in several.panels] == quantities
    assert [[curve.name for curve in figure.panels[0].curves] for figure in (one, several)] == [
        ["c00", "c01", "c02"],
        ["c00", "c01"],
    ]
    assert several.panels[0].curves[0].banded
    assert not level_figure([levels_of(5)] * 2, 1).panels[0].curves[0].banded
    levels = levels_of(2)
    levels.saturation = {"c00": series(0.75, 0.9)}
    assert level_figure([levels], 1).panels[2].curves[0].y == pytest.approx([0.25, 0.4])


def test_methods_are_drawn_in_one_panel_a_criterion():
    other = levels_of(2)
    other.score = {"c00": series(0.1, 0.9), "c07": series(1.0, 1.0)}
    figure = compared_figure({"focal": [levels_of(2)] * 2, "static": [other]}, "score", 1)
    assert [panel.title for panel in figure.panels] == ["c00", "c01", "c07"]
    assert [[curve.name for curve in panel.curves] for panel in figure.panels] == [["focal", "static"], ["focal"], ["static"]]
    assert [curve.hue for curve in figure.panels[0].curves] == [0, 1]  # a method keeps its colour
    assert figure.panels[2].curves[0].hue == 1
    assert figure.panels[0].span == (0, 1)
    assert len(compared_figure({"m": [levels_of(64)], "n": [levels_of(64)]}, "score", 1).panels) <= 10


def test_what_the_switch_chooses_from(tmp_path):
    runs = [
        read_run(make_run(tmp_path / f"{s}{i}", batches=2, seed=i, strategy=s))
        for s in ("StaticReward", "FocalReward")
        for i in (0, 1)
    ]
    titles = [f"{name}Reward, seed {seed}" for name in ("Static", "Focal") for seed in (0, 1)]
    assert list(shows(group_runs(runs))) == ["methods (means)", "every run", *titles]
    assert list(shows(group_runs(runs[::2]))) == ["every run", "StaticReward", "FocalReward"]
    assert list(shows(group_runs(runs[:1]))) == ["StaticReward"]
    views = figures_of(*(run.folder for run in runs))
    for figure in views.values():
        assert {choice[0] for choice in figure} == {"methods (means)", "every run", *titles}
    (means, every, *_), single = views["balance"].values(), views["balance"][(titles[0],)]
    assert [curve.name for curve in means.panels[0].curves] == ["StaticReward", "FocalReward"]
    assert [curve.name for curve in every.panels[0].curves] == titles
    assert [curve.name for curve in single.panels[0].curves] == ["training", "held-out prompts"]


def test_balance(tmp_path, stored):
    run = read_run(make_run(tmp_path / "nine", batches=2, evaluations=(0, 1, None)))
    figure = balance_figure(group_runs([run]))
    assert [panel.title for panel in figure.panels] == ["worst criterion", "Gini coefficient", "strict completion"]
    training, held_out = figure.panels[1].curves
    assert list(training.y) == pytest.approx(run.metrics["train/balance/gini"].values)
    assert list(held_out.x) == [0, 1, 2]
    assert list(held_out.y) == pytest.approx([entry["measures"]["val/balance/gini"] for entry in run.evaluations])
    single = read_run(make_run(tmp_path / "one", batches=2, criteria=[("a", ())]))
    assert balance_figure(group_runs([single])) == CourseFigure(())


def test_votes_are_drawn_where_there_are_some(tmp_path, stored):
    def votes(batch):
        return {"train/vote/share": 0.5 + batch / 10, "train/vote/accuracy": math.nan, "train/collapse/signs": float(batch > 2)}

    without = figures_of(stored)
    assert "votes" not in without
    (health,) = without["health"].values()
    assert [panel.title for panel in health.panels][:2] == ["reward", "response length, tokens"]
    (figure,) = figures_of(make_run(tmp_path / "b", batches=4, extra=votes))["votes"].values()
    assert [[curve.name for curve in panel.curves] for panel in figure.panels] == [["votes for the label"], ["signs"]]


def test_both_judges_are_drawn_together(tmp_path, stored):
    def falls(batch, score):
        return score - batch / 100

    one, other = (make_run(tmp_path / name, batches=4, strategy=name, second=falls) for name in ("FocalReward", "StaticReward"))
    (panel,) = figures_of(one)["score"][("FocalReward",)].panels
    first, second = panel.curves
    assert ([curve.name for curve in panel.curves], list(second.x)) == (["training judge", "held-out judge"], [0, 4])
    assert [a - b for a, b in zip(first.y, second.y, strict=True)] == pytest.approx([0, 0.04])
    assert (first.hue, second.hue, len(second.low)) == (0, 1, 2)
    panels = figures_of(one, other)["score"][("every run",)].panels
    assert [panel.title for panel in panels] == ["held-out score by the training judge", "held-out score by the held-out judge"]
    assert [[curve.name for curve in panel.curves] for panel in panels] == [["FocalReward", "StaticReward"]] * 2
    assert "score" not in figures_of(stored)  # two evaluations by one judge are in the bars


def test_diagnostics_are_drawn_where_they_are_logged(tmp_path, stored, folder):
    def logged(batch):
        return {
            f"train/{name}/{key}": at / 10
            for name in ("judge_variance", "informedness")
            for key, at in (("tone", 3), ("format", 5))
        }

    run = read_run(make_run(tmp_path / "a", batches=3, extra=logged))
    views = figures_of(run.folder)["theory"]
    panels = {panel.title: [curve.name for curve in panel.curves] for panel in views["FocalReward", "mean over criteria"].panels}
    assert panels == {
        "variance of the score": ["variance within groups", "variance of the judge"],
        "unanimous, informedness, share": ["unanimous groups", "informedness"],
        "pairs ordered anew, share": ["flipped pairs", "Kendall distance"],
        "projection tilt": ["training", "held-out prompts"],
        "weight that goes with length, share": ["training", "held-out prompts"],
    }
    assert all(panel.note for panel in views["FocalReward", "mean over criteria"].panels)
    variance, told = views["FocalReward", "tone"].panels
    assert list(variance.curves[0].y) == run.metrics["train/criterion/tone/variance"].values
    assert list(variance.curves[1].y) == [0.3] * 3
    assert list(told.curves[0].y) == pytest.approx(
        [1 - value for value in run.metrics["train/criterion/tone/contrastive"].values]
    )
    assert list(views["FocalReward", "mean over criteria"].panels[0].curves[1].y) == pytest.approx([0.4] * 3)
    plain = figures_of(stored)["theory"]
    assert [curve.name for curve in plain["FocalReward", "tone"].panels[0].curves] == ["variance within groups"]
    lines, new = (
        [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()],
        ("variance", "contrastive", "order/", "tilt"),
    )
    kept = [i for i, name in enumerate(lines[0]) if not any(part in name for part in (*new, "length_w"))]
    (folder / "metrics.csv").write_text("".join(",".join(line[i] for i in kept) + "\n" for line in lines))
    assert "theory" not in figures_of(folder)  # an old run


def test_many_criteria_show_those_that_moved_most():
    changes = {f"c{i}": Change(Point(0.5), Point(0.5), Point(i / 100)) for i in range(40)}
    figure = change_figure({"after": changes})
    assert (figure.rows, figure.span) == (tuple(f"c{i}" for i in range(16, 40)), (0, 1))
    other = change_figure({"m": {"a": changes["c1"]}, "n": {"b": changes["c2"]}})
    assert (other.rows, [mark.name for mark in other.marks]) == (("a", "b"), ["m", "n"])
    assert [math.isnan(point.value) for point in other.marks[0].after] == [False, True]
    later = change_figure({"m": {}, "n": {"b": changes["c2"]}})
    assert [(mark.name, mark.hue) for mark in later.marks] == [("n", 1)]  # a method keeps its colour
    beyond = Change(Point(0.5), Point(1.5), Point(1.0))
    assert change_figure({"m": {"a": beyond}}).span is None  # no share


def test_matplotlib_draws_what_is_there(stored):
    run = read_run(stored, rollouts=100)
    levels = run_levels(run)["key"]
    figure = level_figure([levels], 1)
    lines = [(line.get_color(), list(line.get_ydata())) for axis in matplotlib_figure(figure).axes for line in axis.get_lines()]
    assert lines == [(PALETTE[curve.hue % len(PALETTE)], list(curve.y)) for panel in figure.panels for curve in panel.curves]
    assert len(lines) == 28
    hatched = [area.get_hatch() for area in matplotlib_figure(share_figure({"m": [levels_of(9)]}, 1)).axes[0].collections]
    assert (hatched.count("//"), len(hatched)) == (1, 9)  # areas that repeat a colour
