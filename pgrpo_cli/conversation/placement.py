"""Which preference group a person belongs to, from their picks between two answers.

Each preference group has a reward. If the person belongs to group k, then the answer that k's reward likes
better is picked more often: P(first) = σ(SHARPNESS · δ_k), the Bradley-Terry model, where δ_k is the
difference of the two rewards in standard deviations of that reward over all answers seen. "Nobody yet" picks
each with probability ½. A tie counts as half a pick each way. The prior is uniform over the groups and
nobody: how many prompts a group has in training says nothing about who sits down here.

K: preference groups; one more place, the last, is for nobody. M: picks or pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARPNESS = 2.0
"""How surely a person picks by their reward: at one standard deviation, 88 of 100 picks."""


def posterior(first_M_K: Floats, second_M_K: Floats, shares_M: Sequence[float], scale_K: Floats) -> Floats:
    """Probability of each preference group, and of nobody, [K + 1].

    `first_M_K`, `second_M_K`: rewards of the two answers of each pick by each group. `shares_M`: what the
    first answer won, 1, 0, or ½. `scale_K`: standard deviation of each group's reward; 0 or NaN: the reward
    tells nothing.
    """
    log_M_K = _log_likelihood(first_M_K, second_M_K, np.asarray(shares_M), scale_K)
    log_K = np.append(log_M_K.sum(axis=0), len(shares_M) * np.log(0.5))
    weights_K = np.exp(log_K - log_K.max())
    return weights_K / weights_K.sum()  # type: ignore[no-any-return]


def most_telling(first_M_K: Floats, second_M_K: Floats, scale_K: Floats, now_K: Floats) -> int:
    """Which of M pairs is expected to tell most about the person, given the probabilities `now_K` [K + 1].

    It has the largest mutual information between the pick and the group: the entropy of the predicted pick
    less its mean entropy within a group. The first of several.
    """
    win_M_K = np.exp(_log_likelihood(first_M_K, second_M_K, np.ones(len(first_M_K)), scale_K))
    win_M_K = np.column_stack([win_M_K, np.full(len(win_M_K), 0.5)])
    gain_M = _entropy(win_M_K @ now_K) - _entropy(win_M_K) @ now_K
    return int(np.argmax(gain_M))


def _log_likelihood(first_M_K: Floats, second_M_K: Floats, shares_M: Floats, scale_K: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        delta_M_K = (first_M_K - second_M_K) / scale_K
    # A reward that is missing, or the same for every answer, speaks for nobody.
    delta_M_K = SHARPNESS * np.where(np.isfinite(delta_M_K), delta_M_K, 0.0)
    share_M_1 = shares_M[:, None]
    # log σ(x) = -log(1 + exp(-x))
    return -share_M_1 * np.logaddexp(0, -delta_M_K) - (1 - share_M_1) * np.logaddexp(0, delta_M_K)  # type: ignore[no-any-return]


def _entropy(win: Floats) -> Floats:
    """Of a pick that the first answer wins with these probabilities, in nats."""
    win = np.clip(win, 1e-12, 1 - 1e-12)
    return -win * np.log(win) - (1 - win) * np.log(1 - win)  # type: ignore[no-any-return]
