"""The loss by hand arithmetic, cut into micro-batches, and where it must not look."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgrpo_cli.algo.losses import mean_metrics, policy_loss
from pgrpo_cli.algo.types import LossOutput

AGGREGATIONS = ["sequence_mean", "token_mean", "constant"]

# Two completions of 3 and 1 tokens, ratios as given, clip range 0.2 below and 0.3 above.
# Completion 0, A = 2:   ratio 0.5: min(1, 1.6) = 1;  1.1: 2.2;  1.5: min(3, 2.6) = 2.6, clipped.  Sum 5.8.
# Completion 1, A = -1:  ratio 0.5: min(-0.5, -0.8) = -0.8, clipped.
RATIOS = torch.tensor([[0.5, 1.1, 1.5], [0.5, 9.0, 9.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([2.0, -1.0])
MASK = torch.tensor([[True, True, True], [True, False, False]])
TOTALS = {"num_completions": 2, "num_tokens": 4, "max_completion_tokens": 5}
SETTINGS = {"clip_low": 0.2, "clip_high": 0.3, **TOTALS}


def loss_of(logprobs: Tensor, **changes) -> LossOutput:
    arguments = {**SETTINGS, "beta": 0.0, "aggregation": "sequence_mean", **changes}
    return policy_loss(logprobs, torch.zeros_like(logprobs), ADVANTAGES, MASK, **arguments)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sequence_mean", -(5.8 / 3 - 0.8 / 1) / 2),
        ("token_mean", -(5.8 - 0.8) / 4),
        ("constant", -(5.8 - 0.8) / (2 * 5)),
    ],
)
def test_aggregations_by_hand(aggregation, expected):
    assert loss_of(RATIOS.log(), aggregation=aggregation).loss.item() == pytest.approx(expected, rel=1e-14)


def test_gradient_by_hand():
    # d(ratio A)/d(logprob) = ratio A; clipped tokens have none. token_mean divides by 4.
    logprobs = RATIOS.log().requires_grad_()
    loss_of(logprobs, aggregation="token_mean").loss.backward()
    expected = [[-0.5 * 2 / 4, -1.1 * 2 / 4, 0], [0, 0, 0]]
    assert logprobs.grad.tolist() == [pytest.approx(row, rel=1e-14) for row in expected]


@pytest.mark.parametrize(("aggregation", "push"), [("sequence_mean", 3 / 32), ("constant", 0.0)])
def test_a_constant_advantage_pushes_towards_short_answers_under_sequence_mean_only(aggregation, push):
    """A policy with one parameter θ: the first token ends the completion with probability p = sigmoid(θ);
    otherwise a second token follows, which is always the same. So L is 1 with p, and 2 with 1 - p.

    θ = -ln 3: p = 1/4, dp/dθ = p (1 - p) = 3/16. E[1/L] = p + (1 - p) / 2, so dE[1/L]/dθ = 3/32.
    Each completion enters with its probability, so that the loss is the expected loss. All advantages are c.
    sequence_mean: dloss/dθ = -c (p · dlog p + (1 - p) / 2 · dlog(1 - p)) = -c (dp - dp / 2) = -c 3/32.
    constant, Lmax = 5: dloss/dθ = -c (dp - dp) / 5 = 0.
    """
    c = 0.5
    theta = torch.tensor(-math.log(3), dtype=torch.float64, requires_grad=True)
    stop, go = torch.nn.functional.logsigmoid(theta), torch.nn.functional.logsigmoid(-theta)
    zero = torch.zeros((), dtype=torch.float64)
    logprobs = torch.stack([torch.stack([stop, zero]), torch.stack([go, zero])])
    loss = policy_loss(
        logprobs, logprobs.detach(), 2 * c * torch.tensor([1 / 4, 3 / 4]),
        torch.tensor([[True, False], [True, True]]),
        **{**SETTINGS, "beta": 0.0, "aggregation": aggregation},
    ).loss  # fmt: skip
    loss.backward()
    assert theta.grad.item() == pytest.approx(-c * push, rel=1e-12, abs=1e-17)


def test_kl_by_hand():
    # k3 = exp(d) - d - 1 with d = reference - logprob. The policy at 0, the reference at ln 2 and ln 1/2:
    # 2 - ln 2 - 1 and 1/2 + ln 2 - 1.
    mask = torch.tensor([[True, True]])
    logprobs = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[math.log(2), -math.log(2)]], dtype=torch.float64)
    found = policy_loss(
        logprobs,
        torch.zeros(1, 2, dtype=torch.float64),
        torch.zeros(1),
        mask,
        reference_logprobs_N_T=reference,
        clip_low=0.2,
        clip_high=0.2,
        beta=0.1,
        aggregation="token_mean",
        num_completions=1,
        num_tokens=2,
        max_completion_tokens=2,
    )
    kl = ((1 - math.log(2)) + (math.log(2) - 0.5)) / 2  # = 1/4
    assert found.loss.item() == pytest.approx(0.1 * kl)
    assert mean_metrics([found.metrics])["kl"] == pytest.approx(0.25)
    found.loss.backward()
    # dk3/dlogprob = 1 - exp(d): -1 and 1/2.
    assert logprobs.grad.tolist() == [pytest.approx([-0.1 / 2, 0.05 / 2])]


def test_metrics_by_hand():
    # Four tokens. The lower clip takes the gradient of completion 1's only token, the upper that of the last
    # token of completion 0. Its ratio 0.5 is below the range too, but with A > 0 keeps its gradient.
    metrics = mean_metrics([loss_of(RATIOS.log()).metrics])
    assert metrics == pytest.approx(
        {"clip_fraction_low": 1 / 4, "clip_fraction_high": 1 / 4, "ratio_mean": (0.5 + 1.1 + 1.5 + 0.5) / 4}
    )


def test_the_kl_is_measured_without_being_trained_on_at_beta_zero():
    reference = torch.full_like(RATIOS, 0.3)
    plain, measured = loss_of(RATIOS.log()), loss_of(RATIOS.log(), reference_logprobs_N_T=reference)
    assert measured.loss.item() == plain.loss.item()
    assert mean_metrics([measured.metrics])["kl"] > 0
    assert "kl" not in plain.metrics
    overflowing = loss_of(RATIOS.log(), reference_logprobs_N_T=torch.full_like(RATIOS, 1e4))
    assert overflowing.loss.item() == plain.loss.item()


@pytest.mark.parametrize(
    # -min(ρ A, clip(ρ) A) with ρ limited to e^20 and the clip at 1.3; above the limit no gradient.
    ("advantage", "expected"),
    [(0.0, 0.0), (1.0, -1.3), (-1.0, math.exp(20))],
)
def test_a_ratio_that_overflows_is_limited(advantage, expected):
    logprobs = torch.tensor([[100.0, 0.0]], requires_grad=True)
    found = policy_loss(
        logprobs, torch.zeros(1, 2), torch.tensor([advantage]), torch.ones(1, 2, dtype=torch.bool),
        beta=0.0, aggregation="token_mean", **{**SETTINGS, "num_tokens": 2},
    )  # fmt: skip
    # The second token has ρ = 1: loss -A, gradient -A.
    assert found.loss.item() == pytest.approx((expected - advantage) / 2, rel=1e-6)
    found.loss.backward()
    assert logprobs.grad.tolist() == [[0.0, -advantage / 2]]
    assert mean_metrics([found.metrics])["ratio_mean"] == pytest.approx((math.exp(20) + 1) / 2, rel=1e-6)


def test_a_kl_that_overflows_is_limited():
    # d = 100 counts as 20: e^20 - 21, without gradient. d = 1: e - 2, with gradient 1 - e.
    logprobs = torch.tensor([[-100.0, -1.0]], requires_grad=True)
    found = policy_loss(
        logprobs, logprobs.detach(), torch.zeros(1), torch.ones(1, 2, dtype=torch.bool),
        reference_logprobs_N_T=torch.zeros(1, 2),
        beta=1.0, aggregation="token_mean", **{**SETTINGS, "num_tokens": 2},
    )  # fmt: skip
    assert found.loss.item() == pytest.approx((math.exp(20) - 21 + math.e - 2) / 2, rel=1e-6)
    found.loss.backward()
    assert logprobs.grad.tolist() == [[0.0, pytest.approx((1 - math.e) / 2, rel=1e-6)]]


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_below_the_limit_every_bit_is_that_of_the_plain_formula(beta):
    generator = torch.Generator().manual_seed(0)
    sampling, reference = torch.randn(2, 2, 3, generator=generator)
    logprobs = (3 * torch.randn(2, 3, generator=generator)).requires_grad_()
    found = policy_loss(
        logprobs, sampling, ADVANTAGES, torch.ones(2, 3, dtype=torch.bool),
        reference_logprobs_N_T=reference,
        beta=beta, aggregation="token_mean", **{**SETTINGS, "num_tokens": 6},
    )  # fmt: skip
    plain = logprobs.detach().clone().requires_grad_()
    ratio, d = torch.exp(plain - sampling), reference - plain
    losses = -torch.min(ratio * ADVANTAGES[:, None], ratio.clamp(1 - 0.2, 1 + 0.3) * ADVANTAGES[:, None])
    if beta > 0:
        losses = losses + beta * (torch.exp(d) - d - 1)
    expected = (losses * torch.full((2, 1), 1 / 6)).sum()
    found.loss.backward()
    expected.backward()
    assert found.loss.item() == expected.item()
    assert torch.equal(logprobs.grad, plain.grad)


def test_only_the_policy_receives_a_gradient():
    logprobs, sampling, reference = (RATIOS.log().clone().requires_grad_() for _ in range(3))
    advantages = ADVANTAGES.clone().requires_grad_()
    found = policy_loss(
        logprobs,
        sampling,
        advantages,
        MASK,
        reference_logprobs_N_T=reference,
        beta=0.1,
        aggregation="token_mean",
        **SETTINGS,
    )
    found.loss.backward()
    assert logprobs.grad.abs().sum() > 0
    assert sampling.grad is reference.grad is advantages.grad is None
    assert not any(value.requires_grad for value in found.metrics.values())


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e4])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_what_stands_outside_the_mask_has_no_effect(garbage, beta):
    def gradient(fill: float) -> tuple[float, list, dict]:
        logprobs = torch.where(MASK, RATIOS.log(), fill).requires_grad_()
        sampling, reference = torch.where(MASK, 0.1, fill), torch.where(MASK, -0.2, fill)
        found = policy_loss(
            logprobs,
            sampling,
            ADVANTAGES,
            MASK,
            reference_logprobs_N_T=reference,
            beta=beta,
            aggregation="sequence_mean",
            **SETTINGS,
        )
        found.loss.backward()
        return found.loss.item(), logprobs.grad.tolist(), mean_metrics([found.metrics])

    assert gradient(garbage) == gradient(0.0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_completions_without_a_trained_token_contribute_nothing(aggregation):
    logprobs = RATIOS.log().requires_grad_()
    found = policy_loss(
        logprobs,
        torch.zeros_like(logprobs),
        ADVANTAGES,
        torch.zeros_like(MASK),
        beta=0.0,
        aggregation=aggregation,
        **{**SETTINGS, "num_tokens": 0},
    )
    found.loss.backward()
    assert found.loss.item() == 0
    assert (logprobs.grad == 0).all()
    assert mean_metrics([found.metrics])["ratio_mean"] == 0
    assert mean_metrics([]) == {}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999), cuts=st.sets(st.integers(1, 5)), beta=st.sampled_from([0.0, 0.04]))
def test_micro_batches_add_up_to_the_step(aggregation, seed, cuts, beta):
    """However the rows are cut, and though each piece is only as long as its longest completion."""
    generator = torch.Generator().manual_seed(seed)
    rows, length = 6, 5
    drawn = torch.randn(4, rows, length, generator=generator, dtype=torch.float64) / 3
    mask = torch.arange(length) < torch.randint(length + 1, (rows, 1), generator=generator)
    advantages = drawn[3, :, 0] * 3
    logprobs = drawn[0].clone().requires_grad_()

    def share(start: int, end: int) -> LossOutput:
        width = int(mask[start:end].sum(1).max())
        return policy_loss(
            logprobs[start:end, :width],
            drawn[1, start:end, :width],
            advantages[start:end],
            mask[start:end, :width],
            reference_logprobs_N_T=drawn[2, start:end, :width],
            clip_low=0.1,
            clip_high=0.2,
            beta=beta,
            aggregation=aggregation,
            num_completions=rows,
            num_tokens=int(mask.sum()),
            max_completion_tokens=7,
        )

    def total(bounds: list[int]) -> tuple[float, Tensor, dict[str, float]]:
        shares = [share(start, end) for start, end in pairwise(bounds)]
        loss = sum(one.loss for one in shares)
        (gradient,) = torch.autograd.grad(loss, logprobs)
        return loss.item(), gradient, mean_metrics(one.metrics for one in shares)

    whole_loss, whole_gradient, whole_metrics = total([0, rows])
    loss, gradient, metrics = total([0, *sorted(cuts), rows])
    assert loss == pytest.approx(whole_loss, rel=1e-12, abs=1e-14)
    assert torch.allclose(gradient, whole_gradient, rtol=1e-12, atol=1e-15)
    assert metrics == pytest.approx(whole_metrics, rel=1e-12)


def test_half_precision_is_computed_in_float32():
    # bfloat16 knows 1 and 1.0078: a ratio of exp(-0.004) would round to 1.
    logprobs = torch.tensor([[-1.0]], dtype=torch.bfloat16)
    sampling = torch.tensor([[-0.996]])
    found = policy_loss(
        logprobs,
        sampling,
        torch.ones(1),
        torch.ones(1, 1, dtype=torch.bool),
        beta=0.0,
        aggregation="token_mean",
        **{**SETTINGS, "num_tokens": 1},
    )
    assert found.loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(-math.exp(-0.004), rel=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match=r"beta is 0\.1.*reference_logprobs_N_T"):
        loss_of(RATIOS.log(), beta=0.1)
    with pytest.raises(ValueError, match=r"'mean'.*sequence_mean"):
        loss_of(RATIOS.log(), aggregation="mean")
