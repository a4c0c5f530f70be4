"""Intervals of one mean, and of a weighted mean of means."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from pgrpo_cli.stats.intervals import Bootstrap, Interval, Units, combination_interval


def mean_interval(values: ArrayLike, bootstrap: Bootstrap, units: Units | None = None) -> Interval:
    """The mean over the prompts of one preference group."""
    return combination_interval([values], bootstrap, [1.0], [units])


def stratified_interval(
    strata: Sequence[ArrayLike],
    bootstrap: Bootstrap,
    weights: Sequence[float] | None = None,
    units: Sequence[Units | None] | None = None,
) -> Interval:
    """The mean of the means of preference groups, by weights of any sum, or each counted once."""
    weights = [1.0] * len(strata) if weights is None else weights
    return combination_interval(strata, bootstrap, [weight / sum(weights) for weight in weights], units)
