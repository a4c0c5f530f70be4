"""The difference of two methods, each trained with one seed or several, on the same held-out prompts.

There is one value per seed and unit: d = mean + effect of the seed + effect of the unit + residual. The
variance of the mean over S seeds and U units is (variance of seeds) / S + (variance of units) / U + (residual
variance) / (S U). It is estimated by the mean squares of this two-way layout (Searle, Casella & McCulloch
1992, chapter 4). The observed variance between seeds already contains the residual variance, and so does that
between units. It must be counted once, so it is subtracted from the latter.

A unit is a prompt, or a user with all of its prompts, as in `intervals.py`. The mean is always over prompts.
A user with m of the P prompts has the value mean_s + (U/P) (sum_su - m mean_s), where sum_su is the sum over
its prompts at seed s and mean_s the mean over all prompts. The mean of these values over users is mean_s, and
their variance / U is that of a ratio of two sums, of which they are the linear part (Cochran 1977, chapter
6). If all users have equally many prompts, the value of a user is the mean over its prompts.

Resampling 2 to 5 seeds with replacement gives intervals that are far too short: in a simulation with 3 seeds
a nominal 95 % percentile interval contained the true value 84 % of the time. So the bootstrap here treats the
two levels differently. Units are resampled, as in `intervals.py`. Seeds are too few for that, and contribute
draws of Student's t times their standard error, with the degrees of freedom of Welch's test: the same seed
in two methods does not make their runs alike (in the runs of docs/reproduction.md their results correlated
between -0.4 and +0.5), so seeds are not paired. If each method has one seed, only units are resampled, and
the interval is that of `intervals.py`.

The sum of the two levels is conservative: with 2 or 3 seeds the interval is longer than necessary if both
levels matter. A single t for the total, by Welch and Satterthwaite, would be too short by a larger amount
(docs/metrics.md has the lengths, `tests/stats/test_methods_coverage.py` tests them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import ArrayLike

from .intervals import (
    ROUNDING,
    Bootstrap,
    Clustered,
    Floats,
    Interval,
    Units,
    chance_alike,
    normal_half,
    resampled_means,
    small_sample_factor,
    unit_places,
)
from .student_t import Words, student_t_draws, student_t_quantile, two_sided_p, welch_df, words_of

_P_DRAWS = 8000
_FEW_SEEDS = 3


@dataclass(frozen=True)
class Part:
    """A component of the variance of a mean, its degrees of freedom, and its number of seeds or units: the
    variance with n of them (seeds: in each method) is variance * count / n.
    """

    variance: float
    df: float
    count: float


@dataclass(frozen=True)
class Difference:
    """A mean difference over K preference groups, each counted once, and the components of its variance.

    - `seeds`: one component per method with several seeds, none if each method has one seed.
    - `units`: one component per preference group; its variance is NaN if there is a single unit.
    - `deviations`: per preference group, the deviations of units from the mean, scaled down so that their
      variance does not contain the residual variance.
    - `effect_size`: the mean divided by the standard deviation of the prompts' differences (Cohen's d_z),
      pooled over preference groups.
    - `residual`: the part of the seeds' components that comes from what seed and unit have together, which
      includes the sampling of completions.
    - `chance_alike`: how often, at most, units without a spread are so by chance (`intervals.py`).
    """

    mean: float
    seeds: tuple[Part, ...]
    units: tuple[Part, ...]
    deviations: tuple[Clustered, ...]
    effect_size: float
    residual: float = 0.0
    chance_alike: float = 0.0

    @property
    def unit_count(self) -> int:
        """The number of units in all preference groups."""
        return round(sum(part.count for part in self.units))

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, from seeds and units together."""
        return math.sqrt(math.fsum(part.variance for part in (*self.seeds, *self.units)))

    def seed_half(self, level: float) -> float:
        """The quantile of the error of the mean that comes from the choice of seeds."""
        variance = math.fsum(part.variance for part in self.seeds)
        return 0.0 if variance == 0 else math.sqrt(variance) * student_t_quantile(level, _df(self.seeds))

    def unit_half(self, level: float) -> float:
        """The quantile of the error of the mean that comes from the choice of units."""
        variance = math.fsum(part.variance for part in self.units)
        return math.sqrt(variance) * student_t_quantile(level, max(1.0, _df(self.units))) if variance else 0.0

    def error_quantile(self, level: float) -> float:
        """The quantile of both errors together: about the root of the sum of their squared quantiles, as they
        are independent.
        """
        return math.hypot(self.seed_half(level), self.unit_half(level))

    def seed_draws(self, count: int, words: Words) -> Floats:
        """`count` draws of that error."""
        variance = math.fsum(part.variance for part in self.seeds)
        if variance == 0:
            return np.zeros(count)
        return math.sqrt(variance) * student_t_draws(count, _df(self.seeds), words)


