"""From rewards to advantages: (reward - baseline) / (scale + epsilon), for all estimators.

Conventions, for every estimator:
1. Standard deviations are those of a sample (n - 1). With fewer than two rewards they are 0.
2. Where the scale is 0 the advantage is 0, whatever epsilon is.
3. A NaN reward has advantage 0 and enters no statistic. If all rewards of a generation group are NaN, all of
   its advantages are 0.
4. A generation group with one valid reward has no spread, and no other reward to compare with: `prompt` and
   `leave_one_out` give it 0.
5. The caller decides whether a batch enters the history before or after its advantages are computed. For a
   preference group with fewer than `min_count` rewards, the mean and spread of the prompt's own rewards are
   used instead of the history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .estimators import Baseline, Estimator, Scale, resolve_estimator
from .history import RewardHistory
from .moments import prompt_moments
from .types import Advantages, HistoryLookup, RewardBatch


def compute_advantages(
    rewards_N: Sequence[float] | Tensor,
    preference_groups_N: Sequence[str],
    *,
    num_generations: int,
    history: RewardHistory | None = None,
    estimator: Estimator | str = "pgrpo",
    min_count: int = 0,
    clip: float | None = None,
) -> Advantages:
    """The advantages of a step's completions. Each `num_generations` consecutive completions belong to one
    prompt.

    `estimator` may be the name of a preset. `history` is read, never changed; estimators that do not use it
    do not need one. If a preference group has no rewards, or fewer than `min_count`, the mean and spread of
    the prompt's own rewards are used. Advantages of a size above `clip` are clipped to it (None: none are).
    Raises ValueError for lengths that do not match or a missing history, and RewardError for a reward whose
    square is infinite.
    """
    if isinstance(estimator, str):
        estimator = resolve_estimator(estimator)
    batch = RewardBatch.of(rewards_N, preference_groups_N, num_generations)
    if estimator.uses_history and history is None:
        raise ValueError(f"{estimator} needs a reward history")
    statistics = _Statistics.of(batch, history or RewardHistory(), min_count)
    baseline_N = _BASELINES[estimator.baseline](statistics)
    scale_N = _SCALES[estimator.scale](statistics)
    epsilon = estimator.epsilon if estimator.scaled else 0.0
    defined_N = batch.valid_N & ~torch.isnan(baseline_N) & (scale_N > 0)
    advantages_N = torch.where(defined_N, (batch.rewards_N - baseline_N) / (scale_N + epsilon), 0.0)
    return Advantages(*clipped(advantages_N, clip), baseline_N, scale_N, batch.valid_N)


def clipped(advantages_N: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """Advantages between -`clip` and `clip`, as float32, and which of them are changed by it (bool)."""
    if clip is None:
        return advantages_N.float(), torch.zeros(len(advantages_N), dtype=torch.bool)
    return advantages_N.clamp(-clip, clip).float(), advantages_N.abs() > clip


@dataclass(frozen=True)
class _Statistics:
    """The statistics that baselines and scales use, one entry per completion. `prompt_*_N`: those of the
    valid rewards of its generation group.
    """

    batch: RewardBatch
    prompt_count_N: Tensor
    prompt_mean_N: Tensor
    prompt_std_N: Tensor
    history: HistoryLookup
    min_count: int

    @classmethod
    def of(cls, batch: RewardBatch, history: RewardHistory, min_count: int) -> _Statistics:
        num_prompts = len(batch.preference_groups_P)
        rewards_M = batch.rewards_N[batch.valid_N]
        prompts_N = torch.arange(num_prompts).repeat_interleave(batch.num_generations)
        prompts_M = prompts_N[batch.valid_N]
        moments_P = prompt_moments(rewards_M, torch.ones_like(rewards_M), prompts_M, num_prompts)
        moments = moments_P.take(prompts_N)
        mean_N = torch.where(moments.weight > 0, moments.mean, torch.nan)
        lookup = history.lookup([batch.preference_groups_P[p] for p in prompts_N.tolist()])
        return cls(batch, moments.weight, mean_N, moments.std, lookup, min_count)

    def or_prompt(self, from_history_N: Tensor, from_prompt_N: Tensor) -> Tensor:
        """`from_history_N` where the preference group has enough rewards, else `from_prompt_N`."""
        return torch.where(self.history.count_N >= max(self.min_count, 1), from_history_N, from_prompt_N)


def _history_mean(s: _Statistics) -> Tensor:
    """μ_p."""
    return s.or_prompt(s.history.mean_N, s.prompt_mean_N)


def _prompt_mean(s: _Statistics) -> Tensor:
    """μ_G, the generation group's mean."""
    return s.prompt_mean_N


def _leave_one_out_mean(s: _Statistics) -> Tensor:
    """The mean of the other rewards of the generation group: μ_G + (μ_G - R) / (n - 1). NaN if there are
    none.
    """
    others_N = s.prompt_count_N - 1
    mean_N = s.prompt_mean_N + (s.prompt_mean_N - s.batch.rewards_N) / others_N
    return torch.where(others_N > 0, mean_N, torch.nan)


def _shrunken_mean(s: _Statistics) -> Tensor:
    """μ_p + w (μ_G - μ_p), w = τ² / (τ² + s²/n) for n valid rewards; w = 0 where both variances are 0."""
    between_N = s.history.between_variance_N
    total_N = between_N + s.history.within_variance_N / s.prompt_count_N
    weight_N = torch.where(total_N > 0, between_N / total_N, 0.0)
    shrunken_N = s.history.mean_N + weight_N * (s.prompt_mean_N - s.history.mean_N)
    return s.or_prompt(shrunken_N, s.prompt_mean_N)


def _history_std(s: _Statistics) -> Tensor:
    """σ_p."""
    return s.or_prompt(s.history.std_N, s.prompt_std_N)


def _within_std(s: _Statistics) -> Tensor:
    """s_p, the standard deviation of rewards around the expected reward of their own prompt."""
    return s.or_prompt(s.history.within_variance_N.sqrt(), s.prompt_std_N)


def _prompt_std(s: _Statistics) -> Tensor:
    """σ_G."""
    return s.prompt_std_N


def _batch_std(s: _Statistics) -> Tensor:
    """Standard deviation of all valid rewards of the batch."""
    rewards_M = s.batch.rewards_N[s.batch.valid_N]
    one_set_M = torch.zeros_like(rewards_M, dtype=torch.int64)
    std = prompt_moments(rewards_M, torch.ones_like(rewards_M), one_set_M, 1).std
    return std.expand(len(s.batch.rewards_N))


def _no_scale(s: _Statistics) -> Tensor:
    return torch.ones_like(s.batch.rewards_N)


_BASELINES: dict[Baseline, Callable[[_Statistics], Tensor]] = {
    "history": _history_mean,
    "prompt": _prompt_mean,
    "leave_one_out": _leave_one_out_mean,
    "shrinkage": _shrunken_mean,
}
_SCALES: dict[Scale, Callable[[_Statistics], Tensor]] = {
    "history": _history_std,
    "within": _within_std,
    "prompt": _prompt_std,
    "batch": _batch_std,
    "none": _no_scale,
}
