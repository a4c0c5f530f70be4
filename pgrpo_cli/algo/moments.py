"""Weighted moments of many sets of rewards at once, and the formulas that pool and merge them.

A set (the rewards of a preference group) consists of prompts, and a prompt consists of rewards. With weights
w_i, W = Σw and weighted means m, the sum of squares splits exactly into a part within prompts and a part
between prompts:

    Σ w_i (R_i - m)²  =  Σ w_i (R_i - m_prompt)²  +  Σ W_prompt (m_prompt - m)²

Every mean is computed from deviations from one reward of the set. So rewards far from zero lose no digits,
and equal rewards have exactly that reward as their mean and a spread of exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """The moments of K sets; each field is float64 [K]. For a set without rewards all fields are 0."""

    weight: Tensor
    """W = Σw; the number of rewards if all weights are 1."""
    weight_sq: Tensor
    """Σw²."""
    mean: Tensor
    within: Tensor
    """Sum of squares within prompts."""
    between: Tensor
    """Sum of squares between prompts."""
    prompt_weight: Tensor
    """Σ over prompts of (Σw² / Σw): the number of prompts if all weights are 1."""
    prompt_weight_sq: Tensor
    """Σ over prompts of (Σw)²."""

    def take(self, rows: Tensor) -> Moments:
        """The moments of the sets `rows`."""
        return Moments(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Moments]) -> Moments:
        """The sets of all `parts`, one after the other."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @property
    def variance(self) -> Tensor:
        """The sample variance. It is unbiased if weights do not depend on the rewards. If all weights are 1
        the divisor is n - 1.
        """
        freedom = self.weight - _divide(self.weight_sq, self.weight)
        return _ratio(self.within + self.between, freedom, self.weight)

    @property
    def std(self) -> Tensor:
        """The square root of `variance`; 0 for fewer than two rewards."""
        return self.variance.sqrt()

    @property
    def within_variance(self) -> Tensor:
        """s², the variance of rewards around their prompt's expectation; 0 if no prompt has two rewards."""
        return _ratio(self.within, self.weight - self.prompt_weight, self.weight)

    @property
    def between_variance(self) -> Tensor:
        """τ², the variance of the prompts' expectations; 0 for fewer than two prompts, or if s² is unknown.

        This is the analysis-of-variance estimator of an unbalanced one-way random-effects model (Searle,
        Casella and McCulloch, Variance Components, 1992, section 3.6), with weights. Negative estimates
        become
        0.
        """
        noise = self.within_variance * (self.prompt_weight - _divide(self.weight_sq, self.weight))
        freedom = self.weight - _divide(self.prompt_weight_sq, self.weight)
        tau_sq = _ratio(self.between - noise, freedom, self.weight).clamp(min=0)
        has_noise_estimate = self.weight - self.prompt_weight > _NEGLIGIBLE * self.weight
        return torch.where(has_noise_estimate, tau_sq, 0.0)

    @property
    def effective_n(self) -> Tensor:
        """Kish's effective sample size, W² / Σw²."""
        return _divide(self.weight.square(), self.weight_sq)


_NEGLIGIBLE = 1e-9
"""Degrees of freedom below this share of the weight are 0 except for rounding."""


def prompt_moments(rewards_M: Tensor, weights_M: Tensor, prompts_M: Tensor, num_prompts: int) -> Moments:
    """The moments of each prompt's rewards. `prompts_M` (int64) is the prompt of each reward."""
    weight = segment_sum(weights_M, prompts_M, num_prompts)
    weight_sq = segment_sum(weights_M.square(), prompts_M, num_prompts)
    mean, within = _mean_and_squares(rewards_M, weights_M, weight, prompts_M)
    return Moments(
        weight=weight,
        weight_sq=weight_sq,
        mean=mean,
        within=within,
        between=torch.zeros_like(mean),
        prompt_weight=_divide(weight_sq, weight),
        prompt_weight_sq=weight.square(),
    )


def pool_prompts(prompts: Moments, sets_P: Tensor, num_sets: int) -> Moments:
    """The moments of sets of prompts. `sets_P` (int64) is the set of each prompt."""

    def total(values_P: Tensor) -> Tensor:
        return segment_sum(values_P, sets_P, num_sets)

    weight = total(prompts.weight)
    mean, between = _mean_and_squares(prompts.mean, prompts.weight, weight, sets_P)
    return Moments(
        weight=weight,
        weight_sq=total(prompts.weight_sq),
        mean=mean,
        within=total(prompts.within),
        between=between,
        prompt_weight=total(prompts.prompt_weight),
        prompt_weight_sq=total(prompts.prompt_weight_sq),
    )


def merge(older: Moments, newer: Moments, decay: Tensor | float = 1.0) -> Moments:
    """The moments of the union of two sets, for each pair of sets. Two sets must not share a prompt. The
    weights of `older` are multiplied by `decay`.

    This is the pairwise formula of Chan, Golub and LeVeque (1979). For a newer set of one reward it is
    Welford's.
    """
    older_weight = older.weight * decay
    weight = older_weight + newer.weight
    share = _divide(newer.weight, weight)
    delta = newer.mean - older.mean
    return Moments(
        weight=weight,
        weight_sq=older.weight_sq * decay**2 + newer.weight_sq,
        mean=older.mean + delta * share,
        within=older.within * decay + newer.within,
        between=older.between * decay + newer.between + delta.square() * older_weight * share,
        prompt_weight=older.prompt_weight * decay + newer.prompt_weight,
        prompt_weight_sq=older.prompt_weight_sq * decay**2 + newer.prompt_weight_sq,
    )


def segment_sum(values_M: Tensor, segments_M: Tensor, num_segments: int) -> Tensor:
    """The sums of `values_M` by segment, added in order, so that the result repeats bit for bit."""
    return torch.zeros(num_segments, dtype=values_M.dtype).index_add_(0, segments_M, values_M)


def segment_ranks(segments_M: Tensor, counts_K: Tensor) -> Tensor:
    """For each element, how many earlier ones its segment has. `counts_K`: the sizes of the segments."""
    order_M = torch.argsort(segments_M, stable=True)
    starts_K = counts_K.cumsum(0) - counts_K
    ranks_M = torch.empty_like(segments_M)
    ranks_M[order_M] = torch.arange(len(segments_M)) - starts_K[segments_M[order_M]]
    return ranks_M


def _mean_and_squares(
    values_M: Tensor, weights_M: Tensor, weight_K: Tensor, segments_M: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted mean and the sum of squared deviations of each segment, in two passes."""
    num_segments = len(weight_K)
    lowest_K = torch.zeros(num_segments, dtype=values_M.dtype).scatter_reduce_(
        0, segments_M, values_M, "amin", include_self=False
    )
    deviations_M = values_M - lowest_K[segments_M]
    mean_deviation_K = _divide(segment_sum(weights_M * deviations_M, segments_M, num_segments), weight_K)
    squares_M = weights_M * (deviations_M - mean_deviation_K[segments_M]).square()
    mean_K = (lowest_K + mean_deviation_K).masked_fill_(weight_K <= 0, 0.0)
    return mean_K, segment_sum(squares_M, segments_M, num_segments)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient; 0 where the denominator is 0."""
    return (numerator / denominator).masked_fill_(denominator == 0, 0.0)


def _ratio(numerator: Tensor, freedom: Tensor, weight: Tensor) -> Tensor:
    """A sum of squares divided by its degrees of freedom; 0 where there are none."""
    return (numerator / freedom).masked_fill_(freedom <= _NEGLIGIBLE * weight, 0.0)