def difference_of(
    strata: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    units: Sequence[Units | None] | None = None,
) -> Difference:
    """Values minus reference. `strata`: for each preference group ([S, P], [T, P]), with the same P prompts.

    `units`: for each preference group the unit of each prompt; None: each prompt is a unit. Raises ValueError
    if the numbers of prompts differ.
    """
    arrays = [(np.asarray(v, np.float64), np.asarray(r, np.float64)) for v, r in strata]
    for values, reference in arrays:
        if values.shape[1] != reference.shape[1]:
            raise ValueError(f"shapes {values.shape} and {reference.shape} have other prompts")
    layouts = [
        _Layout.of(*stratum, units_P)
        for stratum, units_P in zip(arrays, units or [None] * len(arrays), strict=True)
    ]
    share = 1 / len(strata)
    sides = [[layout.values for layout in layouts], [layout.reference for layout in layouts]]
    seeds, residuals = _seed_parts(sides)
    parts, deviations = zip(*map(_unit_part, layouts, residuals, [share] * len(layouts)), strict=True)
    mean = math.fsum(share * float((v.mean(axis=0) - r.mean(axis=0)).mean()) for v, r in arrays)
    spread = math.sqrt(math.fsum(_variance(v.mean(axis=0) - r.mean(axis=0)) for v, r in arrays) * share)
    effect = mean / spread if spread > ROUNDING else math.nan
    counts = [part.count for part in parts]
    flat = [
        _variance(layout.difference_U) / n <= ROUNDING**2 for layout, n in zip(layouts, counts, strict=True)
    ]
    alike = chance_alike(counts, flat, [share] * len(counts))
    return Difference(mean, seeds, parts, deviations, effect, share**2 * math.fsum(residuals), alike)


@dataclass(frozen=True)
class _Layout:
    """Values and reference of one preference group by seed and unit, and the number of prompts per unit."""

    values: Floats
    reference: Floats
    sizes_U: Floats

    @property
    def difference_U(self) -> Floats:
        return self.values.mean(axis=0) - self.reference.mean(axis=0)

    @classmethod
    def of(cls, values_SP: Floats, reference_TP: Floats, units_P: Units | None) -> _Layout:
        P = values_SP.shape[1]
        place_P, sizes_U = unit_places(range(P) if units_P is None else units_P, P)
        if len(sizes_U) == P:
            return cls(values_SP, reference_TP, sizes_U)

        def by_unit(values_SP: Floats) -> Floats:
            sums_SU = np.stack([np.bincount(place_P, values_P, len(sizes_U)) for values_P in values_SP])
            means_S1 = values_SP.mean(axis=1, keepdims=True)
            return means_S1 + (sums_SU - sizes_U * means_S1) * len(sizes_U) / P

        return cls(by_unit(values_SP), by_unit(reference_TP), sizes_U)


def _unit_part(layout: _Layout, residual: float, share: float) -> tuple[Part, Clustered]:
    """The variance of units without the residual variance, and their deviations from the mean."""
    difference_U = layout.difference_U
    U = len(difference_U)
    variance = _variance(difference_U)
    kept = max(0.0, 1 - residual / (variance / U)) if variance > 0 else 1.0
    # From values of units back to sums over their prompts: resampling divides sums by numbers of prompts.
    scale = math.sqrt(kept) * float(layout.sizes_U.sum()) / U
    deviations = Clustered(scale * (difference_U - difference_U.mean()), layout.sizes_U)
    return Part(share**2 * kept * variance / U, U - 1, U), deviations


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else math.nan


def seeds_interval(difference: Difference, bootstrap: Bootstrap) -> Interval:
    """The two-level bootstrap interval of a difference over several seeds (see the module's docstring)."""
    mean = difference.mean
    unknown = any(math.isnan(part.variance) for part in difference.units)
    if unknown or difference.chance_alike > 1 - bootstrap.confidence:
        return Interval(mean, math.nan, math.nan)
    if not difference.standard_error > ROUNDING:
        return Interval(mean, mean, mean)
    shares = [1 / len(difference.deviations)] * len(difference.deviations)
    tail = bootstrap.tail
    stretch = small_sample_factor(difference.deviations, shares, 1 - tail) if bootstrap.small_sample else 1.0
    if bootstrap.too_few:
        # The quantile of a sum of independent errors is about the root of the sum of their squared quantiles.
        of_units = stretch * normal_half(difference.deviations, shares, 1 - tail)
        half = math.hypot(difference.seed_half(1 - tail), of_units)
        return Interval(mean, mean - half, mean + half)
    words = words_of(bootstrap.seed)
    means_B = difference.seed_draws(bootstrap.samples, words)
    for share, deviations in zip(shares, difference.deviations, strict=True):
        means_B += stretch * share * resampled_means(deviations, bootstrap.samples, words)
    low, high = np.quantile(means_B, [tail, 1 - tail]).tolist()
    return Interval(mean, mean + low, mean + high)


