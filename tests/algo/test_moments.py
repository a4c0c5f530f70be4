"""Moments of many sets at once: hand arithmetic, the split of squares, merging, digits kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgrpo_cli.algo.moments import Moments, merge, pool_prompts, prompt_moments, segment_ranks


def int64(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def moments_of(prompts: list[list[float]]) -> Moments:
    """Moments of one set that consists of `prompts`, each reward with weight 1."""
    rewards = torch.tensor([r for prompt in prompts for r in prompt], dtype=torch.float64)
    numbers = int64(*(p for p, prompt in enumerate(prompts) for _ in prompt))
    parts = prompt_moments(rewards, torch.ones_like(rewards), numbers, len(prompts))
    return pool_prompts(parts, torch.zeros(len(prompts), dtype=torch.int64), 1)


def test_two_prompts_by_hand():
    # 1 2 3 6: mean 3, squares 4 + 1 + 0 + 9 = 14.  5 5 7 7: mean 6, squares 4.  All eight: mean 36 / 8 = 4.5.
    # Between prompts: 4 (3 - 4.5)² + 4 (6 - 4.5)² = 18.
    moments = moments_of([[1, 2, 3, 6], [5, 5, 7, 7]])
    assert moments.mean.item() == 4.5
    assert moments.within.item() == 18
    assert moments.between.item() == 18
    assert moments.variance.item() == pytest.approx(36 / 7, rel=1e-15)
    # s² = 18 / (8 - 2).  τ² = (18 - s² (2 - 1)) / (8 - (4² + 4²) / 8) = 15 / 4.
    assert moments.within_variance.item() == 3
    assert moments.between_variance.item() == 3.75


def test_unequal_prompts_by_hand():
    # 1 2: mean 1.5, squares 0.5.  6: mean 6.  All: mean 3, between 2 * 1.5² + 3² = 13.5.
    # τ² = (13.5 - 0.5) / (3 - (2² + 1²) / 3) = 13 / (4 / 3).
    moments = moments_of([[1, 2], [6]])
    assert moments.within_variance.item() == pytest.approx(0.5)
    assert moments.between_variance.item() == pytest.approx(9.75)


@pytest.mark.parametrize(
    "prompts",
    [[[1.0, 2.0, 4.0]], [[1.0], [2.0], [4.0]], [[1.0, 3.0], [1.0, 3.0]]],
    ids=["one prompt", "a reward a prompt", "less than the noise explains"],
)
def test_no_evidence_of_a_difference_between_prompts_is_a_between_variance_of_zero(prompts):
    assert moments_of(prompts).between_variance.item() == 0


def test_a_set_without_rewards_is_zero_everywhere():
    rewards = torch.tensor([5.0, 7.0], dtype=torch.float64)
    moments = prompt_moments(rewards, torch.ones_like(rewards), int64(1, 1), 3)
    assert moments.mean.tolist() == [0, 6, 0]
    assert moments.variance.tolist() == [0, 2, 0]
    assert moments.weight.tolist() == [0, 2, 0]
    for name in vars(moments):
        assert not getattr(moments, name).isnan().any(), name


@pytest.mark.parametrize("value", [0.1, -7.3, 1e6 + 0.1])
def test_equal_rewards_have_their_value_as_mean_and_no_spread_at_all(value):
    # 0.1 + 0.1 + 0.1 is not 0.3 in binary: a mean by plain summation would leave a spread of 1e-17.
    moments = merge(moments_of([[value] * 3, [value] * 3]), moments_of([[value] * 7]))
    assert moments.mean.item() == value
    assert moments.std.item() == 0


def test_weights_by_hand():
    # Weights 1/4, 1/2, 1 on 1, 3, 5: W = 7/4, mean 6.75 / 1.75 = 27/7,
    # squares (1/4) (20/7)² + (1/2) (6/7)² + (8/7)² = 26/7.  W - Σw²/W = 7/4 - (21/16) / (7/4) = 1.
    rewards = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    moments = prompt_moments(rewards, torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64), int64(0, 0, 0), 1)
    assert moments.mean.item() == pytest.approx(27 / 7, rel=1e-15)
    assert moments.variance.item() == pytest.approx(26 / 7, rel=1e-15)
    assert moments.effective_n.item() == pytest.approx((7 / 4) ** 2 / (21 / 16), rel=1e-15)


finite = st.floats(-1e3, 1e3)
some_prompts = st.lists(st.lists(finite, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(some_prompts)
def test_squares_inside_and_between_prompts_add_up_to_the_total(prompts):
    rewards = [r for prompt in prompts for r in prompt]
    mean = math.fsum(rewards) / len(rewards)
    total = math.fsum((r - mean) ** 2 for r in rewards)
    moments = moments_of(prompts)
    assert (moments.within + moments.between).item() == pytest.approx(total, rel=1e-12, abs=1e-9)
    assert moments.mean.item() == pytest.approx(mean, rel=1e-12, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(some_prompts, some_prompts)
def test_merging_equals_pooling_and_does_not_depend_on_the_side(left, right):
    a, b = moments_of(left), moments_of(right)
    whole = moments_of(left + right)
    for merged in (merge(a, b), merge(b, a)):
        for name in vars(whole):
            expected = getattr(whole, name).item()
            assert getattr(merged, name).item() == pytest.approx(expected, rel=1e-11, abs=1e-8), name


def test_merging_with_nothing_changes_nothing():
    some, nothing = moments_of([[1.0, 2.5], [4.0]]), moments_of([])
    for merged in (merge(some, nothing), merge(nothing, some)):
        assert vars(merged) == vars(some)


@settings(deadline=None, max_examples=30)
@given(some_prompts, some_prompts, st.sampled_from([0.25, 0.9]))
def test_decay_equals_smaller_weights(left, right, decay):
    def flat(prompts: list[list[float]], weight: float) -> tuple[list[float], list[float], list[int]]:
        rewards = [r for prompt in prompts for r in prompt]
        return rewards, [weight] * len(rewards), [p for p, prompt in enumerate(prompts) for _ in prompt]

    (r1, w1, p1), (r2, w2, p2) = flat(left, decay), flat(right, 1.0)
    rewards, weights = (torch.tensor(x, dtype=torch.float64) for x in (r1 + r2, w1 + w2))
    numbers = int64(*p1, *(len(left) + p for p in p2))
    parts = prompt_moments(rewards, weights, numbers, len(left) + len(right))
    expected = pool_prompts(parts, torch.zeros(len(left) + len(right), dtype=torch.int64), 1)
    merged = merge(moments_of(left), moments_of(right), decay)
    for name in vars(expected):
        value = getattr(expected, name).item()
        assert getattr(merged, name).item() == pytest.approx(value, rel=1e-11, abs=1e-8), name


def test_variance_components_are_recovered_on_average():
    # 4,000 sets of 12 prompts with 4 rewards, some missing: reward = N(0, τ² = 4) a prompt + N(0, s² = 1).
    # The estimators are unbiased. A single set's τ² has a relative deviation of about sqrt(2 / 11) = 0.43,
    # their mean one of 0.007.
    sets, prompts, generations = 4000, 12, 4
    generator = torch.Generator().manual_seed(0)
    shape = (sets * prompts, generations)
    level = 2 * torch.randn(sets * prompts, 1, generator=generator, dtype=torch.float64)
    rewards = level + torch.randn(shape, generator=generator, dtype=torch.float64)
    kept = torch.rand(shape, generator=generator) < 0.7
    kept[:, 0] = True
    numbers = torch.arange(sets * prompts).unsqueeze(1).expand(shape)
    weights = 0.3 + torch.rand(shape, generator=generator, dtype=torch.float64)
    for w in (torch.ones_like(weights), weights):
        parts = prompt_moments(rewards[kept], w[kept], numbers[kept], sets * prompts)
        pooled = pool_prompts(parts, torch.arange(sets * prompts) // prompts, sets)
        assert pooled.between_variance.mean().item() == pytest.approx(4, rel=0.03)
        assert pooled.within_variance.mean().item() == pytest.approx(1, rel=0.02)


def test_ranks_count_earlier_members_of_the_same_segment():
    assert segment_ranks(int64(2, 0, 2, 2, 0), int64(2, 0, 3)).tolist() == [0, 0, 1, 2, 1]
