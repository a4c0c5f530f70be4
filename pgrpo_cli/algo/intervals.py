"""Bootstrap intervals of mean rewards: of a preference group, of a difference, over preference groups.

The unit of resampling is the prompt, because completions of one prompt are not independent: a prompt's
value is the mean over its completions, and prompts are drawn with replacement inside each preference group
(a stratum).

The percentile interval (Efron 1979) covers too rarely when prompts are few: at 8 prompts a nominal 95 %
interval of a mean holds the truth 88 % of the time. By default both ends are therefore moved away from the
mean by SE/SE_boot * t/z: SE_boot, the spread of the resampled means, falls short of the standard error by
sqrt((n - 1)/n), and the normal quantile z short of Student's t, here with the degrees of freedom of Welch
and Satterthwaite over the strata. At 8 prompts that covers 94 %. It is the correction behind the "expanded
percentile" interval of Hesterberg (2015, arXiv 1411.5279), applied to the ends instead of the levels, so
that it works below 6 prompts too. Such an interval may reach beyond the range of the rewards.
`small_sample=False` gives the plain percentile interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

_MAX_DRAWS_AT_ONCE = 4_000_000
_NORMAL_FROM_DF = 1e4


@dataclass(frozen=True)
class Interval:
    """A mean with both ends of its interval, in reward units.

    `low` and `high` are NaN where a stratum has a single prompt (its spread is unknown); all three are NaN
    where there is no prompt.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: number of resamples, nominal coverage, and the seed that fixes the draws."""

    samples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    small_sample: bool = True

    def __post_init__(self) -> None:
        if self.samples < 2 or not 0 < self.confidence < 1:
            found = f"samples={self.samples} confidence={self.confidence}"
            raise ValueError(f"need samples >= 2 and 0 < confidence < 1, got {found}")


def mean_interval(values_P: Sequence[float] | Tensor, bootstrap: Bootstrap) -> Interval:
    """The mean over the prompts of one preference group. `values_P`: a finite number a prompt."""
    return stratified_interval([values_P], bootstrap)


def stratified_interval(
    strata: Sequence[Sequence[float] | Tensor], bootstrap: Bootstrap, weights_K: Sequence[float] | None = None
) -> Interval:
    """The mean of the means of K preference groups; prompts are resampled inside each.

    `strata`: K lists of prompt values. `weights_K`: K weights, not negative, of any sum; None counts each
    preference group once (the macro mean).
    """
    weights_K = [1.0] * len(strata) if weights_K is None else weights_K
    values = [_float64(values_P) for values_P in strata]
    if len(values) != len(weights_K):
        raise ValueError(f"{len(values)} strata but {len(weights_K)} weights")
    if not values or any(len(values_P) == 0 for values_P in values):
        return Interval(math.nan, math.nan, math.nan)
    shares_K = [weight / math.fsum(weights_K) for weight in weights_K]
    mean = math.fsum(share * float(v.mean()) for share, v in zip(shares_K, values, strict=True))
    if any(len(values_P) == 1 for values_P in values):
        return Interval(mean, math.nan, math.nan)

    generator = torch.Generator().manual_seed(bootstrap.seed)
    means_B = torch.zeros(bootstrap.samples, dtype=torch.float64)
    for share, values_P in zip(shares_K, values, strict=True):
        means_B += share * resampled_means(values_P, bootstrap.samples, generator)
    tail = (1 - bootstrap.confidence) / 2
    low, high = torch.quantile(means_B, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    stretch = small_sample_factor(values, shares_K, 1 - tail) if bootstrap.small_sample else 1.0
    return Interval(mean, mean + stretch * (low - mean), mean + stretch * (high - mean))


def prompt_means(rewards_N: Sequence[float], prompt_ids_N: Sequence[str]) -> dict[str, float]:
    """The mean reward of each prompt's completions, by prompt id in sorted order.

    NaN rewards are left out, and so are prompts that have nothing else. The sum is exact (`math.fsum`): the
    order of completions does not matter, and equal completions give a difference of exactly 0.
    """
    rewards: dict[str, list[float]] = {}
    for reward, prompt_id in zip(rewards_N, prompt_ids_N, strict=True):
        if not math.isnan(reward):
            rewards.setdefault(prompt_id, []).append(reward)
    return {prompt_id: math.fsum(found) / len(found) for prompt_id, found in sorted(rewards.items())}


def paired_differences(values: Mapping[str, float], reference: Mapping[str, float]) -> list[float]:
    """`values` minus `reference`, prompt by prompt in sorted order: what both share, its difficulty, cancels.

    Prompts that only one of them has are left out.
    """
    return [
        values[prompt_id] - reference[prompt_id] for prompt_id in sorted(values.keys() & reference.keys())
    ]


def _float64(values_P: Sequence[float] | Tensor) -> Tensor:
    return torch.as_tensor(values_P, dtype=torch.float64, device="cpu").flatten()


def resampled_means(values_P: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """`samples` means of len(values_P) draws with replacement, in blocks that bound the memory."""
    count = len(values_P)
    block = max(1, _MAX_DRAWS_AT_ONCE // count)
    means = []
    for start in range(0, samples, block):
        size = (min(block, samples - start), count)
        means.append(values_P[torch.randint(count, size, generator=generator)].mean(dim=1))
    return torch.cat(means)


def small_sample_factor(strata: Sequence[Tensor], shares_K: Sequence[float], level: float) -> float:
    """SE / SE_boot · t / z of a weighted mean of stratum means, each stratum with 2 values or more."""
    counts_K = [len(values_P) for values_P in strata]
    variances_K = [
        share**2 * float(values_P.var()) / len(values_P)
        for share, values_P in zip(shares_K, strata, strict=True)
    ]
    variance = math.fsum(variances_K)
    if variance == 0:
        return 1.0
    boot_variance = math.fsum(v * (n - 1) / n for v, n in zip(variances_K, counts_K, strict=True))
    df = variance**2 / math.fsum(v**2 / (n - 1) for v, n in zip(variances_K, counts_K, strict=True))
    return math.sqrt(variance / boot_variance) * student_t_quantile(level, df) / NormalDist().inv_cdf(level)


@lru_cache(maxsize=512)
def student_t_quantile(level: float, df: float) -> float:
    """The quantile of Student's t for `level` > 0.5 and `df` >= 1 (whole or not); good to 3e-3 relative.

    With t = sqrt(df) * tan(a) the density of the angle a is proportional to cos(a)^(df - 1) on
    (-pi/2, pi/2): bounded, smooth, and summed up by the trapezoid rule.
    """
    if not 0.5 < level < 1 or df < 1 - 1e-9:
        raise ValueError(f"need 0.5 < level < 1 and df >= 1, got level={level} df={df}")
    if df > _NORMAL_FROM_DF:
        return NormalDist().inv_cdf(level)
    angles = torch.linspace(0, math.pi / 2, 20_001, dtype=torch.float64)
    density = torch.cos(angles).clamp_min(0) ** (df - 1)
    mass = torch.cumulative_trapezoid(density, angles)
    target = (2 * level - 1) * float(mass[-1])
    right = int(torch.searchsorted(mass, target))
    below = float(mass[right - 1]) if right else 0.0
    step = float(angles[1])
    return math.sqrt(df) * math.tan(step * (right + (target - below) / (float(mass[right]) - below)))
