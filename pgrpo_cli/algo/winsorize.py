"""Rewards with outliers: how far from the others a reward may enter the history.

One reward of 10⁶ among rewards near 1 makes the standard deviation of its preference group so large that all
later advantages are close to 0. A winsorised reward enters the history as the nearest value within limits:
- for a preference group of whose rewards the history holds `ENOUGH`: mean ± c · standard deviation;
- for one with fewer, or whose whole window this step replaces: median ± 2c · 1.4826 · MAD of the rewards that
  it has in this step. MAD is the median absolute deviation, and 1.4826 · MAD is the standard deviation if
  rewards are normal. The mean and standard deviation of so few rewards would themselves follow the outlier.

Where the spread is 0 there are no limits: after equal rewards nothing is known of the first different one.
Advantages are made from the rewards themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .types import HistoryLookup

ENOUGH = 16
LEAST = 4
"""Rewards of a step from which a median absolute deviation is taken."""
_NORMAL = 1.4826


def winsorized(
    rewards_M: Tensor, sets_M: Tensor, past_M: HistoryLookup, factor: float, *, window: int | None = None
) -> Tensor:
    """The rewards as they enter the history, float64 [M]. None is NaN.

    `sets_M` (int64) is the preference group of each reward, `past_M` what the history knows of it before,
    `factor` the c of the module's docstring, `window` the size of a history that is one.
    """
    centre_M, reach_M = past_M.mean_N.clone(), factor * past_M.std_N
    young_M = past_M.effective_n_N < ENOUGH
    if window is not None:
        # If all that a window will hold entered at the same limit, the spread would be 0.
        young_M |= torch.bincount(sets_M)[sets_M] >= window
    reach_M[young_M] = 0.0
    for number in sorted(set(sets_M[young_M].tolist())):
        own_M = sets_M == number
        if int(own_M.sum()) >= LEAST:
            centre_M[own_M], reach_M[own_M] = _of_step(rewards_M[own_M], 2 * factor)
    limited_M = rewards_M.clamp(centre_M - reach_M, centre_M + reach_M)
    return torch.where(reach_M > 0, limited_M, rewards_M)


def _of_step(rewards: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """The median, and how far rewards may be from it."""
    median = rewards.quantile(0.5)
    return median, factor * _NORMAL * (rewards - median).abs().quantile(0.5)
