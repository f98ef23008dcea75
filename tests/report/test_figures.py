"""Colours, and figures drawn by matplotlib. The browser's are in test_browser.py."""

import itertools
import math

import numpy as np
import pytest

from lightning_focal.report.figures import (
    GREY,
    PALETTE,
    CourseFigure,
    Curve,
    IntervalFigure,
    Marks,
    Panel,
    Point,
    matplotlib_figure,
)

NASTY = ["$\\alpha$", "line\nbreak", "\u2028", "\ud800", "", "x" * 300, "日本語", "</script>"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_stay_text():
    panels, intervals = [], [IntervalFigure((), (), "score")]  # an empty figure is drawn, too
    for name in NASTY:
        curve = Curve(name, [0, 1], [0.1, math.nan], [0.0, 0.0], [0.2, 0.2])
        panels += [Panel(name, (curve,)), Panel("stack", (Curve(name, [0], [1.0]),), (0, 1), stacked=True)]
        marks = Marks(name, [Point(0.1, 0.0, 0.2)], [Point(0.3)]), Marks(name, [Point(math.nan)], [Point(0.3)], 9)
        intervals.append(IntervalFigure((name,), marks[: len(intervals)], name))
    for figure in (CourseFigure(tuple(panels)), CourseFigure(()), *intervals):
        matplotlib_figure(figure).savefig("/dev/null", format="png", dpi=30)


def test_intervals_and_their_direction():
    assert [point.direction for point in (Point(1, 0.5, 2), Point(-1, -2, -0.5), Point(0, -1, 1), Point(1))] == [1, -1, 0, 0]
    assert Point(0.5, -0.19, 1.57).within() == Point(0.5, 0.0, 1.0)
    assert Point(2.0, -1, 3).within() == Point(2.0, -1, 3)  # no share
    figure = CourseFigure((Panel("score", (Curve("a", [0, 1], [0.5, 0.5], [0.4, 0.4], [0.6, 0.6]),)),))
    assert len(matplotlib_figure(figure).axes[0].collections) == 1  # a band


# Machado, Oliveira and Fernandes (2009): severe protanomaly and deuteranomaly, in linear RGB.
SIGHT = {
    "all colours": np.eye(3),
    "without red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
OKLAB = (  # Ottosson (2020)
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]],
    [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099], [0.0259040371, 0.7827717662, -0.808675766]],
)  # fmt: skip


def linear(tint):
    part = np.array([int(tint[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("sight", SIGHT)
def test_hues_can_be_told_apart(sight):
    first, second = map(np.array, OKLAB)
    seen = [second @ np.cbrt(first @ np.clip(np.array(SIGHT[sight]) @ linear(tint), 0, 1)) for tint in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.1  # a difference of 0.02 is just seen
    assert GREY not in PALETTE


@pytest.mark.parametrize("paper", ["#ffffff", "#14171b"])
def test_hues_stand_out_from_the_paper(paper):
    light = [np.array([0.2126, 0.7152, 0.0722]) @ linear(tint) + 0.05 for tint in (*PALETTE, paper)]
    assert min(max(one, light[-1]) / min(one, light[-1]) for one in light[:-1]) > 2.4
