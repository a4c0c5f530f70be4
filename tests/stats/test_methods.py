"""Differences of methods over seeds and prompts: by hand and against SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.methods import (
    Difference,
    difference_of,
    holm,
    p_value,
    seeds_interval,
    variance_shares,
)
from tests.support.intervals import mean_interval


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_the_variance_is_made_of_by_hand() -> None:
    # Two seeds, two prompts, differences [[1, 3], [2, 6]]: seeds' means 2 and 4, prompts' means 1.5 and 4.5.
    # Seeds: variance 2, over 2 seeds 1. Rest: every entry is 0.5 off the sum of effects, mean square 1 with
    # one degree of freedom, so 1 / 2 prompts / 2 seeds = 0.25. Prompts: variance 4.5 / 2, less 0.25: 2.
    values = torch.tensor([[1.0, 3.0], [2.0, 6.0]], dtype=torch.float64)
    found = difference_of([(values, torch.zeros_like(values))])
    assert found.mean == 3
    # The reference does not scatter.
    assert [(part.variance, part.df, part.count) for part in found.seeds] == [(1.0, 1, 2), (0.0, 1, 2)]
    assert found.units[0].variance == pytest.approx(2.0)
    # The seeds' 1 contains the rest, 0.25, so of 3 it is 0.75 for seeds, 2 for prompts, 0.25 for the rest.
    assert variance_shares(found) == pytest.approx((0.25, 2 / 3, 1 / 12))
    assert found.standard_error == pytest.approx(math.sqrt(3))
    assert found.effect_size == pytest.approx(3 / math.sqrt(4.5))


def by_user(rows: list[list[float]], users: str) -> Difference:
    values = torch.tensor(rows, dtype=torch.float64)
    return difference_of([(values, torch.zeros_like(values))], units=[list(users)])


def test_users_with_equally_many_prompts_stand_for_their_means_by_hand() -> None:
    # The users' means are the layout above, [[1, 3], [2, 6]]. Prompts: means 1, 2, 4, 5, variance 10 / 3.
    found = by_user([[0.5, 1.5, 2.0, 4.0], [1.5, 2.5, 6.0, 6.0]], "aabb")
    assert (found.mean, [(part.variance, part.df) for part in found.seeds]) == (3, [(1.0, 1), (0.0, 1)])
    assert [(part.variance, part.df, part.count) for part in found.units] == [(pytest.approx(2.0), 1, 2)]
    assert found.effect_size == pytest.approx(3 / math.sqrt(10 / 3))


def test_users_of_unlike_size_count_by_their_prompts_by_hand() -> None:
    # Users a: 3 prompts, b: 1; 2/4 = U/P. Seed 1 has mean 1, a: 1 + (0 - 3)/2 = -0.5, b: 1 + (4 - 1)/2 = 2.5.
    # Alone: variance 4.5 / 2 = 2.25, as `standard_error` has it.
    alone = by_user([[0.0, 0.0, 0.0, 4.0]], "aaab")
    assert (alone.mean, alone.units[0].variance, alone.units[0].df) == (1, pytest.approx(2.25), 1)
    # An effect of the seed on every prompt, 1, is none of the rest: means 1 and 2, variance 0.5 / 2.
    shifted = by_user([[0.0, 0.0, 0.0, 4.0], [1.0, 1.0, 1.0, 5.0]], "aaab")
    assert (shifted.seeds[0].variance, shifted.units[0].variance) == pytest.approx((0.25, 2.25))
    # Seed 2 has mean 2, a: 2 + (0 - 6)/2 = -1, b: 2 + (8 - 2)/2 = 5. Over seeds -0.75 and 3.75: 10.125 / 2.
    # Rest: all four are 0.75 off, mean square 4 * 0.5625 = 2.25, / 2 users / 2 seeds = 0.5625 less: 4.5.
    doubled = by_user([[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 8.0]], "aaab")
    assert (doubled.mean, doubled.seeds[0].variance) == (1.5, pytest.approx(0.25))
    assert doubled.units[0].variance == pytest.approx(4.5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_few_units_that_differ_alike_make_the_macro_unknown_with_seeds_too(seeds: int) -> None:
    reference = torch.zeros(seeds, 2, dtype=torch.float64)
    varying = drawn(3, seeds, 16)
    found = difference_of([(reference + 1, reference), (varying, 0 * varying)])
    assert math.isnan(seeds_interval(found, Bootstrap(samples=200)).low)
    # 2^-1.26, as in test_intervals.py.
    assert p_value(found) >= 0.41
    enough = torch.zeros(seeds, 6, dtype=torch.float64)
    found = difference_of([(enough + 1, enough), (varying, 0 * varying)])
    assert not math.isnan(seeds_interval(found, Bootstrap(samples=200)).low)


def test_with_alike_seeds_it_is_the_interval_over_users() -> None:
    users = [user for user in range(30) for _ in range(1 + user % 4)]
    values = drawn(8, 30)[users] + 0.3 * drawn(9, len(users))
    found = difference_of([(values.expand(3, -1), 0 * values.expand(3, -1))], units=[users])
    interval = seeds_interval(found, Bootstrap(samples=20_000))
    expected = mean_interval(values, Bootstrap(samples=20_000, seed=1), users)
    assert interval.mean == pytest.approx(expected.mean)
    # An end of 20,000 resamples has a standard error of about 0.02 of their spread, here of 0.2.
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_a_single_user_has_no_interval() -> None:
    found = by_user([[0.1, 0.2], [0.3, 0.1]], "aa")
    assert math.isnan(seeds_interval(found, Bootstrap()).low) and math.isnan(p_value(found))
    assert found.effect_size == pytest.approx(0.175 / math.sqrt(0.5 * 0.05**2))


def test_without_pairing_both_methods_scatter() -> None:
    # Seeds' means 1, 3 and 0, 0, 3: variances 2 and 3 with 1 and 2 degrees of freedom. Two seeds are few, so
    # they are pooled: (2 + 2 · 3) / 3 · (1/2 + 1/3).
    values = torch.tensor([[1.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
    reference = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
    found = difference_of([(values, reference)])
    assert [(part.variance, part.df) for part in found.seeds] == [(pytest.approx(20 / 9), 3)]
    # Two each are not: variances 2 / 2 and 0.
    alone = difference_of([(values, reference[:2])])
    assert [part.variance for part in alone.seeds] == pytest.approx([1.0, 0.0])
    assert (found.mean, found.units[0].variance) == (1.0, 0.0)


def test_without_pairing_and_without_units_effect_it_is_the_test_of_welch() -> None:
    values, reference = drawn(5, 4, 1).expand(4, 25), 2 * drawn(6, 6, 1).expand(6, 25)
    found = difference_of([(values, reference)])
    interval = seeds_interval(found, Bootstrap(samples=2000, confidence=0.9))
    expected = stats.ttest_ind(values[:, 0].numpy(), reference[:, 0].numpy(), equal_var=False)
    limits = expected.confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high), rel=0.01)
    assert p_value(found) == pytest.approx(expected.pvalue, rel=1e-3)


def test_a_single_seed_is_taken_to_scatter_like_the_other_method() -> None:
    # Variance 2 over the two seeds of one: 2 / 2 + 2 / 1.
    values = torch.tensor([[1.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
    found = difference_of([(values, torch.zeros(1, 2, dtype=torch.float64))])
    assert [(part.variance, part.df) for part in found.seeds] == [(pytest.approx(3.0), 1)]


def test_with_one_seed_it_is_the_paired_t_test() -> None:
    values, reference = drawn(1, 1, 20) + 0.4, drawn(2, 1, 20)
    found = difference_of([(values, reference)])
    expected = stats.ttest_rel(values[0].numpy(), reference[0].numpy())
    assert p_value(found) == pytest.approx(expected.pvalue, rel=1e-3)


def test_with_one_preference_group_and_no_prompt_effect_it_is_the_t_test_over_seeds() -> None:
    seeds = drawn(5, 4, 1).expand(4, 25)
    found = difference_of([(seeds, torch.zeros(4, 25, dtype=torch.float64))])
    interval = seeds_interval(found, Bootstrap(samples=2000, confidence=0.9))
    expected = stats.ttest_1samp(seeds[:, 0].numpy(), 0)
    limits = expected.confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high), rel=0.01)
    assert p_value(found) == pytest.approx(expected.pvalue, rel=1e-3)


def test_with_many_prompts_and_alike_seeds_it_is_the_interval_over_prompts() -> None:
    prompts = drawn(6, 1, 400).expand(3, 400)
    found = difference_of([(prompts, torch.zeros(3, 400, dtype=torch.float64))])
    interval = seeds_interval(found, Bootstrap(samples=4000))
    limits = stats.ttest_1samp(prompts[0].numpy(), 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high), abs=0.01)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1: 0.03, 0.04, 0.04. 0.03 stays the largest where it would fall.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    found = holm([0.02, math.nan])
    assert found[0] == 0.02 and math.isnan(found[1])


@pytest.mark.parametrize("units", [0.1, 0.5, 2.0])
def test_few_resamples_give_about_the_interval_of_many(units: float) -> None:
    values = drawn(5, 4, 1) + units * drawn(6, 1, 40) + 0.3 * drawn(7, 4, 40)
    found = difference_of([(values, 0 * values)])
    many, few = (seeds_interval(found, Bootstrap(samples, 0.999)) for samples in (40_000, 200))
    assert few.high - few.low == pytest.approx(many.high - many.low, rel=0.05)


def test_a_single_prompt_has_no_interval() -> None:
    one = torch.ones(3, 1, dtype=torch.float64)
    found = difference_of([(one, one * 0)])
    assert math.isnan(seeds_interval(found, Bootstrap()).low) and math.isnan(p_value(found))


def test_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="other prompts"):
        difference_of([(torch.zeros(2, 3), torch.zeros(2, 4))])
    with pytest.raises(ValueError, match="3 values but 2 units"):
        difference_of([(torch.zeros(2, 3), torch.zeros(2, 3))], units=[["a", "b"]])