def p_value(difference: Difference) -> float:
    """The two-sided p-value; NaN if the spread is unknown.

    With one seed each it is that of Student's t with the standard error over units. For one preference group
    whose units are prompts this is the paired t-test. With several seeds it is the probability, under the
    two-level distribution of `seeds_interval`, of a value at least as far from 0 as the mean; the part of the
    units is taken as normal. It is at least the probability that units are alike by chance, which is that of
    the sign test if there is no spread at all.
    """
    error, mean = difference.standard_error, abs(difference.mean)
    if math.isnan(error):
        return math.nan
    if error <= ROUNDING:
        return 1.0 if mean <= ROUNDING else difference.chance_alike
    spread = math.sqrt(math.fsum(part.variance for part in difference.units))
    if not difference.seeds or spread <= ROUNDING:
        found = two_sided_p(mean / error, _df([*difference.seeds, *difference.units]))
        return max(found, difference.chance_alike)
    draws_B = difference.seed_draws(_P_DRAWS, words_of(0))
    level = 0.975
    stretch = student_t_quantile(level, _df(difference.units)) / NormalDist().inv_cdf(level)
    scale = max(spread * stretch, ROUNDING) * math.sqrt(2)
    return max(fmean(map(math.erfc, ((mean - draws_B) / scale).tolist())), difference.chance_alike)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down procedure (1979), in the given order. NaN stays and is not
    counted.
    """
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def variance_shares(difference: Difference) -> tuple[float, float, float] | None:
    """The shares of seeds, of units, and of the rest in the variance of the mean. The rest is the residual of
    the two-way layout: what seed and prompt have together, and the sampling of completions. None with one
    seed per method, where they cannot be told apart.
    """
    if not difference.seeds or not difference.standard_error > ROUNDING:
        return None
    total = difference.standard_error**2
    # The seeds' component contains the residual, which is only estimated: it may be the larger one.
    seeds = max(0.0, math.fsum(part.variance for part in difference.seeds) - difference.residual)
    units = math.fsum(part.variance for part in difference.units)
    return seeds / total, units / total, 1 - (seeds + units) / total


def _seed_parts(sides: Sequence[Sequence[Floats]]) -> tuple[tuple[Part, ...], list[float]]:
    """The variance components of the seeds, and for each preference group the residual variance / (S U),
    which must be subtracted from the variance of its units.

    A side with one seed is assumed to have the same variance between seeds as the other side, and so is one
    with 2 or 3 if the other has more.
    """
    K = len(sides[0])
    counts = [len(side[0]) for side in sides]
    if max(counts) == 1:
        return (), [0.0] * K
    of_side = []
    for side, count in zip(sides, counts, strict=True):
        if count > 1:
            means_S = np.stack([values.mean(axis=1) for values in side]).mean(axis=0)
            of_side.append((_variance(means_S), count - 1, [_residual_variance(values) for values in side]))
    if len(of_side) < len(sides):
        ((variance, df, residuals),) = of_side
        scale = math.fsum(1 / count for count in counts)
        return (Part(variance * scale, df, 2 / scale),), [residual * scale for residual in residuals]
    if min(counts) <= _FEW_SEEDS and counts[0] != counts[1]:
        # The variance of the few is as good as unknown, and Welch's degrees of freedom would not tell.
        freedom = sum(df for _, df, _ in of_side)
        pooled = math.fsum(variance * df for variance, df, _ in of_side) / freedom
        scale = math.fsum(1 / count for count in counts)
        parts = [Part(pooled * scale, freedom, 2 / scale)]
    else:
        parts = [Part(v / count, df, count) for (v, df, _), count in zip(of_side, counts, strict=True)]
    residuals = [
        math.fsum(own[k] / count for (_, _, own), count in zip(of_side, counts, strict=True))
        for k in range(K)
    ]
    return tuple(parts), residuals


def _residual_variance(values_SU: Floats) -> float:
    """Residual variance divided by the number of units."""
    S, U = values_SU.shape
    if U == 1:
        return 0.0
    residuals_SU = (
        values_SU
        - values_SU.mean(axis=0, keepdims=True)
        - values_SU.mean(axis=1, keepdims=True)
        + values_SU.mean()
    )
    return float((residuals_SU**2).sum()) / ((S - 1) * (U - 1)) / U


def _df(parts: Sequence[Part]) -> float:
    return welch_df((part.variance, part.df) for part in parts)
