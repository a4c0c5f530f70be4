"""Student's t without SciPy: quantiles, p-values, draws, degrees of freedom; the random numbers of intervals.

With t = sqrt(df) * tan(a) the density of the angle a is proportional to cos(a)^(df - 1) on (-pi/2, pi/2). It
is bounded and smooth for df >= 1, so the trapezoid rule integrates it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Words = Callable[[int | tuple[int, ...]], NDArray[np.uint32]]
"""Returns an array of the given shape with random 32-bit numbers."""

_ANGLES = 20_001
_NORMAL_FROM_DF = 1e4


def words_of(seed: int) -> Words:
    """The numbers of the Mersenne Twister for the low 32 bits of `seed`.

    torch's CPU generator gives the same numbers, so the intervals of earlier versions, which used it, do not
    change.
    """
    generator = np.random.RandomState(seed & 0xFFFFFFFF)
    return lambda shape: generator.randint(0, 1 << 32, shape, np.uint32)


def two_sided_p(t: float, df: float) -> float:
    """The probability of a value at least as far from 0 as `t`, for `df` >= 1 degrees of freedom."""
    if df > _NORMAL_FROM_DF:
        return math.erfc(abs(t) / math.sqrt(2))
    (_, tail), (_, whole) = _mass(math.atan(abs(t) / math.sqrt(df)), df), _mass(0.0, df)
    return float(tail[-1] / whole[-1])


def welch_df(parts: Iterable[tuple[float, float]]) -> float:
    """The degrees of freedom of a sum of variances, each given with its own, by Welch and Satterthwaite."""
    known = [(variance, df) for variance, df in parts if variance > 0]
    below = math.fsum(variance**2 / df for variance, df in known)
    return math.fsum(variance for variance, _ in known) ** 2 / below if below > 0 else math.inf


@lru_cache(maxsize=512)
def student_t_quantile(level: float, df: float) -> float:
    """The quantile of Student's t for `level` > 0.5 and `df` >= 1, with a relative error below 3e-3."""
    if not 0.5 < level < 1 or df < 1 - 1e-9:
        raise ValueError(f"need 0.5 < level < 1 and df >= 1, got level={level} df={df}")
    if df > _NORMAL_FROM_DF:
        return NormalDist().inv_cdf(level)
    return float(_quantiles(np.array([level]), df)[0])


def student_t_draws(count: int, df: float, words: Words) -> NDArray[np.float64]:
    """`count` values of Student's t: its quantiles at (i + 0.5) / count, in random order.

    So the quantiles of the sample equal those of the distribution for every seed.
    """
    order = list(range(count))
    # Fisher-Yates shuffle.
    for i, step in enumerate((words(count - 1) % np.arange(count, 1, -1)).tolist()):
        order[i], order[i + step] = order[i + step], order[i]
    return _quantiles((np.arange(count) + 0.5) / count, df)[order]


def _quantiles(levels: NDArray[np.float64], df: float) -> NDArray[np.float64]:
    angles, mass = _mass(0.0, df)
    size = np.interp(np.abs(2 * levels - 1) * mass[-1], mass, angles)
    return math.sqrt(df) * np.tan(np.copysign(size, levels - 0.5))


def _mass(start: float, df: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles from `start` to pi/2, and the integral of cos(a)^(df - 1) from `start` to each of them."""
    angles, step = np.linspace(start, math.pi / 2, _ANGLES, retstep=True)
    density = np.cos(angles).clip(min=0) ** (df - 1)
    return angles, np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * step)])
