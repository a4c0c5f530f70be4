"""Heat maps: every cell said, colours by sign and size, names escaped."""

from __future__ import annotations

import math

from pgrpo_cli.report.heat_map import heat_map

EVIL = "<b>a name that is long"


def test_cells_say_what_they_are() -> None:
    svg = heat_map("base model", ["calm", EVIL], [[1.0, -0.5], [math.nan, 3.0]])
    assert svg.count("<rect") == 4 and svg.count("heat good own") == 2
    # Strongest from 2 on: opacity 0.6 · 1/2, 0.6 · 0.5/2 and 0.6.
    assert 'fill-opacity="0.30"' in svg and 'fill-opacity="0.15"' in svg and 'fill-opacity="0.60"' in svg
    assert "calm by &lt;b&gt;a name that is long: -0.5" in svg and "calm: n/a" in svg
    assert "<b>" not in svg
    # Diagonal 1 and 3; the rest -0.5.
    assert "Mean of the diagonal +2.00, of the rest -0.50" in svg


def test_an_unknown_mean_is_said() -> None:
    svg = heat_map("base model", ["calm", "loud"], [[math.nan, 0.5], [0.25, math.nan]])
    # Nothing on the diagonal; the rest 0.5 and 0.25.
    assert "Mean of the diagonal n/a, of the rest +0.38" in svg
