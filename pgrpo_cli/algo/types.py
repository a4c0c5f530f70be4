"""Input and output types of the algorithm.

Axes: N completions, P prompts, G completions per prompt (N = P * G, those of prompt 0 first), T tokens, M
rewards that are not NaN, K sets of rewards, U distinct preference groups of a batch. Statistics are float64
on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pgrpo_cli.errors import RewardError

from .estimators import LARGEST_REWARD


@dataclass(frozen=True)
class RewardBatch:
    """The checked rewards of one step. Each `num_generations` consecutive rewards are a generation group."""

    rewards_N: Tensor
    """float64; NaN where a reward is missing."""
    valid_N: Tensor
    """bool; False where the reward is NaN."""
    preference_groups_P: tuple[str, ...]
    num_generations: int

    @classmethod
    def of(
        cls, rewards_N: Sequence[float] | Tensor, preference_groups_N: Sequence[str], num_generations: int
    ) -> RewardBatch:
        """Check and convert. Raises ValueError for lengths that do not match, RewardError for a
        reward whose square is infinite.
        """
        rewards = torch.as_tensor(rewards_N, dtype=torch.float64).detach().cpu()
        preference_groups = list(preference_groups_N)
        if rewards.dim() != 1 or len(preference_groups) != rewards.numel():
            raise ValueError(f"rewards {tuple(rewards.shape)} for {len(preference_groups)} preference groups")
        if num_generations < 1 or len(preference_groups) % num_generations:
            raise ValueError(
                f"{len(rewards)} rewards cannot be split into generation groups of {num_generations}"
            )
        too_large_N = rewards.abs() > LARGEST_REWARD
        if too_large_N.any():
            i = int(too_large_N.nonzero()[0])
            raise RewardError(
                f"completion {i} of the batch, of preference group {preference_groups[i]!r}, has reward "
                f"{float(rewards[i]):g}: its square, which the history adds up, is infinite",
                remedy=f"Return a number of at most {LARGEST_REWARD:g}, or NaN where a completion cannot be "
                "scored.",
            )
        first = preference_groups[::num_generations]
        if any(preference_groups[i::num_generations] != first for i in range(1, num_generations)):
            raise ValueError("the completions of one generation group have different preference groups")
        return cls(rewards, ~torch.isnan(rewards), tuple(first), num_generations)


@dataclass(frozen=True)
class GroupStats:
    """The statistics of one preference group in a reward history."""

    n: int
    """Rewards received since the start of the run."""
    mean: float
    std: float
    """Sample standard deviation; 0 for fewer than two rewards."""
    first_step: int
    last_step: int
    prompts: int
    """Number of generation groups received, without those that had no reward."""
    within_variance: float
    """s²: variance of the rewards of a prompt around the prompt's expected reward."""
    between_variance: float
    """τ²: variance of the prompts' expected rewards."""
    effective_n: float
    """Effective sample size of `mean`: n, or fewer if the history weights rewards or forgets them."""

    def shrinkage_weight(self, num_generations: int) -> float:
        """w = τ² / (τ² + s²/G): 0 if all prompts are equally difficult, close to 1 if they differ much."""
        total = self.between_variance + self.within_variance / num_generations
        return self.between_variance / total if total > 0 else 0.0


@dataclass(frozen=True)
class HistoryLookup:
    """The statistics of each completion's preference group; zeros for one without rewards."""

    count_N: Tensor
    """int64: rewards received since the start of the run."""
    effective_n_N: Tensor
    """The effective count of the rewards in the history; for a window, how many it holds."""
    mean_N: Tensor
    std_N: Tensor
    within_variance_N: Tensor
    between_variance_N: Tensor


@dataclass(frozen=True)
class Advantages:
    """Advantages, and the numbers that they were computed from."""

    advantages_N: Tensor
    """float32: (reward - baseline) / (scale + epsilon), clipped; 0 where that is undefined."""
    clipped_N: Tensor
    """bool: True where the advantage was larger than the clip allows."""
    baseline_N: Tensor
    """float64; NaN where it is undefined."""
    scale_N: Tensor
    """float64, without epsilon; 1 for scale `none`, 0 where there is no spread."""
    valid_N: Tensor
    """bool: True where there is a reward."""


@dataclass(frozen=True)
class LossOutput:
    """The share of a micro-batch in the loss of the step, and its sums for the step's metrics."""

    loss: Tensor
    """Scalar with a gradient. The shares of a step add up to its loss."""
    metrics: dict[str, Tensor]
    """Detached float64 sums over trained tokens. `mean_metrics` turns those of a step into means."""


@dataclass(frozen=True)
class UpdateResult:
    """The results of an update, and what it cost."""

    loss: float
    grad_norm: float
    """L2 norm of the gradient before clipping."""
    metrics: dict[str, float]
    tokens: int
    """Number of tokens that went through the model, padding included."""
    padding: int
    """How many of them are padding."""
    reference_seconds: float
    """Time of the forward passes without the adapter; 0 if `loss.beta` is 0."""
    lowered_scale: float | None = None
    """The new loss scale, if gradients overflowed and were computed again."""
