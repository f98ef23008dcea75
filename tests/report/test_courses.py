"""Figures of one run, and how they are drawn."""

import math

import pytest

from lightning_focal.report.courses import balance_course, health_course, hues, level_course, over_time, share_course, vote_course
from lightning_focal.report.figures import PALETTE, CourseFigure, Curve, IntervalFigure, Panel, Point, colour
from lightning_focal.report.levels import Levels, run_levels
from lightning_focal.report.matplotlib_draw import matplotlib_figure
from lightning_focal.report.metrics import Series
from lightning_focal.report.plotly_draw import plotly_spec
from lightning_focal.report.run import read_run
from tests.report.made_run import make_run


def series(values):
    made = Series()
    for batch, value in enumerate(values):
        made.add(batch, value)
    return made


def levels_of(count):
    one = {f"c{i:02d}": series([0.5, 0.5 + i / 1000]) for i in range(count)}
    return Levels(one, one, {name: series([1 / count] * 2) for name in one}, {name: series([1 / count] * 2) for name in one})


def test_long_runs_are_thinned_and_keep_their_end():
    curve = over_time("a", series([i / 5000 for i in range(5000)]), 10, 0, faint=True)
    assert len(curve.x) <= 302
    assert curve.x[-1] == 4999
    assert curve.y[-1] == pytest.approx(sum(i / 5000 for i in range(4990, 5000)) / 10)
    assert len(curve.faint) == len(curve.x)


def test_a_window_of_one_has_nothing_behind_it():
    assert over_time("a", series([0.1, 0.2]), 1, 0, faint=True).faint == ()


def test_few_labels_are_all_in_colour():
    assert hues(levels_of(10)) == {f"c{i:02d}": i for i in range(10)}


def test_of_64_labels_the_telling_ones_are_in_colour():
    levels = levels_of(64)
    levels.score["c07"] = series([0.9, 0.1])  # fell furthest
    levels.weight["c09"] = series([0.0, 0.5])  # gets most weight
    found = hues(levels)
    shown = {label for label, hue in found.items() if hue >= 0}
    assert {"c07", "c09", "c63"} <= shown
    assert len(shown) <= len(PALETTE)
    assert len({found[label] for label in shown}) == len(shown)


def test_the_three_share_one_axis():
    figure = level_course(levels_of(9), 1)
    assert [panel.title for panel in figure.panels] == ["score", "saturation", "weight"]
    spec = plotly_spec(figure)
    assert {trace["xaxis"] for trace in spec["data"]} == {"x"}
    assert {trace["yaxis"] for trace in spec["data"]} == {"y", "y2", "y3"}
    assert len(spec["legend"]) == 9  # one entry a criterion, not one a line


def test_stacked_shares_make_one():
    figure = share_course(levels_of(64), 1)
    (panel,) = figure.panels
    assert [sum(curve.y[at] for curve in panel.curves) for at in (0, 1)] == pytest.approx([1, 1])
    assert panel.curves[-1].name == "55 others"
    assert len({curve.hue for curve in panel.curves}) == 10


def test_a_single_criterion_needs_no_shares():
    assert share_course(levels_of(1), 1) == CourseFigure(())


def test_balance_of_a_run(tmp_path):
    run = read_run(make_run(tmp_path, batches=4, evaluations=(0, 2, None)))
    figure = balance_course(run, 1)
    assert [panel.title for panel in figure.panels] == ["worst criterion", "Gini coefficient", "strict completion"]
    training, held_out = figure.panels[1].curves
    assert list(training.y) == pytest.approx(run.metrics["train/balance/gini"].values)
    assert list(held_out.x) == [0, 2, 4]
    assert list(held_out.y) == pytest.approx([entry["measures"]["val/balance/gini"] for entry in run.evaluations])


def test_votes_are_drawn_where_there_are_some(tmp_path):
    def votes(batch):
        return {"train/vote/share": 0.5 + batch / 10, "train/vote/accuracy": math.nan, "train/collapse/signs": float(batch > 2)}

    assert vote_course(read_run(make_run(tmp_path / "a", batches=3)), 1).panels == ()
    figure = vote_course(read_run(make_run(tmp_path / "b", batches=4, extra=votes)), 1)
    assert [[curve.name for curve in panel.curves] for panel in figure.panels] == [["votes for the label"], ["signs in force"]]


def test_health(tmp_path):
    figure = health_course(read_run(make_run(tmp_path, batches=3)), 1)
    assert [panel.title for panel in figure.panels][:2] == ["reward", "response length, tokens"]


NASTY = ['<b onclick="x">', "</script>", "a & b", "%{x}", "$\\alpha$", "line\nbreak", "\u2028", "\ud800", "", "x" * 300, "日本語"]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", NASTY)
def test_names_stay_text(name):
    curve = Curve(name, [0, 1], [0.1, math.nan], [0.0, 0.0], [0.2, 0.2])
    course = CourseFigure((Panel(name, (curve,)), Panel("stack", (Curve(name, [0], [1.0]),), (0, 1), stacked=True)))
    intervals = IntervalFigure((name,), {"before": [Point(0.1, 0.0, 0.2)], "after": [Point(0.3)]}, name)
    for figure in (course, intervals):
        spec = plotly_spec(figure)
        for trace in spec["data"]:
            assert "<" not in trace.get("name", "")
        texts = [a["text"] for a in spec["layout"].get("annotations", [])] + list(spec["layout"]["yaxis"].get("ticktext", []))
        assert not any("<" in text for text in texts)
        matplotlib_figure(figure).savefig("/dev/null", format="png")


def test_an_empty_figure_is_drawn():
    for figure in (CourseFigure(()), IntervalFigure((), {"before": [], "after": []}, "score")):
        plotly_spec(figure)
        matplotlib_figure(figure).savefig("/dev/null", format="png")


def test_matplotlib_shows_what_plotly_shows(tmp_path):
    run = read_run(make_run(tmp_path, batches=5), rollouts=100)
    figure = level_course(run_levels(run)["key"], 1)
    drawn = matplotlib_figure(figure)
    lines = [(line.get_color(), [float(y) for y in line.get_ydata()]) for axis in drawn.axes for line in axis.get_lines()]
    spec = [(trace["line"]["color"], trace["y"]) for trace in plotly_spec(figure)["data"]]
    assert len(lines) == len(spec) == 21
    for (one, ours), (other, theirs) in zip(lines, spec, strict=True):
        assert one == other
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_bands_go_to_both():
    figure = CourseFigure((Panel("score", (Curve("a", [0, 1], [0.5, 0.5], [0.4, 0.4], [0.6, 0.6]),)),))
    assert len(matplotlib_figure(figure).axes[0].collections) == 1
    assert [trace["fill"] for trace in plotly_spec(figure)["data"][:2]] == ["none", "tonexty"]


def test_hues():
    assert colour(-1) not in PALETTE
    assert colour(len(PALETTE)) == colour(0)
    assert len(set(PALETTE)) == len(PALETTE)


def test_an_axis_does_not_stretch_for_an_impossible_band():
    wide = Curve("a", [0, 1], [0.5, 0.4], [-3.0, -2.0], [4.0, 3.0])
    assert plotly_spec(CourseFigure((Panel("share", (wide,)),)))["layout"]["yaxis"]["range"] == pytest.approx([0, 1.06])
