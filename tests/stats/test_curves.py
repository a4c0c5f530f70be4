"""Smoothing by hand."""

from __future__ import annotations

import pytest

from pgrpo_cli.stats.curves import Curve, group_curves, half_life_of, macro_curve

POINTS = [
    (1, "calm", 1.0, 2),
    (1, "loud", 5.0, 1),
    (3, "calm", 4.0, 1),
    (5, "loud", 7.0, 1),
    (5, "calm", 0.0, 4),
]


def test_smoothing_weighs_by_age_and_count() -> None:
    # Half-life 2. calm at step 1: 1. At 3: (2 * 1/2 * 1 + 1 * 4) / (2 * 1/2 + 1) = 5/2.
    # At 5: (5 * 1/2 + 4 * 0) / (2 * 1/2 + 4) = 2.5 / 5.
    # loud at 5, two half-lives on: (5 * 1/4 + 7) / (1/4 + 1) = 6.6.
    curves = group_curves(POINTS[::-1], half_life=2)
    assert list(curves) == ["calm", "loud"]
    assert curves["calm"] == Curve((1, 3, 5), (1.0, 4.0, 0.0), (1.0, 2.5, 0.5))
    assert curves["loud"].steps == (1, 5)
    assert curves["loud"].smooth == pytest.approx((5.0, 6.6))


def test_the_macro_curve_counts_each_group_once_and_starts_when_all_are_there() -> None:
    # loud appears at step 3 only: no value at step 1. At 5 it keeps its last value.
    curves = {"calm": Curve((1, 3, 5), (), (1.0, 2.0, 3.0)), "loud": Curve((3,), (), (6.0,))}
    assert macro_curve(curves) == Curve((3, 5), (), (4.0, 4.5))


def test_nothing_recorded_gives_nothing() -> None:
    assert group_curves([], half_life_of([])) == {}
    assert macro_curve({}) == Curve((), (), ())


def test_half_life_follows_the_length_of_the_run() -> None:
    assert half_life_of([(24, "calm", 1.0, 1), (2, "calm", 1.0, 1)]) == 2.0
    assert half_life_of([(3, "calm", 1.0, 1)]) == 1.0
