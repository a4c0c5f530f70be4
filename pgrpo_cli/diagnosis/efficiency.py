"""How efficient each estimator is predicted to be, from the recent rewards of a run.

Efficiency is the squared signal-to-noise ratio of the gradient per completion, for a policy that stands
still. It is 1 for a baseline that knows the expected reward of every prompt. docs/algorithm.md derives it.

Axes: N completions, P prompts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    history. `rate`: if the rewards have two values, the share of the larger one. `measured`: by the number of
    completions of these prompts, what dividing by each prompt's own deviation leaves of the efficiency.
    """

    prompts: int
    within: float
    difficulty: float
    lag: float = 0.0
    rate: float | None = None
    measured: Mapping[int, float] = field(default_factory=dict)

    @property
    def between(self) -> float:
        """The mean square distance of prompts' expected rewards from the mean of the history."""
        return self.difficulty + self.lag

    def weight(self, num_generations: int) -> float:
        """The weight w of a prompt's own mean in the best baseline."""
        return self.between / (self.between + self.within / num_generations)

    def kept(self, num_generations: int) -> float:
        """What dividing by the deviation σ_G of G rewards leaves of the efficiency:
        (E σ_G)² / (E σ_G² · P(σ_G > 0)), where a prompt without a spread has no advantages and adds no noise.
        It is computed for rewards of two values, else measured where prompts have G completions, else that
        of normal rewards.
        """
        if self.rate is not None:
            return _kept_of_two(num_generations, self.rate)
        return self.measured.get(num_generations, _c4(num_generations) ** 2)


def efficiency(estimator: Estimator, components: Components, num_generations: int) -> float:
    """The predicted efficiency, from 0 to 1."""
    within, between, G = components.within, components.between, num_generations
    if estimator.baseline == "history":
        found = within / (within + between)
    elif estimator.baseline == "shrinkage":
        found = 1 - components.weight(G) / G
    else:
        found = (G - 1) / G
    return found * components.kept(G) if estimator.scale == "prompt" else found


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
                values = rewards_N[scored_N & (completions.preference_group_N == index)]
                found[name] = replace(
                    one, rate=_rate(values), measured=_measured(squares_P[own_P], count_P[own_P])
                )
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


def _rate(values: Floats) -> float | None:
    """The share of the larger value, if there are two."""
    different = np.unique(values)
    return float((values == different[-1]).mean()) if len(different) == 2 else None


def _measured(squares_P: Floats, count_P: Whole) -> dict[int, float]:
    """`Components.kept` at the largest number of rewards that a prompt has."""
    G = int(count_P.max())
    deviation_P = np.sqrt(squares_P[count_P == G] / max(G - 1, 1))
    alive = float((deviation_P > 0).mean())
    if len(deviation_P) < ENOUGH_PROMPTS or not alive:
        return {}
    return {G: float(deviation_P.mean()) ** 2 / float((deviation_P**2).mean()) / alive}


def _kept_of_two(n: int, rate: float) -> float:
    """`Components.kept` for rewards of two values, where k of n are the larger one with binomial chances.
    That prompts differ in their rates hardly matters: the values for all rates lie close together.
    """
    chance_K = [math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(1, n)]
    deviation_K = [math.sqrt(k * (n - k)) for k in range(1, n)]
    mean = math.fsum(c * d for c, d in zip(chance_K, deviation_K, strict=True))
    square = math.fsum(c * d * d for c, d in zip(chance_K, deviation_K, strict=True))
    return mean**2 / square / math.fsum(chance_K)


def _c4(n: int) -> float:
    """The expected sample standard deviation of n normal values over the true one."""
    return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
