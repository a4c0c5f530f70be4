"""Bootstrap intervals of mean rewards: of a preference group, of a difference, over preference groups.

The unit of resampling is the prompt, because completions of one prompt are not independent. The value of a
prompt is the mean over its completions, and prompts are drawn with replacement within each preference group
(a stratum). If users have several prompts each, prompts of one user are not independent either. Then users
are drawn, each with all of its prompts (a cluster bootstrap), and the mean over prompts is the ratio of two
sums over the drawn users. Below, a unit is what is drawn: a prompt, or a user.

The percentile interval (Efron 1979) is too short if there are few prompts: with 8 prompts a nominal 95 %
interval of a mean contains the true value 88 % of the time. There are two causes. SE_boot, the standard
deviation of the resampled means, is smaller than the standard error by a factor of sqrt((n - 1)/n). And the
normal quantile z is smaller than that of Student's t, here with Welch's and Satterthwaite's degrees of
freedom over the strata. So by default the distance of both ends from the mean is multiplied by SE/SE_boot *
t/z. With 8 prompts this covers 94 %. It is the correction behind the "expanded percentile" interval of
Hesterberg (2015, arXiv 1411.5279), applied to the ends instead of the levels, so that it also works for fewer
than 6 prompts. Such an interval may extend beyond the range of the rewards. `small_sample=False` gives the
plain percentile interval.

Percentiles need resampled means beyond them. Where fewer than 5 are expected, as for a coverage that is
corrected for many preference groups, the ends are those of a normal distribution with SE_boot, and after the
correction above those of Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .student_t import Words, student_t_quantile, welch_df, words_of

Floats = NDArray[np.float64]

_MAX_DRAWS_AT_ONCE = 4_000_000
_LEAST_BEYOND = 5


ROUNDING = 1e-12
"""Smaller differences between rewards are rounding errors of float64."""


@dataclass(frozen=True)
class Interval:
    """A mean with both ends of its interval, in reward units.

    `low` and `high` are NaN if a stratum has a single unit, since its spread is unknown, and if a stratum may
    have no spread by chance (`chance_alike`). All three are NaN if a stratum has no prompt.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed: number of resamples, nominal coverage, and the seed of the draws."""

    samples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    small_sample: bool = True

    def __post_init__(self) -> None:
        if self.samples < 2 or not 0 < self.confidence < 1:
            given = f"samples={self.samples} confidence={self.confidence}"
            raise ValueError(f"need samples >= 2 and 0 < confidence < 1, got {given}")

    @property
    def tail(self) -> float:
        """The share of resampled means beyond each end."""
        return (1 - self.confidence) / 2

    @property
    def too_few(self) -> bool:
        """Whether there are too few resampled means for percentiles."""
        return self.samples * self.tail < _LEAST_BEYOND - 1e-9


Units = Sequence[Hashable]
"""The unit of each value of a stratum."""


def combination_interval(
    strata: Sequence[ArrayLike],
    bootstrap: Bootstrap,
    coefficients_K: Sequence[float],
    units: Sequence[Units | None] | None = None,
) -> Interval:
    """The sum of coefficient times mean over K preference groups. Coefficients may be negative, so that this
    includes differences of means.

    `units`: for each stratum the unit of each value; None: each value is a unit. A unit that occurs in
    several strata is drawn independently in each of them.
    """
    units = [None] * len(strata) if units is None else units
    if len(strata) != len(coefficients_K):
        raise ValueError(f"{len(strata)} strata but {len(coefficients_K)} weights")
    values = [_float64(values_P) for values_P in strata]
    if not values or any(len(values_P) == 0 for values_P in values):
        return Interval(math.nan, math.nan, math.nan)
    mean = math.fsum(c * float(v.mean()) for c, v in zip(coefficients_K, values, strict=True))
    clustered = [Clustered.of(v, u) for v, u in zip(values, units, strict=True)]
    if any(stratum.count == 1 for stratum in clustered):
        return Interval(mean, math.nan, math.nan)

    flat = [stratum.variance_of_mean <= ROUNDING**2 for stratum in clustered]
    if chance_alike([s.count for s in clustered], flat, coefficients_K) > 1 - bootstrap.confidence:
        return Interval(mean, math.nan, math.nan)
    if all(flat):
        return Interval(mean, mean, mean)
    tail = bootstrap.tail
    stretch = small_sample_factor(clustered, coefficients_K, 1 - tail) if bootstrap.small_sample else 1.0
    if bootstrap.too_few:
        half = stretch * normal_half(clustered, coefficients_K, 1 - tail)
        return Interval(mean, mean - half, mean + half)
    words = words_of(bootstrap.seed)
    means_B = np.zeros(bootstrap.samples)
    for coefficient, stratum in zip(coefficients_K, clustered, strict=True):
        means_B += coefficient * resampled_means(stratum, bootstrap.samples, words)
    low, high = np.quantile(means_B, [tail, 1 - tail]).tolist()
    return Interval(mean, mean + stretch * (low - mean), mean + stretch * (high - mean))


def chance_alike(counts_K: Sequence[float], flat_K: Sequence[bool], coefficients_K: Sequence[float]) -> float:
    """How often, at most, a combination of means is mistaken for certain because units agree by chance.

    `flat_K`: which strata have no spread, although they have several units. 0 without any. Of a single
    stratum it is the p-value of the sign test, 2^(1 - units), and of several the largest of these. If other
    strata vary, they tell the spread, too: then 2^-df is enough, with the degrees of freedom that the
    combination has if all units vary equally (docs/metrics.md has the formula).
    """
    alone = max((2.0 ** (1 - n) for n, flat in zip(counts_K, flat_K, strict=True) if flat), default=0.0)
    if alone == 0 or all(flat_K):
        return alone
    parts = zip(counts_K, coefficients_K, strict=True)
    return min(alone, 2.0 ** -welch_df((c**2 / n, n - 1) for n, c in parts if n > 1))


def share_interval(share: float, units: float, confidence: float) -> Interval:
    """Wilson's score interval (1927) of a share that was observed on independent units. It lies in [0, 1] and
    is never empty. For shares near 0 or 1 it is too short: that of 4 wins in 4 pairs would exclude a half. So
    `low` is at most (and `high` at least) that of Clopper's and Pearson's interval (1934) if all units agree.

    `units` may be fractional: the effective number of units of a weighted mean. For the mean of numbers
    between 0 and 1 the interval is never too narrow, since their variance is at most that of zeros and ones.
    """
    if units == 0:
        return Interval(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * units)) / (1 + z**2 / units)
    half = z * math.sqrt(share * (1 - share) / units + z**2 / (4 * units**2)) / (1 + z**2 / units)
    farthest = ((1 - confidence) / 2) ** (1 / units)
    # By rounding, the share could lie outside of its own interval.
    low, high = min(middle - half, farthest), max(middle + half, 1 - farthest)
    return Interval(share, min(share, max(0.0, low)), max(share, min(1.0, high)))


def unit_places(units_P: Units, prompts: int) -> tuple[NDArray[np.int64], Floats]:
    """The index of each prompt's unit, [P], and the number of prompts of each unit, [U], float64.

    Units are in the order of their first prompt. Raises ValueError unless each prompt has a unit.
    """
    if len(units_P) != prompts:
        raise ValueError(f"{prompts} values but {len(units_P)} units")
    places: dict[Hashable, int] = {}
    place_P = np.array([places.setdefault(unit, len(places)) for unit in units_P], np.int64)
    return place_P, np.bincount(place_P).astype(np.float64)


def standard_error(values_P: ArrayLike, units_P: Units | None = None) -> float:
    """Of the mean over the prompts of one preference group; NaN with a single unit."""
    stratum = Clustered.of(_float64(values_P), units_P)
    return math.sqrt(stratum.variance_of_mean) if stratum.count > 1 else math.nan


def prompt_means(rewards_N: Sequence[float], prompt_ids_N: Sequence[str]) -> dict[str, float]:
    """The mean reward of each prompt's completions, by prompt id in sorted order.

    NaN rewards are left out, and so are prompts with no other rewards. The sum is exact (`math.fsum`). So the
    order of completions does not matter, and equal completions give a difference of exactly 0.
    """
    rewards: dict[str, list[float]] = {}
    for reward, prompt_id in zip(rewards_N, prompt_ids_N, strict=True):
        if not math.isnan(reward):
            rewards.setdefault(prompt_id, []).append(reward)
    return {prompt_id: math.fsum(own) / len(own) for prompt_id, own in sorted(rewards.items())}


def _float64(values_P: ArrayLike) -> Floats:
    return np.asarray(values_P, np.float64).reshape(-1)


@dataclass(frozen=True)
class Clustered:
    """One stratum by unit: the sums of the units' values and their numbers of prompts, both [U], float64."""

    sums_U: Floats
    sizes_U: Floats

    @classmethod
    def of(cls, values_P: Floats, units_P: Units | None) -> Clustered:
        if units_P is None:
            return cls(values_P, np.ones_like(values_P))
        place_P, sizes_U = unit_places(units_P, len(values_P))
        return cls(np.bincount(place_P, values_P).astype(np.float64), sizes_U)

    @property
    def count(self) -> int:
        return len(self.sums_U)

    @property
    def variance_of_mean(self) -> float:
        """U/(U - 1) · sum of (sum_u - mean · size_u)² / (sum of sizes)². This is s²/n if all sizes are 1."""
        total = self.sizes_U.sum()
        residuals_U = self.sums_U - self.sums_U.sum() / total * self.sizes_U
        return float((residuals_U**2).sum() / total**2 * self.count / (self.count - 1))


