"""Student's t, without SciPy: quantiles and two-sided p-values.

With t = sqrt(df) * tan(a) the density of the angle a is proportional to cos(a)^(df - 1) on (-pi/2, pi/2):
bounded and smooth for df >= 1, and summed up by the trapezoid rule.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_ANGLES = 20_001
_NORMAL_FROM_DF = 1e4


def two_sided_p(t: float, df: float) -> float:
    """The probability of a value at least as far from 0 as `t`, for `df` >= 1 degrees of freedom."""
    if df > _NORMAL_FROM_DF:
        return math.erfc(abs(t) / math.sqrt(2))
    angle = math.atan(abs(t) / math.sqrt(df))
    tail, whole = _mass(angle, df), _mass(0.0, df)
    return tail / whole


def student_t_draws(count: int, df: float, generator: torch.Generator) -> Tensor:
    """`count` values of Student's t in random order: its quantiles at (i + 0.5) / count, one each.

    Drawn so, the quantiles of the sample are those of the distribution, whatever the seed.
    """
    return _quantiles(count, df)[torch.randperm(count, generator=generator)]


@lru_cache(maxsize=64)
def _quantiles(count: int, df: float) -> Tensor:
    angles = torch.linspace(-math.pi / 2, math.pi / 2, 2 * _ANGLES - 1, dtype=torch.float64)
    density = torch.cos(angles).clamp_min(0) ** (df - 1)
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(density, angles)])
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count * mass[-1]
    right = torch.searchsorted(mass, levels).clamp(1, len(mass) - 1)
    share = (levels - mass[right - 1]) / (mass[right] - mass[right - 1])
    return math.sqrt(df) * torch.tan(angles[right - 1] + share * (angles[1] - angles[0]))


def _mass(start: float, df: float) -> float:
    """The integral of cos(a)^(df - 1) from `start` to pi/2."""
    angles = torch.linspace(start, math.pi / 2, _ANGLES, dtype=torch.float64)
    return float(torch.trapezoid(torch.cos(angles).clamp_min(0) ** (df - 1), angles))
