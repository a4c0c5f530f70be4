"""The clipped policy-gradient surrogate with an optional KL penalty.

Every micro-batch is normalised by the totals of the whole step. So the losses and gradients of the
micro-batches add up to those of the step, no matter how the step is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .estimators import Aggregation
from .types import LossOutput

_MEANS = {
    "clipped_low": "clip_fraction_low",
    "clipped_high": "clip_fraction_high",
    "ratio": "ratio_mean",
    "kl": "kl",
}
"""Names of sums over tokens, and of the means that are made from them."""

_LARGEST = 20.0
"""The largest log-ratio in an exponential, e^20 = 5e8. From 89 on it is infinite in float32, and gradients
that should be 0, of clipped tokens or with A = 0, become NaN.
"""


def policy_loss(
    logprobs_N_T: Tensor,
    sampling_logprobs_N_T: Tensor,
    advantages_N: Tensor,
    loss_mask_N_T: Tensor,
    *,
    reference_logprobs_N_T: Tensor | None = None,
    clip_low: float,
    clip_high: float,
    beta: float,
    aggregation: Aggregation,
    num_completions: int,
    num_tokens: int,
    max_completion_tokens: int,
) -> LossOutput:
    """The share of a micro-batch in the loss of the step. N and T are the micro-batch's. `num_completions`
    and `num_tokens` are the numbers of completions and of trained tokens of the whole step.

    The loss of a token is -min(ρ A, clip(ρ, 1 - clip_low, 1 + clip_high) A) + beta k3. Here ρ = exp(logprob -
    sampling logprob), and k3 = exp(d) - d - 1 with d = reference logprob - logprob is Schulman's (2020)
    estimate of KL(policy || reference), which is unbiased and never negative. Above 20 the logarithm of ρ and
    d count as 20, with gradient 0. Aggregation over the step:
    - `sequence_mean`: mean over the tokens of a completion, then over completions (GRPO);
    - `token_mean`: mean over all tokens (DAPO);
    - `constant`: sum over all tokens, divided by num_completions * max_completion_tokens (Dr. GRPO).

    `loss_mask_N_T` is bool, True on trained tokens. The values at other positions, NaN included, have no
    effect. A completion without a trained token contributes 0. Half-precision input is computed in float32.
    Raises ValueError for beta > 0 without reference log-probabilities, and for an unknown aggregation.
    """
    if beta > 0 and reference_logprobs_N_T is None:
        raise ValueError(f"beta is {beta}: the KL penalty needs reference_logprobs_N_T")
    dtype = torch.promote_types(logprobs_N_T.dtype, torch.float32)
    logprobs_N_T = _masked(logprobs_N_T, loss_mask_N_T).to(dtype)
    sampling_logprobs_N_T = _masked(sampling_logprobs_N_T.detach(), loss_mask_N_T).to(dtype)
    advantages_N_1 = advantages_N.detach().to(logprobs_N_T).unsqueeze(1)

    ratio_N_T = torch.exp((logprobs_N_T - sampling_logprobs_N_T).clamp(max=_LARGEST))
    clipped_N_T = ratio_N_T.clamp(1 - clip_low, 1 + clip_high)
    losses_N_T = -torch.min(ratio_N_T * advantages_N_1, clipped_N_T * advantages_N_1)

    kl_N_T = None
    if reference_logprobs_N_T is not None:
        reference_logprobs_N_T = _masked(reference_logprobs_N_T.detach(), loss_mask_N_T).to(dtype)
        difference_N_T = (reference_logprobs_N_T - logprobs_N_T).clamp(max=_LARGEST)
        kl_N_T = torch.exp(difference_N_T) - difference_N_T - 1
        if beta > 0:
            losses_N_T = losses_N_T + beta * kl_N_T

    lengths_N = loss_mask_N_T.sum(1)
    weights_N = _token_weights(aggregation, lengths_N, num_completions, num_tokens, max_completion_tokens)
    loss = (_masked(losses_N_T, loss_mask_N_T) * weights_N.to(dtype).unsqueeze(1)).sum()
    with torch.no_grad():
        metrics = _metric_sums(ratio_N_T, kl_N_T, advantages_N_1, loss_mask_N_T, clip_low, clip_high)
    return LossOutput(loss, metrics)


def mean_metrics(shares: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """The metrics of the step, from the `metrics` of its micro-batches: means over trained tokens, 0 if there
    are none.

    - `clip_fraction_low`, `clip_fraction_high`: the share of tokens whose gradient is 0 because of the lower
    or
      upper clip;
    - `ratio_mean`: the mean of ρ;
    - `kl`: the mean of k3, if reference log-probabilities were given.
    """
    totals: dict[str, float] = {}
    for share in shares:
        for name, value in share.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    num_tokens = max(totals.get("tokens", 0.0), 1.0)
    return {mean: totals[name] / num_tokens for name, mean in _MEANS.items() if name in totals}


def _masked(values_N_T: Tensor, mask_N_T: Tensor) -> Tensor:
    """Zero outside the mask. A product with the mask would keep NaN, and pass it on to the gradient."""
    return torch.where(mask_N_T, values_N_T, 0.0)


def _token_weights(
    aggregation: Aggregation,
    lengths_N: Tensor,
    num_completions: int,
    num_tokens: int,
    max_completion_tokens: int,
) -> Tensor:
    """The weight of each completion's tokens in the loss of the step, float64 [N]."""
    if aggregation == "sequence_mean":
        return 1 / (lengths_N.clamp(min=1).double() * num_completions)
    if aggregation == "token_mean":
        return torch.full_like(lengths_N, 1 / max(num_tokens, 1), dtype=torch.float64)
    if aggregation == "constant":
        return torch.full_like(lengths_N, 1 / (num_completions * max_completion_tokens), dtype=torch.float64)
    raise ValueError(f"unknown aggregation {aggregation!r}; known: sequence_mean, token_mean, constant")


def _metric_sums(
    ratio_N_T: Tensor,
    kl_N_T: Tensor | None,
    advantages_N_1: Tensor,
    mask_N_T: Tensor,
    clip_low: float,
    clip_high: float,
) -> dict[str, Tensor]:
    """Sums over trained tokens. A token counts as clipped only if its gradient is 0, which depends on the
    sign of its advantage.
    """
    sums = {
        "tokens": mask_N_T,
        "clipped_low": mask_N_T & (ratio_N_T < 1 - clip_low) & (advantages_N_1 < 0),
        "clipped_high": mask_N_T & (ratio_N_T > 1 + clip_high) & (advantages_N_1 > 0),
        "ratio": _masked(ratio_N_T, mask_N_T),
    }
    if kl_N_T is not None:
        sums["kl"] = _masked(kl_N_T, mask_N_T)
    return {name: values.sum(dtype=torch.float64) for name, values in sums.items()}
