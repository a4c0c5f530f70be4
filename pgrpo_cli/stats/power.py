"""Which differences an experiment detects, and how much larger it has to be for the one that it observed.

A difference is detected if it is farther from 0 than the errors of seeds and units reach by chance. So that
this happens with a probability of 80 %, the true difference has to lie beyond that point by the 80 % quantile
of the same errors. Both are of the two-level distribution from which the verdict is made (`methods.py`).
"""

from __future__ import annotations

import math
from dataclasses import replace

from .intervals import ROUNDING
from .methods import Difference, Part

POWER = 0.8


def detectable(difference: Difference, alpha: float) -> float:
    """The smallest true difference that this experiment detects with a probability of 80 %, in reward units.
    NaN if the standard error is unknown, or 0, or if units may be alike by chance.
    """
    if not difference.standard_error > ROUNDING or difference.chance_alike > alpha:
        return math.nan
    return difference.error_quantile(1 - alpha / 2) + difference.error_quantile(POWER)


def units_needed(difference: Difference, alpha: float, most: int) -> int | None:
    """How many seeds per method (or units in total, if each method has one seed) would detect the difference.

    This is the smallest number, more than there are and up to `most`, at which the observed difference is
    `detectable` with the observed variances. None if `most` are too few, for instance because the variance of
    the units alone is too large.
    """
    seeds = [part.count for part in difference.seeds]
    low, high = int(min(seeds)) if seeds else difference.unit_count, most
    if not difference.standard_error > ROUNDING or low >= most or not _detected(difference, alpha, most):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _detected(difference, alpha, middle) else (middle, high)
    return high


def hidden_by_units(difference: Difference, alpha: float) -> bool:
    """Whether the variance of the units alone hides the difference, however many seeds there are."""
    return abs(difference.mean) < detectable(replace(difference, seeds=()), alpha)


def _detected(difference: Difference, alpha: float, count: int) -> bool:
    """Whether the observed difference is detectable with so many seeds per method, or units in total."""
    seeds, units = difference.seeds, difference.units
    if seeds:
        # A single component is that of both methods.
        df = (count - 1) * 2 / len(seeds)
        seeds = tuple(Part(part.variance * part.count / count, df, count) for part in seeds)
    else:
        factor = count / difference.unit_count
        units = tuple(
            Part(part.variance / factor, max(1.0, part.count * factor - 1), round(part.count * factor))
            for part in units
        )
    return abs(difference.mean) >= detectable(replace(difference, seeds=seeds, units=units), alpha)
