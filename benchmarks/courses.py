"""What the studies of benchmarks/mechanisms.py change in the course of a small policy's run.

Axes as in benchmarks/small_policy.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.small_policy import Course, Draws, World
from pgrpo_cli.algo.history import RewardHistory

PER_PROMPT = 4
"""Completions of a made-up prompt of a prior."""


class Clipped(Course):
    """Advantages are clipped as the recipe's default says."""

    def __init__(self, clip: float | None = 5.0) -> None:
        self.clip = clip


class Outliers(Clipped):
    """Rewards with outliers, in units of the preference group's scale.

    `share` of all rewards get `size` more or less; the first completion of each preference group in the first
    step gets `first` more.
    """

    def __init__(
        self, share: float = 0.0, size: float = 0.0, first: float = 0.0, clip: float | None = 5.0
    ) -> None:
        super().__init__(clip)
        self.share, self.size, self.first = share, size, first

    def rewards(self, draws: Draws, step: int, rewards_S_P_G: Tensor) -> Tensor:
        scales_S_P = draws.scales_S_K.gather(1, draws.groups_S_B_P[:, step])
        chances = draws.chances_S_B_P_G[:, step]
        sign = torch.where(chances < self.share / 2, -1.0, 1.0)
        spoilt = rewards_S_P_G + (chances < self.share) * sign * self.size * scales_S_P[..., None]
        if step == 0:
            groups = draws.groups_S_B_P[:, 0]
            seen_S_P = (groups[:, :, None] == groups[:, None, :]).tril(-1).any(-1)
            spoilt[..., 0] += ~seen_S_P * self.first * scales_S_P
        return spoilt


class RareSuccesses(Clipped):
    """Rewards of 0 and 1: success is a reward that one of twenty completions has at first, at noise 1 and
    difficulty 0.5, whose standard deviation is 1.5 scales.
    """

    BOUND = 1.645 * 1.5

    def rewards(self, draws: Draws, step: int, rewards_S_P_G: Tensor) -> Tensor:
        scales_S_P = draws.scales_S_K.gather(1, draws.groups_S_B_P[:, step])
        return (rewards_S_P_G / scales_S_P[..., None] > self.BOUND).double()


class Noisy(Clipped):
    """More noise for some preference groups: `factors_K` times what the world says."""

    def __init__(self, world: World, factors_K: Sequence[float]) -> None:
        super().__init__()
        self.world, self.factors_K = world, torch.tensor(factors_K, dtype=torch.float64)

    def rewards(self, draws: Draws, step: int, rewards_S_P_G: Tensor) -> Tensor:
        groups = draws.groups_S_B_P[:, step]
        more_S_P = (self.factors_K[groups] - 1) * self.world.noise * draws.scales_S_K.gather(1, groups)
        return rewards_S_P_G + more_S_P[..., None] * draws.noise_S_B_P_G[:, step]


class Balanced(Noisy):
    """Every preference group has the same share of each step's prompts, by systematic sampling."""

    def groups(self, draws: Draws, step: int) -> Tensor:
        P, K = draws.groups_S_B_P.shape[2], draws.scales_S_K.shape[1]
        points_S_P = (torch.arange(P) + draws.chances_S_B_P_G[:, step, 0, :1]) / P
        heights_S_K = self.shares(len(points_S_P), K).cumsum(1)
        return torch.searchsorted(heights_S_K, points_S_P, right=True).clamp(max=K - 1)

    def shares(self, S: int, K: int) -> Tensor:
        """Of the preference groups in the next step."""
        return torch.full((S, K), 1 / K, dtype=torch.float64)


