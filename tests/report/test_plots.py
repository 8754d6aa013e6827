from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.evaluators.calibration import reliability_bins
from vitrail.report.plots import (
    HEIGHT,
    MAX_POINTS,
    TALL,
    WIDE,
    WIDTH,
    line_plot,
    lines_plot,
    log_ticks,
    reliability_plot,
    round_ticks,
    standalone,
    thin,
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 6))
def test_ticks_are_few_and_hold_the_values(low: float, span: float, num: int) -> None:
    ticks = round_ticks(low, low + span, num)
    slack = 1e-6 * (abs(low) + span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= num + 3


def test_thinning_keeps_the_level_and_the_ends_of_a_curve() -> None:
    points = [(float(x), 5.0 + (x % 2)) for x in range(10_000)]
    thinned = thin(points)
    assert len(thinned) == MAX_POINTS
    assert np.mean([y for _, y in thinned]) == pytest.approx(5.5, abs=0.01)
    assert thin(points[:7]) == points[:7]


@pytest.mark.parametrize(
    "points", [[(0.0, 1.0)], [(1.0, 2.0), (2.0, 2.0)], [(float(x), 1 / (x + 1)) for x in range(500)]]
)
def test_a_curve_stays_inside_its_frame(points: list[tuple[float, float]]) -> None:
    plot = line_plot(
        points, label="<loss> & more", x_label="epoch", y_format=str, css_class="loss", floor=(0.3, "floor"),
        mark=(*points[-1], "kept"),
    )  # fmt: skip
    root = ElementTree.fromstring(plot)
    assert root.attrib["aria-label"] == "<loss> & more"
    for x, y in re.findall(r"([\d.-]+),([\d.-]+)", plot):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= HEIGHT


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.floats(1e-3, 1e20), st.floats(1.0, 1e4))
def test_logarithmic_ticks_hold_the_values_and_are_no_further_than_needed(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert ticks[0] <= low * (1 + 1e-6) < 2.6 * ticks[0]
    assert ticks[-1] >= low * ratio * (1 - 1e-6) > ticks[-1] / 2.6


def test_lines_stay_inside_their_frame_their_names_apart_and_equal_ratios_look_equal() -> None:
    lines = {name: [(1e12 * 2**k, 0.5 + k / 100) for k in range(3) for _ in range(2)] for name in ("a <b>", "c", "d")}
    plot = lines_plot(lines, label="l", x_label="x", x_format=str, y_format=str, floor=(0.3, "floor"))
    root = ElementTree.fromstring(plot)
    heights = [float(e.attrib["y"]) for e in root if e.attrib.get("class") == "mark-text"]
    assert len(heights) == 3
    assert min(abs(a - b) for a, b in itertools.pairwise(heights)) >= 12
    paths = [e.attrib["points"] for e in root if e.tag == "polyline"]
    points = [tuple(map(float, point.split(","))) for point in paths[0].split()]
    assert len(points) == 3  # of each two repetitions the mean
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert all(0 <= x <= WIDE and 0 <= y <= TALL for x, y in points)


def test_names_of_many_lines_that_end_together_stay_inside_the_frame_and_apart() -> None:
    lines = {f"model {number}": [(1e9, 0.1), (2e9, 0.1)] for number in range(12)}
    plot = lines_plot(lines, label="l", x_label="x", x_format=str, y_format=str, floor=(0.9, "floor"))
    found = [float(e.attrib["y"]) for e in ElementTree.fromstring(plot) if e.attrib.get("class") == "mark-text"]
    heights = sorted(found)
    assert len(heights) == 12
    assert heights[0] > 0
    assert heights[-1] <= TALL
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 12


def test_reliability_has_a_bar_for_each_bin_that_is_used() -> None:
    labels = np.array([0, 0, 1])
    bins = reliability_bins(labels, np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]))
    root = ElementTree.fromstring(reliability_plot(bins, "reliability"))
    bars = [element for element in root if element.attrib.get("class") == "bar"]
    assert len(bars) == 2


def test_a_plot_as_a_file_of_its_own_knows_every_colour_that_it_names() -> None:
    lines = {"a": [(1.0, 1.0), (2.0, 2.0)]}
    plot = lines_plot(lines, label="a > b & c", x_label="x", x_format=str, y_format=str, floor=(0.3, "floor"))
    file = standalone(plot)
    root = ElementTree.fromstring(file)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["aria-label"] == "a > b & c"
    assert set(re.findall(r"var\((--[\w-]+)\)", file)) <= set(re.findall(r"(--[\w-]+):", file))
    assert "prefers-color-scheme: dark" in file
    assert "url(" not in file