def resampled_means(stratum: Clustered, samples: int, words: Words) -> Floats:
    """`samples` means over U units drawn with replacement. Computed in blocks to limit the memory."""
    block = max(1, _MAX_DRAWS_AT_ONCE // stratum.count)
    means = []
    for start in range(0, samples, block):
        size = (min(block, samples - start), stratum.count)
        drawn = words(size) % stratum.count
        means.append(stratum.sums_U[drawn].sum(axis=1) / stratum.sizes_U[drawn].sum(axis=1))
    return np.concatenate(means)


def normal_half(strata: Sequence[Clustered], coefficients_K: Sequence[float], level: float) -> float:
    """z * SE_boot of a combination of stratum means: where a normal distribution has its quantile `level`."""
    parts = zip(coefficients_K, strata, strict=True)
    variance = math.fsum(c**2 * s.variance_of_mean * (s.count - 1) / s.count for c, s in parts)
    return NormalDist().inv_cdf(level) * math.sqrt(variance)


def small_sample_factor(strata: Sequence[Clustered], coefficients_K: Sequence[float], level: float) -> float:
    """SE / SE_boot · t / z of a combination of stratum means. Each stratum must have at least 2 units."""
    counts_K = [stratum.count for stratum in strata]
    variances_K = [c**2 * stratum.variance_of_mean for c, stratum in zip(coefficients_K, strata, strict=True)]
    variance = math.fsum(variances_K)
    if variance == 0:
        return 1.0
    boot_variance = math.fsum(v * (n - 1) / n for v, n in zip(variances_K, counts_K, strict=True))
    df = welch_df((v, n - 1) for v, n in zip(variances_K, counts_K, strict=True))
    return math.sqrt(variance / boot_variance) * student_t_quantile(level, df) / NormalDist().inv_cdf(level)
