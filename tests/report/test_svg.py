"""Plots: coordinates by hand, valid XML, text alternatives, nothing unescaped."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.report.svg import ForestRow, Series, forest_plot, line_panel, ticks
from pgrpo_cli.stats.curves import Curve

CURVE = Curve((1, 3, 5), (0.0, 1.0, 0.5), (0.0, 0.5, 0.5))


def panel(*series: Series, title: str = "Learning curve") -> ElementTree.Element:
    svg = line_panel(title, series, x_range=(1, 5), x_label="step", y_label="reward")
    return ElementTree.fromstring(svg)


def forest(*rows: ForestRow, title: str = "Change") -> ElementTree.Element:
    return ElementTree.fromstring(forest_plot(title, rows, x_label="reward"))


def test_a_line_goes_through_the_smoothed_values() -> None:
    # x: 44 to 308 for steps 1 to 5, so 66 a step. y: 156 to 22 for rewards 0 to 1.
    line = panel(Series("run", CURVE, 0)).find("polyline")
    assert line is not None
    assert line.get("points") == "44.0,156.0 176.0,89.0 308.0,89.0"
    assert line.get("class") == "line c0"


def test_dots_stand_at_the_raw_values() -> None:
    dots = panel(Series("run", CURVE, 1)).find("path")
    assert dots is not None
    assert dots.get("d") == "M44.0 156.0h0M176.0 22.0h0M308.0 89.0h0"


def test_many_dots_are_averaged_to_few() -> None:
    steps = tuple(range(1, 1001))
    curve = Curve(steps, tuple(float(step % 2) for step in steps), (0.5,) * 1000)
    svg = line_panel("many", [Series("run", curve, 0)], x_range=(1, 1000), x_label="step", y_label="reward")
    dots = ElementTree.fromstring(svg).find("path")
    assert dots is not None
    # 1000 dots in bins of three: 334.
    assert dots.get("d", "").count("M") == 334


def test_the_axis_shows_the_range_of_the_page_not_of_the_series() -> None:
    labels = [text.text for text in panel(Series("run", Curve((3,), (0.5,), (0.5,)), 0)).findall("text")]
    assert {"1", "5"} <= set(labels)
    assert {"step", "reward"} <= set(labels)


def test_nothing_recorded_is_said() -> None:
    assert "no rewards recorded" in line_panel("t", [], x_range=(0, 1), x_label="step", y_label="reward")


def test_a_panel_has_a_text_alternative() -> None:
    svg = panel(Series("my run", CURVE, 0), title="Learning curve: calm")
    assert svg.get("role") == "img"
    assert svg.findtext("title") == "Learning curve: calm"
    assert svg.findtext("desc") == "reward by step, smoothed: my run from 0 to 0.5."
    assert svg.get("aria-label", "").startswith("Learning curve: calm")


def test_intervals_of_a_forest_plot() -> None:
    # Ticks 0 to 0.4 by 0.1; x from 138 to 388, so 62.5 a tenth.
    svg = forest(ForestRow("calm", 0.2, 0.1, 0.4, "good"))
    whisker = next(line for line in svg.findall("line") if "whisker" in line.get("class", ""))
    assert (whisker.get("x1"), whisker.get("x2")) == ("200.5", "388.0")
    mark = svg.find("circle")
    assert mark is not None
    assert (mark.get("cx"), mark.get("class")) == ("263.0", "mark good")


def test_the_line_of_no_difference_is_always_there() -> None:
    for row in (ForestRow("up", 0.5, 0.4, 0.6, "good"), ForestRow("down", -0.5, -0.6, -0.4, "bad")):
        zero = [line.get("x1") for line in forest(row).findall("line") if line.get("class") == "zero"]
        assert len(zero) == 1


def test_an_unknown_interval_is_not_drawn() -> None:
    svg = forest(
        ForestRow("one prompt", 0.2, math.nan, math.nan, "muted"), ForestRow("none", *[math.nan] * 3, "muted")
    )
    assert not [line for line in svg.findall("line") if "whisker" in line.get("class", "")]
    assert len(svg.findall("circle")) == 1
    assert "one prompt +0.2 (no interval); none n/a." in str(svg.get("aria-label"))
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode")


def test_names_are_escaped_and_long_ones_cut() -> None:
    rows = [ForestRow(name, 0.2, 0.1, 0.3, "good") for name in ("<script>alert(1)</script>", "<b>&</b>")]
    svg = forest(*rows, title="a & b")
    label, short = (text for text in svg.findall("text") if text.get("class") == "label")
    assert short.text == "<b>&</b>"
    assert label.text == "<script>alert(1)<…"
    assert label.findtext("title") == "<script>alert(1)</script>"
    assert svg.find("script") is None


def test_a_summary_is_a_diamond() -> None:
    svg = forest(ForestRow("macro mean", 0.2, 0.1, 0.3, "good", summary=True))
    assert svg.find("circle") is None and svg.find("polygon") is not None


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 4, [0, 0.5, 1]),
        (-0.013, 0.34, 5, [-0.1, 0, 0.1, 0.2, 0.3, 0.4]),
        (0.1, 0.3, 4, [0.1, 0.15, 0.2, 0.25, 0.3]),
        (3, 3, 4, [1, 2, 3, 4, 5]),
        (0, 0, 4, [-0.5, 0, 0.5]),
        (0.1, 0.1 + 1e-16, 4, [0.05, 0.1, 0.15]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_hold_the_range(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    assert found[0] <= low + 1e-9 * (abs(low) + span) and found[-1] >= low + span - 1e-9 * (abs(low) + span)
    assert 2 <= len(found) <= most + 2
    steps = [b - a for a, b in pairwise(found)]
    assert min(steps) == pytest.approx(max(steps), rel=1e-3)
