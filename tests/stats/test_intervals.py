"""Bootstrap intervals: hand arithmetic, coverage by simulation, agreement with scipy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from pgrpo_cli.stats.intervals import (
    Bootstrap,
    Interval,
    chance_alike,
    combination_interval,
    prompt_means,
    share_interval,
    standard_error,
)
from pgrpo_cli.stats.student_t import student_t_quantile
from tests.support.intervals import mean_interval, stratified_interval

NAMES = [f"p{i:02d}" for i in range(40)]
PLAIN = Bootstrap(samples=4000, seed=1, small_sample=False)


def test_plain_interval_of_two_values() -> None:
    # Resampled means of {0, 1}: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    # The 2.5 % and 97.5 % quantiles are 0 and 1; the 30 % and 70 % quantiles are both 1/2.
    assert mean_interval([0.0, 1.0], PLAIN) == Interval(0.5, 0.0, 1.0)
    narrow = Bootstrap(samples=4000, confidence=0.4, seed=1, small_sample=False)
    assert mean_interval([0.0, 1.0], narrow) == Interval(0.5, 0.5, 0.5)


def test_small_samples_are_widened_by_student_and_by_the_lost_variance() -> None:
    # n = 2: SE / SE_boot = sqrt(2/1); t(1 df, 97.5 %) = tan(0.475 pi) = 12.7062; z = 1.959964.
    # Factor 1.414214 * 12.7062 / 1.959964 = 9.16818, so the ends are 0.5 -+ 0.5 * 9.16818.
    interval = mean_interval([0.0, 1.0], Bootstrap(samples=4000, seed=1))
    assert interval.mean == 0.5
    assert interval.low == pytest.approx(0.5 - 0.5 * 9.16818, abs=1e-4)
    assert interval.high == pytest.approx(0.5 + 0.5 * 9.16818, abs=1e-4)


@pytest.mark.parametrize("comparisons", [20, 1000, 100_000])
def test_a_coverage_close_to_1_is_not_cut_at_the_farthest_resample(comparisons: int) -> None:
    values = torch.randn(20, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    confidence = 1 - 0.05 / comparisons
    found = mean_interval(values, Bootstrap(2000, confidence, 3))
    half = stats.t.ppf((1 + confidence) / 2, 19) * stats.sem(values.numpy())
    assert (found.high - found.low) / (2 * half) == pytest.approx(1, abs=0.03)
    plain = mean_interval(values, Bootstrap(100, confidence, 3, small_sample=False))
    normal = stats.norm.ppf((1 + confidence) / 2) * stats.sem(values.numpy()) * (19 / 20) ** 0.5
    assert (plain.high - plain.low) / (2 * normal) == pytest.approx(1, abs=1e-6)


def test_macro_counts_each_preference_group_once() -> None:
    # Means 1/2 and 5: the macro mean is 2.75 although the second group has more prompts.
    # Only the first varies: its resampled mean runs over 0, 1/2, 1, so the macro mean over 2.5, 2.75, 3.
    assert stratified_interval([[0.0, 1.0], [5.0] * 6], PLAIN) == Interval(2.75, 2.5, 3.0)


def test_weights_are_shares() -> None:
    # Weights 30 : 10 = 3/4 : 1/4. Mean 0.75 * 0.5 + 0.25 * 5 = 1.625; ends 0.75 * {0, 1} + 1.25.
    interval = stratified_interval([[0.0, 1.0], [5.0] * 6], PLAIN, [30, 10])
    assert interval == Interval(1.625, 1.25, 2.0)


def test_a_single_prompt_has_a_mean_and_no_interval() -> None:
    for interval in (mean_interval([0.3], PLAIN), stratified_interval([[0.3], [0.1, 0.5]], PLAIN)):
        assert interval.mean == pytest.approx(0.3)
        assert math.isnan(interval.low) and math.isnan(interval.high)


def test_no_prompt_has_no_mean() -> None:
    nothing: list[list[list[float]]] = [[], [[]], [[], [1.0, 2.0]]]
    for strata in nothing:
        interval = stratified_interval(strata, PLAIN)
        assert all(math.isnan(value) for value in (interval.mean, interval.low, interval.high))


def test_equal_values_have_an_interval_of_width_zero() -> None:
    assert mean_interval([0.25] * 6, Bootstrap()) == Interval(0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("strata", "known"),
    [
        # The single means would all be unknown: 2 and 5 equal units are so by chance with 2^-1 and 2^-4.
        ([[1.0] * 2, [0.0, 0.1] * 8], False),
        ([[1.0] * 3, [-0.8] * 3], False),
        ([[1.0] * 2, [0.0] * 4], False),
        ([[1.0] * 5, [0.0, 0.1] * 2], True),
        # The smallest stratum decides, where none varies: 2^-5 < 0.05.
        ([[1.0] * 6, [-0.8] * 6], True),
        ([[1.0] * 6, [-0.8] * 5], False),
        # Degrees of freedom if all vary equally: 10 strata of 2 units have 10, 4 have 4.
        ([[1.0] * 2] + [[0.0, 0.1]] * 9, True),
        ([[1.0] * 2] + [[0.0, 0.1]] * 3, False),
        # Enough equal units are known exactly, whatever the others.
        ([[1.0] * 6, [0.0, 0.1]], True),
    ],
)
def test_a_stratum_whose_few_units_agree_is_not_known_exactly(strata: list[list[float]], known: bool) -> None:
    interval = stratified_interval(strata, Bootstrap(samples=200))
    assert math.isnan(interval.low) == math.isnan(interval.high) == (not known)


def test_few_equal_units_by_hand() -> None:
    # Welch: (1/4/2 + 1/4/16)² / ((1/4/2)² / 1 + (1/4/16)² / 15) = 81 / (64 + 1/15) = 1.26431.
    chance = chance_alike([2, 16], [True, False], [0.5, -0.5])
    assert chance == pytest.approx(2**-1.26431, abs=1e-5)
    assert chance_alike([2, 16], [False, False], [0.5, 0.5]) == 0
    assert chance_alike([2, 3, 9], [True, True, True], [1, 1, 1]) == 0.5


def test_many_small_strata_some_of_which_agree_cover_at_the_nominal_rate() -> None:
    # Rewards of 0 or 1 in 30 strata of 3: each agrees in 1 of 4 cases, so hardly ever all of them vary.
    generator = torch.Generator().manual_seed(5)
    hits = 0
    for trial in range(200):
        strata = torch.randint(0, 2, (30, 3), generator=generator).double()
        interval = stratified_interval(list(strata), Bootstrap(samples=200, seed=trial))
        hits += interval.low <= 0.5 <= interval.high
    # A coverage of 0.95 is seen with a standard error of 0.015.
    assert hits / 200 >= 0.9


def _coverage(*, strata: int, prompts: int, small_sample: bool, trials: int = 800) -> float:
    """How often the interval holds 0.5, the true mean of the simulated rewards.

    A prompt's difficulty is uniform on [0, 1]; each of its 4 completions succeeds with that probability.
    """
    generator = torch.Generator().manual_seed(11)
    hits = 0
    for trial in range(trials):
        difficulty = torch.rand(strata, prompts, 1, generator=generator, dtype=torch.float64)
        rewards = torch.bernoulli(difficulty.expand(-1, -1, 4), generator=generator)
        bootstrap = Bootstrap(samples=300, seed=trial, small_sample=small_sample)
        interval = stratified_interval(list(rewards.mean(dim=2)), bootstrap)
        hits += interval.low <= 0.5 <= interval.high
    return hits / trials


@pytest.mark.parametrize(("strata", "prompts"), [(1, 8), (1, 60), (7, 8)])
def test_nominal_coverage_on_simulated_rewards(strata: int, prompts: int) -> None:
    # 800 trials: a coverage of 0.95 is seen with a standard error of 0.0077; 3 of them are 0.023.
    coverage = _coverage(strata=strata, prompts=prompts, small_sample=True)
    assert coverage == pytest.approx(0.95, abs=0.023)


def test_the_plain_interval_covers_too_rarely_with_few_prompts() -> None:
    # Resampling 8 values loses 1/8 of the variance: 1.96 * sqrt(7/8) = 1.83 standard errors where t(7) needs
    # 2.36, so about 0.89 of the intervals hold the truth.
    assert _coverage(strata=1, prompts=8, small_sample=False) < 0.91


@pytest.mark.parametrize(
    ("level", "df"), [(0.975, 1.0), (0.975, 7.0), (0.95, 2.5), (0.995, 49.3), (0.9, 3e5)]
)
def test_student_quantile_equals_scipy(level: float, df: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_t_quantile(level, df) == pytest.approx(stats.t.ppf(level, df), rel=2e-4)


def test_mean_interval_agrees_with_scipy() -> None:
    numpy, stats = pytest.importorskip("numpy"), pytest.importorskip("scipy.stats")
    values = numpy.random.default_rng(5).gamma(2.0, size=30)
    theirs = stats.bootstrap((values,), numpy.mean, n_resamples=20_000, method="percentile", rng=1)
    ours = mean_interval(values, Bootstrap(samples=20_000, seed=9, small_sample=False))
    # Both are random; an end of 20,000 resamples has a standard error of 0.02 of their spread.
    tolerance = 0.1 * theirs.standard_error
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_paired_interval_agrees_with_scipy() -> None:
    numpy, stats = pytest.importorskip("numpy"), pytest.importorskip("scipy.stats")
    rng = numpy.random.default_rng(6)
    before = rng.normal(size=40)
    after = before + rng.normal(0.2, 0.3, size=40)

    def mean_difference(a: object, b: object, axis: int = -1) -> object:
        return numpy.mean(a, axis=axis) - numpy.mean(b, axis=axis)

    theirs = stats.bootstrap(
        (after, before), mean_difference, paired=True, n_resamples=20_000, method="percentile", rng=1
    )
    ours = mean_interval(after - before, Bootstrap(samples=20_000, seed=9, small_sample=False))
    tolerance = 0.1 * theirs.standard_error
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_pairing_removes_what_prompts_share() -> None:
    # Both models agree on which prompts are hard (0 ... 9); the second is better by 0.1 to 0.2 everywhere.
    reference = {NAMES[i]: float(i) for i in range(10)}
    values = {NAMES[i]: i + 0.1 + 0.1 * (i % 2) for i in range(10)}
    paired = mean_interval([values[name] - reference[name] for name in values], Bootstrap())
    alone = mean_interval(list(values.values()), Bootstrap())
    assert paired.mean == pytest.approx(0.15)
    assert paired.low > 0.09
    assert alone.high - alone.low > 20 * (paired.high - paired.low)


def test_the_seed_fixes_the_interval() -> None:
    values = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mean_interval(values, Bootstrap(seed=4)) == mean_interval(values, Bootstrap(seed=4))
    assert mean_interval(values, Bootstrap(seed=4)) != mean_interval(values, Bootstrap(seed=5))


def test_draws_in_blocks_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = mean_interval(values, Bootstrap(samples=500))
    monkeypatch.setattr("pgrpo_cli.stats.intervals._MAX_DRAWS_AT_ONCE", 64)
    assert mean_interval(values, Bootstrap(samples=500)) == whole


def test_prompt_means_leave_out_missing_rewards() -> None:
    # b: (1 + 3) / 2; a: NaN left out, so 0.5; c: nothing is left.
    nan = math.nan
    assert prompt_means([1.0, 3.0, nan, 0.5, nan], ["b", "b", "a", "a", "c"]) == {"a": 0.5, "b": 2.0}


@given(rewards=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), order=st.randoms())
def test_prompt_means_do_not_depend_on_the_order_of_completions(rewards: list[float], order: object) -> None:
    shuffled = list(rewards)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    ids = ["p"] * len(rewards)
    assert prompt_means(rewards, ids) == prompt_means(shuffled, ids)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-5, 5), min_size=2, max_size=12),
    shift=st.floats(-3, 3),
    factor=st.floats(0.1, 10),
)
def test_intervals_follow_a_change_of_units(values: list[float], shift: float, factor: float) -> None:
    # Smaller spreads are rounding errors, and of few values without a spread the interval is unknown.
    assume(max(values) - min(values) > 1e-9)
    bootstrap = Bootstrap(samples=200)
    before = mean_interval(values, bootstrap)
    after = mean_interval([factor * value + shift for value in values], bootstrap)
    for name in ("mean", "low", "high"):
        assert getattr(after, name) == pytest.approx(factor * getattr(before, name) + shift, abs=1e-6)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence=1"):
        Bootstrap(confidence=1.0)
    with pytest.raises(ValueError, match="1 strata but 2 weights"):
        stratified_interval([[1.0]], PLAIN, [1, 2])


def test_users_are_drawn_with_all_of_their_prompts() -> None:
    # Users a: {0, 0}, b: {1, 1}. Drawn means: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4, as of two prompts.
    interval = mean_interval([0.0, 1.0, 0.0, 1.0], PLAIN, ["a", "b", "a", "b"])
    assert interval == Interval(0.5, 0.0, 1.0)


def test_users_of_unlike_size_count_by_their_prompts() -> None:
    # a: {0, 0, 0}, b: {4}. Mean 1; drawn means: (a, a) 0, (a, b) 4/4 = 1, (b, b) 8/2 = 4.
    assert mean_interval([0.0, 0.0, 0.0, 4.0], PLAIN, list("aaab")) == Interval(1.0, 0.0, 4.0)


def test_a_single_user_has_no_interval() -> None:
    assert math.isnan(mean_interval([0.1, 0.2, 0.3], PLAIN, list("aaa")).low)
    assert math.isnan(standard_error([0.1, 0.2, 0.3], list("aaa")))


def test_standard_error_of_prompts_and_of_users() -> None:
    # {0, 1}: s² = 1/2, s²/n = 1/4.
    assert standard_error([0.0, 1.0]) == pytest.approx(0.5)
    # a: {0, 0, 0}, b: {4}; mean 1; residuals 0 - 3 = -3 and 4 - 1 = 3; 2/1 · 18 / 4² = 2.25.
    assert standard_error([0.0, 0.0, 0.0, 4.0], list("aaab")) == pytest.approx(1.5)


def test_differences_of_groups() -> None:
    # Means 1/2 and 5: 0.5 - 5 = -4.5; only the first varies, over 0, 1/2, 1.
    interval = combination_interval([[0.0, 1.0], [5.0] * 6], PLAIN, [1, -1])
    assert interval == Interval(-4.5, -5.0, -4.0)


def test_wilson_interval_by_hand_and_by_scipy() -> None:
    # 4 of 8 with z = 1.959964, z²/n = 0.480182: half is sqrt(0.480182/4 + 0.480182²/4) / 1.480182 = 0.2847.
    interval = share_interval(0.5, 8, 0.95)
    assert (interval.low, interval.high) == (pytest.approx(0.2153, abs=1e-4), pytest.approx(0.7847, abs=1e-4))
    for k, n in [(3, 10), (17, 40)]:
        expected = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
        found = share_interval(k / n, n, 0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert math.isnan(share_interval(math.nan, 0, 0.95).low)


def test_the_interval_of_all_or_none_is_the_exact_one() -> None:
    for k, n in [(0, 5), (4, 4), (6, 6), (40, 40)]:
        expected = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
        found = share_interval(k / n, n, 0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("share", [1.0, 0.95, 0.05, 0.0])
def test_fewer_than_six_units_that_agree_are_no_preference(share: float) -> None:
    # A judge without a preference agrees with itself in 2 of 2^5 cases, more than 5 %; 2 of 2^6 are less.
    five = share_interval(share, 5, 0.95)
    assert five.low <= 0.5 <= five.high
    six = share_interval(share, 6, 0.95)
    assert not six.low <= 0.5 <= six.high


def _cluster_coverage(*, by_user: bool, trials: int = 500) -> float:
    """How often the 95 % interval of a mean holds the truth with 12 users of 1 to 6 prompts.

    Prompts of one user share a value of standard deviation 1, their own noise has 0.5.
    """
    generator = torch.Generator().manual_seed(5)
    bootstrap = Bootstrap(samples=300, seed=3)
    hits = 0
    for _ in range(trials):
        sizes = torch.randint(1, 7, (12,), generator=generator)
        user_P = torch.repeat_interleave(torch.arange(12), sizes)
        taste = torch.randn(12, generator=generator, dtype=torch.float64)
        values = taste[user_P] + 0.5 * torch.randn(len(user_P), generator=generator, dtype=torch.float64)
        interval = mean_interval(values, bootstrap, user_P.tolist() if by_user else None)
        hits += interval.low <= 0 <= interval.high
    return hits / trials


def test_coverage_with_several_prompts_a_user() -> None:
    # Standard deviation of a share of 95 % in 500 trials: 1 %.
    assert 0.92 <= _cluster_coverage(by_user=True) <= 0.98
    # Prompts as units pretend to know more than they do.
    assert _cluster_coverage(by_user=False) < 0.85


def test_user_intervals_agree_with_scipy() -> None:
    numpy, stats = pytest.importorskip("numpy"), pytest.importorskip("scipy.stats")
    generator = numpy.random.default_rng(4)
    sizes = generator.integers(1, 5, 25)
    users = numpy.repeat(numpy.arange(25), sizes)
    values = generator.normal(size=25)[users] + generator.normal(size=len(users))
    sums = numpy.bincount(users, weights=values)
    expected = stats.bootstrap(
        (sums, sizes.astype(float)), lambda s, n, axis: s.sum(axis) / n.sum(axis), paired=True,
        vectorized=True, n_resamples=20_000, method="percentile", rng=generator,
    ).confidence_interval  # fmt: skip
    found = mean_interval(values.tolist(), Bootstrap(20_000, small_sample=False), users.tolist())
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
