"""How gains are shared, by hand arithmetic; that the worst group's interval holds, by simulation."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.evaluation import summarise
from pgrpo_cli.stats.fairness import fairness, jain_index
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import Detail, Estimate, Fairness
from tests.support.results import rows_of

NAN = math.nan
ZERO = Estimate(mean=0, ci_low=0, ci_high=0, n=1)


def shared(
    gains: dict[str, list[float]], effects: dict[str, float] | None = None, **weights: float
) -> Fairness:
    """Fairness of gains by preference group, a prompt each."""
    effects = effects or dict.fromkeys(gains, 1.0)
    details = {
        group: Detail(units=1, parts={}, win_rate=ZERO, improved=ZERO, effect=effect)
        for group, effect in effects.items()
    }
    values = {group: {f"{group}{i}": v for i, v in enumerate(found)} for group, found in gains.items()}
    used = weights or dict.fromkeys(gains, 1.0)
    return fairness(values, details, used, 0.1, Resampler(Bootstrap(samples=1000, seed=1)))


def test_jain_by_hand() -> None:
    assert jain_index([2.0, 2.0, 2.0]) == pytest.approx(1)
    assert jain_index([5.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / 4)
    # (1 + 3)² / (2 · 10) = 0.8.
    assert jain_index([1.0, 3.0]) == pytest.approx(0.8)
    # A loss is no gain: (1 + 3 + 0)² / (3 · 10).
    assert jain_index([1.0, 3.0, -7.0]) == pytest.approx(16 / 30)
    assert jain_index([-1.0, -2.0]) == 0.0
    assert math.isnan(jain_index([NAN, 1.0, 1.0]))
    assert math.isnan(jain_index([]))


def test_extremes_and_spread() -> None:
    found = shared({"a": [0.1, 0.3], "b": [-0.2, 0.0], "c": [0.6, 0.6]}, {"a": 1.0, "b": -1.0, "c": 3.0})
    # Gains 0.2, -0.1, 0.6.
    assert found.worst is not None and found.worst.preference_group == "b"
    assert found.worst.gain.mean == pytest.approx(-0.1)
    assert found.range == pytest.approx(0.7)
    assert found.std == pytest.approx(statistics.stdev([0.2, -0.1, 0.6]))
    # Squared errors: 0.02/2 = 0.01 twice, and 0.
    variance = statistics.variance([0.2, -0.1, 0.6])
    assert found.std_beyond_noise == pytest.approx(math.sqrt(variance - 0.02 / 3))
    assert found.jain == pytest.approx(16 / 30)


def test_spread_that_noise_explains_is_none() -> None:
    assert shared({"a": [0.0, 1.0], "b": [0.1, 1.1]}).std_beyond_noise == 0.0
    assert math.isnan(shared({"a": [0.0], "b": [0.1, 1.1]}).std_beyond_noise)


def test_a_single_group_has_no_spread() -> None:
    found = shared({"a": [0.1, 0.3], "empty": []})
    assert math.isnan(found.range) and math.isnan(found.jain)
    assert found.worst is not None and found.worst.preference_group == "a"
    assert shared({"empty": []}).worst is None


def test_minority_against_majority() -> None:
    gains = {"big": [0.2, 0.4], "mid": [0.4, 0.6], "few": [0.0, 0.2], "rare": [0.2, 0.4]}
    found = shared(gains, big=80, mid=11, few=5, rare=4).minority
    assert found.preference_groups == ["few", "rare"]
    # (0.1 + 0.3) / 2 = 0.2 and (0.3 + 0.5) / 2 = 0.4.
    assert (found.minority.mean, found.majority.mean) == pytest.approx((0.2, 0.4))
    assert found.gap.mean == pytest.approx(-0.2) and found.gap.n == 8
    assert found.gap.ci_low < -0.2 < found.gap.ci_high


def test_without_a_minority_there_is_no_gap() -> None:
    found = shared({"a": [0.1, 0.2], "b": [0.1, 0.3]}, a=10, b=10).minority
    assert found.preference_groups == [] and math.isnan(found.gap.mean) and math.isnan(found.minority.mean)
    assert found.majority.mean == pytest.approx(0.175)


def test_a_summary_holds_it() -> None:
    base = {g: {f"{g}{i}": [0.0, 0.1] for i in range(3)} for g in "ab"}
    tuned = {g: {f"{g}{i}": [0.2, 0.3 + (g == "b")] for i in range(3)} for g in "ab"}
    rows = rows_of("base", base) + rows_of("tuned", tuned)
    found = summarise(rows, Bootstrap(100), {"a": 95, "b": 5}).fairness
    assert found.minority.preference_groups == ["b"] and found.worst is not None
    assert found.worst.preference_group == "a" and found.range == pytest.approx(0.5)
    wider = summarise(rows, Bootstrap(100), {"a": 95, "b": 5}, minority_share=0.99).fairness
    assert wider.minority.preference_groups == ["a", "b"]


def _covered(minority: bool, trials: int = 250) -> float:
    """How often the interval of the worst group (or of the gap) holds the truth: 5 groups, 8 prompts each."""
    generator = torch.Generator().manual_seed(11)
    truths = {"a": 0.0, "b": 0.0, "c": 0.1, "d": 0.0, "e": 0.2}
    hits = 0
    for _ in range(trials):
        gains = {g: (t + torch.randn(8, generator=generator).double()).tolist() for g, t in truths.items()}
        found = shared(gains, a=50, b=20, c=20, d=5, e=5)
        assert found.worst is not None
        estimate = found.minority.gap if minority else found.worst.gain
        truth = 0.1 - 0.1 / 3 if minority else truths[found.worst.preference_group]
        hits += estimate.ci_low <= truth <= estimate.ci_high
    return hits / trials


def test_the_interval_of_the_worst_group_holds_although_it_was_picked() -> None:
    assert _covered(minority=False) >= 0.93


def test_the_interval_of_the_gap_covers_at_its_nominal_rate() -> None:
    # Standard deviation of a share of 95 % in 250 trials: 1.4 %.
    assert 0.91 <= _covered(minority=True) <= 0.99
