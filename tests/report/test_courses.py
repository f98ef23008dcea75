"""Figures of one run, and how they are drawn."""

import itertools
import math

import numpy as np
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
    assert len(shown) <= 10
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
    assert {curve.hue for curve in panel.curves} == {-1, *range(9)}


def test_areas_that_repeat_a_colour_are_hatched():
    figure = share_course(levels_of(9), 1)
    traces = plotly_spec(figure)["data"]
    assert len({(trace["line"]["color"], "fillpattern" in trace) for trace in traces}) == len(traces) == 9
    assert [area.get_hatch() for area in matplotlib_figure(figure).axes[0].collections].count("//") == 2


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


# Machado, Oliveira and Fernandes (2009): severe protanomaly and deuteranomaly, in linear RGB.
SIGHT = {
    "all colours": np.eye(3),
    "without red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def linear(tint):
    part = np.array([int(tint[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def oklab(part):
    """Ottosson (2020)."""
    first = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    second = [
        [0.2104542553, 0.793617785, -0.0040720468],
        [1.9779984951, -2.428592205, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.808675766],
    ]
    return np.array(second) @ np.cbrt(np.array(first) @ np.clip(part, 0, 1))


@pytest.mark.parametrize("sight", SIGHT)
def test_hues_can_be_told_apart(sight):
    seen = [oklab(np.array(SIGHT[sight]) @ linear(tint)) for tint in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.06  # a difference of 0.02 is just seen


@pytest.mark.parametrize("paper", ["#ffffff", "#14171b"])
def test_hues_stand_out_from_the_paper(paper):
    light = [np.array([0.2126, 0.7152, 0.0722]) @ linear(tint) + 0.05 for tint in (*PALETTE, paper)]
    assert min(max(one, light[-1]) / min(one, light[-1]) for one in light[:-1]) > 2.4


def test_an_axis_does_not_stretch_for_an_impossible_band():
    wide = Curve("a", [0, 1], [0.5, 0.4], [-3.0, -2.0], [4.0, 3.0])
    assert plotly_spec(CourseFigure((Panel("share", (wide,)),)))["layout"]["yaxis"]["range"] == pytest.approx([0, 1.06])
