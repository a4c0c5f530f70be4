"""How efficient each estimator is predicted to be, from the recent rewards of a run.

Efficiency is the squared signal-to-noise ratio of the gradient per completion, for a policy that stands
still. It is 1 for a baseline that knows the expected reward of every prompt. docs/algorithm.md derives it.

Axes: N completions, P prompts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pgrpo_cli.algo.estimators import Estimator

from .view import RECENT_STEPS, Completions, Flags, Floats, Whole

ENOUGH_PROMPTS = 10
"""With fewer prompts the variance between them is mostly noise: with 10 its standard error is at least half
of its value.
"""


@dataclass(frozen=True)
class Components:
    """Of the recent rewards of one preference group.

    `within`: s², the variance of rewards around the expected reward of their prompt. `difficulty`: τ², the
    variance of prompts' expected rewards. `lag`: the square of the distance of their mean from that of the
    history.
    """

    prompts: int
    within: float
    difficulty: float
    lag: float = 0.0

    @property
    def between(self) -> float:
        """The mean square distance of prompts' expected rewards from the mean of the history."""
        return self.difficulty + self.lag

    def weight(self, num_generations: int) -> float:
        """The weight w of a prompt's own mean in the best baseline."""
        return self.between / (self.between + self.within / num_generations)


def efficiency(estimator: Estimator, components: Components, num_generations: int) -> float:
    """The predicted efficiency, from 0 to 1."""
    within, between, G = components.within, components.between, num_generations
    if estimator.baseline == "history":
        found = within / (within + between)
    elif estimator.baseline == "shrinkage":
        found = 1 - components.weight(G) / G
    else:
        found = (G - 1) / G
    return found * _c4(G) ** 2 if estimator.scale == "prompt" else found


def mean_efficiency(estimator: Estimator, components: Sequence[Components], num_generations: int) -> float:
    """The mean over preference groups, each counted once."""
    return statistics.fmean(efficiency(estimator, one, num_generations) for one in components)


def recent_components(
    completions: Completions, rewards_N: Floats, history_means: Mapping[str, float]
) -> dict[str, Components]:
    """The components of each preference group with `ENOUGH_PROMPTS` prompts whose rewards differ.

    `rewards_N` are the rewards of the completions, or one part of them; NaN where it is missing. While the
    policy learns, prompts of different steps differ as easy and difficult ones do: a linear trend over the
    steps is taken out of their means.
    """
    starts_P = completions.starts_P
    if not len(starts_P):
        return {}
    scored_N = ~np.isnan(rewards_N)
    count_P = np.add.reduceat(scored_N.astype(np.int64), starts_P)
    mean_P = np.add.reduceat(np.where(scored_N, rewards_N, 0.0), starts_P) / np.maximum(count_P, 1)
    mean_N = np.repeat(mean_P, np.diff(np.append(starts_P, len(completions))))
    squares_P = np.add.reduceat(np.where(scored_N, (rewards_N - mean_N) ** 2, 0.0), starts_P)
    step_P, group_P = completions.step_N[starts_P], completions.preference_group_N[starts_P]
    found = {}
    for index, name in enumerate(completions.preference_groups):
        own_P: Flags = (group_P == index) & (count_P > 0)
        if name in history_means and int(own_P.sum()) >= ENOUGH_PROMPTS:
            one = _components(
                step_P[own_P], mean_P[own_P], squares_P[own_P], count_P[own_P], history_means[name]
            )
            if one is not None:
                found[name] = one
    return found


def _components(
    step_P: Whole, mean_P: Floats, squares_P: Floats, count_P: Whole, history_mean: float
) -> Components | None:
    """None if no prompt has two rewards that differ."""
    freedom = int((count_P - 1).sum())
    within = float(squares_P.sum()) / freedom if freedom else 0.0
    if within <= 0:
        return None
    noise_P = within / count_P
    steps_P = step_P - step_P.mean()
    spread = float((steps_P**2).sum())
    slope = float((steps_P * mean_P).sum()) / spread if spread else 0.0
    residual_P = mean_P - mean_P.mean() - slope * steps_P
    freedom = len(mean_P) - (2 if spread else 1)
    difficulty = max(float((residual_P**2).sum()) / freedom - float(noise_P.mean()), 0.0)
    recent_P = step_P > step_P.max() - RECENT_STEPS
    lag = float(mean_P[recent_P].mean()) - history_mean
    error = (difficulty + float(noise_P[recent_P].mean())) / int(recent_P.sum())
    return Components(len(mean_P), within, difficulty, max(lag**2 - error, 0.0))


def _c4(n: int) -> float:
    """The expected sample standard deviation of n normal values over the true one."""
    return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