class WorstGroup(Balanced):
    """Half of the prompts are shared equally, half by the softmax of -gain / temperature.

    The gain of a preference group is its recent mean reward (an exponential mean over prompts) minus that of
    its first 8 prompts, over the standard deviation of those around their prompts' means.
    """

    FIRST, LEAST, DECAY, EQUAL = 8, 4, 0.9, 0.5

    def __init__(self, world: World, factors_K: Sequence[float], temperature: float = 0.5) -> None:
        super().__init__(world, factors_K)
        self.temperature = temperature
        self.seen_S_K: Tensor | None = None

    def shares(self, S: int, K: int) -> Tensor:
        if self.seen_S_K is None:
            self.seen_S_K, self.first_S_K, self.variance_S_K, self.recent_S_K = (
                torch.zeros(S, K, dtype=torch.float64) for _ in range(4)
            )
        gain_S_K = (self.recent_S_K - self.first_S_K) / (self.variance_S_K.sqrt() + 1e-9)
        gain_S_K = torch.where(self.seen_S_K >= self.LEAST, gain_S_K, 0.0)
        return self.EQUAL / K + (1 - self.EQUAL) * (-gain_S_K / self.temperature).softmax(1)

    def rewards(self, draws: Draws, step: int, rewards_S_P_G: Tensor) -> Tensor:
        rewards_S_P_G = super().rewards(draws, step, rewards_S_P_G)
        assert self.seen_S_K is not None
        replicas = torch.arange(len(rewards_S_P_G))
        for p, groups in enumerate(draws.groups_S_B_P[:, step].T):
            place, mean = (replicas, groups), rewards_S_P_G[:, p].mean(1)
            seen = self.seen_S_K[place]
            early = (seen < self.FIRST) / (seen + 1)
            self.first_S_K[place] += early * (mean - self.first_S_K[place])
            self.variance_S_K[place] += early * (rewards_S_P_G[:, p].var(1) - self.variance_S_K[place])
            weight = torch.where(seen == 0, 1.0, 1 - self.DECAY)
            self.recent_S_K[place] += weight * (mean - self.recent_S_K[place])
            self.seen_S_K[place] += 1
        return rewards_S_P_G


class Newcomer(Clipped):
    """The last preference group joins after `joins` steps; until then the others have its prompts.

    `prior`: how many made-up rewards its history begins with (a multiple of 2 · PER_PROMPT, or 0). Their mean
    and their variances within and between prompts are the means of those of the other preference groups.
    """

    def __init__(self, joins: int, prior: int = 0) -> None:
        super().__init__()
        self.joins, self.prior = joins, prior

    def groups(self, draws: Draws, step: int) -> Tensor:
        groups, K = draws.groups_S_B_P[:, step], draws.scales_S_K.shape[1]
        others = torch.arange(groups.shape[1]) % (K - 1)
        return torch.where((groups == K - 1) & (step < self.joins), others, groups)

    def before_entering(self, history: RewardHistory, names_N: list[str], step: int) -> None:
        if self.prior == 0 or step <= self.joins:
            return
        known = set(history.preference_groups)
        for name in dict.fromkeys(names_N):
            if name not in known:
                replica = name.split("/")[0]
                others = history.stats([o for o in known if o.split("/")[0] == replica]).values()
                rewards = prior_rewards(
                    fmean(one.mean for one in others),
                    fmean(one.within_variance for one in others),
                    fmean(one.between_variance for one in others),
                    self.prior,
                )
                history.update(rewards, [name] * self.prior, num_generations=PER_PROMPT, step=step)


def prior_rewards(mean: float, within: float, between: float, count: int) -> Tensor:
    """Rewards of `count` / PER_PROMPT prompts with that mean and these variances.

    Half of the prompts lie above the mean and half below, and so do the rewards of each. The history finds
    the variance within exactly, that between but for its correction for few prompts.
    """
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(count // 2)
    prompts = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(PER_PROMPT)
    prompts = prompts.repeat(count // (2 * PER_PROMPT))
    spread = (within * (PER_PROMPT - 1) / PER_PROMPT) ** 0.5
    return mean + between**0.5 * prompts + spread * signs
