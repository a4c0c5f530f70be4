"""The reward history: each kind by hand and against a plain reference, digits kept, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.errors import RewardError
from tests.support.history import contents

nan = math.nan


def test_cumulative_by_hand():
    history = RewardHistory()
    history.update([1, 2, 3, 6, 10, 14], ["a"] * 4 + ["b"] * 2, num_generations=2, step=3)
    history.update([5, 5, 7, 7], ["a"] * 4, num_generations=4, step=5)
    # a: 1 2 | 3 6 | 5 5 7 7, mean 36 / 8 = 4.5,
    # squares 12.25 + 6.25 + 2.25 + 2.25 + 2 * 0.25 + 2 * 6.25 = 36.
    assert history.count("a") == 8
    assert history.mean("a") == 4.5
    assert history.std("a") == pytest.approx(math.sqrt(36 / 7), rel=1e-15)
    assert history.mean("b") == 12
    assert history.std("b") == pytest.approx(math.sqrt(8), rel=1e-15)
    a, b = history.stats()["a"], history.stats()["b"]
    assert (a.n, a.first_step, a.last_step, a.prompts, a.effective_n) == (8, 3, 5, 3, 8)
    assert (b.n, b.first_step, b.last_step, b.prompts) == (2, 3, 3, 1)
    # Inside prompts: 0.5 + 4.5 + 4 = 9 with 8 - 3 degrees of freedom.
    assert a.within_variance == pytest.approx(9 / 5, rel=1e-15)
    # Between: 36 - 9 = 27; (27 - 9/5 * 2) / (8 - (4 + 4 + 16) / 8) = 23.4 / 5.
    assert a.between_variance == pytest.approx(4.68, rel=1e-14)
    # w = 4.68 / (4.68 + 1.8 / 4)
    assert a.shrinkage_weight(4) == pytest.approx(4.68 / 5.13)


def test_ema_by_hand():
    history = RewardHistory("ema", decay=0.5)
    history.update([1, 3], ["a", "a"], num_generations=2, step=1)
    # Weights 1/2, 1: mean 3.5 / 1.5, squares (1/2) (4/3)² + (2/3)² = 4/3,
    # W - Σw²/W = 3/2 - (5/4) / (3/2) = 2/3.
    assert history.mean("a") == pytest.approx(7 / 3, rel=1e-15)
    assert history.std("a") == pytest.approx(math.sqrt(2), rel=1e-15)
    history.update([100, 5], ["b", "a"], num_generations=1, step=2)
    # Weights 1/4, 1/2, 1 on 1, 3, 5: mean 27/7, variance (26/7) / 1; another group's reward fades nothing.
    assert history.mean("a") == pytest.approx(27 / 7, rel=1e-15)
    assert history.std("a") == pytest.approx(math.sqrt(26 / 7), rel=1e-15)
    assert history.count("a") == 3
    # W² / Σw² = (49/16) / (21/16)
    assert history.stats()["a"].effective_n == pytest.approx(7 / 3)


def test_window_by_hand():
    history = RewardHistory("window", window=3)
    history.update([1, 3], ["a", "a"], num_generations=2, step=1)
    assert history.mean("a") == 2
    history.update([100, 5, 8], ["b", "a", "a"], num_generations=1, step=2)
    # The latest three: 3 5 8, mean 16/3, squares (49 + 1 + 64) / 9 = 38/3.
    assert history.mean("a") == pytest.approx(16 / 3, rel=1e-15)
    assert history.std("a") == pytest.approx(math.sqrt(19 / 3), rel=1e-15)
    history.update([9, 2, 4, 6, 7], ["a"] * 5, num_generations=5, step=3)
    assert history.mean("a") == pytest.approx(17 / 3, rel=1e-15)
    stats = history.stats()["a"]
    assert (stats.n, stats.effective_n, stats.prompts, stats.first_step, stats.last_step) == (9, 3, 4, 1, 3)


def test_nan_rewards_are_not_counted_and_do_not_make_a_group_known():
    history = RewardHistory()
    history.update([nan, nan, 2, nan, nan, 4], ["a", "a", "b", "b", "b", "b"], num_generations=2, step=1)
    assert history.preference_groups == ["b"]
    b = history.stats()["b"]
    assert (b.n, b.mean, b.prompts) == (2, 3, 2)
    history.update([nan], ["b"], num_generations=1, step=9)
    assert history.stats()["b"].last_step == 1
    history.update([], [], num_generations=4, step=10)
    assert history.count("b") == 2


def test_lookup_gathers_for_each_element_and_gives_zeros_for_the_unknown():
    history = RewardHistory()
    history.update([1, 3, 10, 14], ["a", "a", "b", "b"], num_generations=2, step=1)
    found = history.lookup(["b", "a", "nobody", "b"])
    assert found.count_N.tolist() == [2, 2, 0, 2]
    assert found.mean_N.tolist() == [12, 2, 0, 12]
    assert found.std_N.tolist() == [math.sqrt(8), math.sqrt(2), 0, math.sqrt(8)]
    assert RewardHistory("window", window=4).lookup(["a"]).mean_N.tolist() == [0]


def test_a_single_reward_has_no_spread():
    for history in (RewardHistory(), RewardHistory("ema", decay=0.99), RewardHistory("window", window=2)):
        history.update([4.2], ["a"], num_generations=1, step=1)
        assert (history.mean("a"), history.std("a"), history.count("a")) == (4.2, 0, 1)


def test_welford_equals_two_passes_far_from_zero():
    """1e6 rewards with mean 1e6 and spread 1e-2, in batches of many sizes."""
    generator = torch.Generator().manual_seed(0)
    rewards = 1e6 + 1e-2 * torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    history = RewardHistory()
    start = 0
    for step, size in enumerate([1, 7, 64, 512, 4096] * 214):
        batch = rewards[start : start + size]
        history.update(batch, ["a"] * len(batch), num_generations=1, step=step)
        start += size
    assert start >= len(rewards)
    assert history.count("a") == len(rewards)
    deviations = rewards - 1e6  # exact
    mean = math.fsum(deviations.tolist()) / len(rewards)
    std = math.sqrt(math.fsum(((deviations - mean) ** 2).tolist()) / (len(rewards) - 1))
    # One unit in the last place of 1e6 is 1.2e-10, 1e-8 of the spread.
    assert history.mean("a") - 1e6 == pytest.approx(mean, abs=1e-9)
    assert history.std("a") == pytest.approx(std, rel=1e-9)


def test_rewards_of_many_groups_are_each_kept_to_rounding():
    generator = torch.Generator().manual_seed(1)
    groups = torch.randint(500, (20_000,), generator=generator)
    rewards = groups * 100 + torch.randn(20_000, generator=generator, dtype=torch.float64)
    history = RewardHistory()
    for chunk in range(0, 20_000, 2000):
        names = [f"group {g}" for g in groups[chunk : chunk + 2000].tolist()]
        history.update(rewards[chunk : chunk + 2000], names, num_generations=1, step=chunk)
    for g in range(500):
        mine = rewards[groups == g]
        assert history.count(f"group {g}") == len(mine)
        assert history.mean(f"group {g}") == pytest.approx(mine.mean().item(), rel=1e-14)
        # The mean is rounded to 7e-12 at 5e4, where the spread is 1.
        assert history.std(f"group {g}") == pytest.approx(mine.std().item(), rel=1e-10)


def test_new_groups_in_every_step_leave_the_old_ones_alone():
    history = RewardHistory()
    for step in range(1, 101):
        history.update([step, step + 2], [f"group {step}"] * 2, num_generations=2, step=step)
    stats = history.stats()
    assert [(s.n, s.mean, s.first_step) for s in stats.values()] == [(2, i + 1, i) for i in range(1, 101)]


def reference(rewards: list[float], weights: list[float], prompts: list[int]) -> tuple[float, ...]:
    """Mean, variance, s² and τ² of one preference group, in plain Python from their definitions."""
    total, square = sum(weights), sum(w * w for w in weights)
    mean = sum(w * r for w, r in zip(weights, rewards, strict=True)) / total
    squares = sum(w * (r - mean) ** 2 for w, r in zip(weights, rewards, strict=True))
    within = between = own = weight_sq = 0.0
    for p in set(prompts):
        mine = [(w, r) for w, r, q in zip(weights, rewards, prompts, strict=True) if q == p]
        weight = sum(w for w, _ in mine)
        mean_p = sum(w * r for w, r in mine) / weight
        within += sum(w * (r - mean_p) ** 2 for w, r in mine)
        between += weight * (mean_p - mean) ** 2
        own += sum(w * w for w, _ in mine) / weight
        weight_sq += weight**2
    variance = squares / (total - square / total) if len(rewards) > 1 else 0.0
    noise = within / (total - own) if total - own > 1e-6 else 0.0
    spread = 0.0
    if total - own > 1e-6 and len(set(prompts)) > 1:
        spread = (between - noise * (own - square / total)) / (total - weight_sq / total)
    return mean, variance, noise, max(0.0, spread)


quantized = st.integers(-40, 40).map(lambda i: i / 8) | st.just(nan)
prompt = st.tuples(st.sampled_from("abc"), st.lists(quantized, min_size=2, max_size=2))
batches = st.lists(st.lists(prompt, min_size=1, max_size=6), min_size=1, max_size=6)
KINDS = [{"kind": "cumulative"}, {"kind": "ema", "decay": 0.7}, {"kind": "window", "window": 5}]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
@settings(deadline=None, max_examples=60)
@given(batches=batches)
def test_every_kind_equals_its_definition(kind, batches):
    history = RewardHistory(**kind)
    kept: dict[str, list[tuple[float, int]]] = {}
    number = 0
    for step, batch in enumerate(batches, start=1):
        rewards = [r for _, pair in batch for r in pair]
        history.update(rewards, [g for g, _ in batch for _ in range(2)], num_generations=2, step=step)
        for group, pair in batch:
            number += 1
            for reward in pair:
                if not math.isnan(reward):
                    kept.setdefault(group, []).append((reward, number))
    assert set(history.preference_groups) == set(kept)
    for group, stats in history.stats().items():
        stream = kept[group][-5:] if kind["kind"] == "window" else kept[group]
        weights = [kind.get("decay", 1.0) ** later for later in reversed(range(len(stream)))]
        expected = reference([r for r, _ in stream], weights, [p for _, p in stream])
        found = (stats.mean, stats.std**2, stats.within_variance, stats.between_variance)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert stats.n == len(kept[group])
        assert stats.prompts == len({p for _, p in kept[group]})


def test_a_long_batch_does_not_underflow_a_fading_history():
    history = RewardHistory("ema", decay=0.5)
    history.update([float(i % 7) for i in range(5000)], ["a"] * 5000, num_generations=2, step=1)
    # Only the last 60 rewards weigh more than 1e-18.
    tail = [float(i % 7) for i in range(4940, 5000)]
    weights = [0.5**later for later in reversed(range(60))]
    mean = sum(w * r for w, r in zip(weights, tail, strict=True)) / sum(weights)
    assert history.mean("a") == pytest.approx(mean, rel=1e-12)
    assert history.std("a") > 0


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kind": "ema"}, "decay None"),
        ({"kind": "ema", "decay": 1.0}, "decay between 0 and 1"),
        ({"kind": "window", "window": 1}, "2 rewards or more"),
        ({"kind": "cumulative", "decay": 0.9}, "takes neither"),
        ({"kind": "forever"}, "'forever'"),
    ],
)
def test_impossible_settings_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        RewardHistory(**settings_)


def test_an_infinite_reward_is_refused_and_leaves_the_history_alone():
    history = RewardHistory()
    history.update([1, 2], ["a", "a"], num_generations=2, step=1)
    before = contents(history)
    with pytest.raises(RewardError, match=r"completion 1 .* 'b', has reward inf"):
        history.update([1, math.inf], ["b", "b"], num_generations=2, step=2)
    assert contents(history) == before


@pytest.mark.parametrize("size", [1.001e150, 1e200, 1.7e308])
def test_a_reward_whose_square_is_infinite_is_refused(size):
    for reward in (size, -size):
        with pytest.raises(RewardError, match=r"completion 1 .* its square, which the history adds up"):
            RewardHistory().update([1, reward], ["a", "a"], num_generations=2, step=1)


@pytest.mark.parametrize("settings_", [{}, {"kind": "ema", "decay": 0.9}, {"kind": "window", "window": 4}])
def test_a_history_of_the_largest_rewards_comes_back(settings_):
    # Each step is (1e150, -1e150): mean 0, M2 within 2e300 a step.
    history, again = RewardHistory(**settings_), RewardHistory(**settings_)
    for step in range(1, 4):
        history.update([1e150, -1e150], ["a", "a"], num_generations=2, step=step)
    again.load_state_dict(history.state_dict())
    assert contents(again) == contents(history)
    assert 1e150 < history.std("a") < 1.5e150


@pytest.mark.parametrize(
    ("rewards", "groups", "num_generations", "message"),
    [
        ([1, 2], ["a"], 1, r"\(2,\) for 1 preference groups"),
        ([1, 2, 3], ["a"] * 3, 2, "generation groups of 2"),
        ([1, 2], ["a", "b"], 2, "different preference groups"),
        ([[1, 2]], ["a"], 1, r"\(1, 2\)"),
    ],
)
def test_rewards_that_do_not_fit_are_refused(rewards, groups, num_generations, message):
    with pytest.raises(ValueError, match=message):
        RewardHistory().update(rewards, groups, num_generations=num_generations, step=1)


def test_a_step_below_0_or_a_group_that_is_no_string_is_refused_without_a_change():
    history = RewardHistory()
    with pytest.raises(ValueError, match="step -1 is below 0"):
        history.update([1.0], ["a"], num_generations=1, step=-1)
    with pytest.raises(TypeError, match="a preference group is a string, not 3"):
        history.update([1.0, 2.0], ["a", 3], num_generations=1, step=1)
    assert history.preference_groups == []


def test_stats_of_some_groups_are_those_of_all():
    for settings_ in KINDS:
        history = RewardHistory(**settings_)
        for step in range(1, 6):
            names = [f"group {step * i % 7}" for i in range(8) for _ in range(2)]
            history.update([0.1 * i * step for i in range(16)], names, num_generations=2, step=step)
        every = history.stats()
        asked = ["group 4", "nobody", "group 2", "group 4"]
        assert list(history.stats(asked)) == ["group 4", "group 2"]
        assert history.stats(asked) == {name: every[name] for name in ("group 4", "group 2")}
        assert history.stats(iter(every)) == every
        assert history.stats([]) == {}


def test_the_most_seen_come_first_and_of_equals_the_earliest():
    history = RewardHistory()
    assert history.most_seen(3) == []
    history.update([1.0] * 6, ["b", "a", "c", "c", "d", "a"], num_generations=1, step=1)
    assert history.most_seen(3) == ["a", "c", "b"]
    assert history.most_seen(9) == ["a", "c", "b", "d"]


def test_counts_stay_exact_beyond_32_bits():
    """Of a history that has seen 2^40 rewards of one preference group, made by merging it with itself."""
    history, other = RewardHistory(), RewardHistory()
    history.update([1.0, 2.0, 5.0, 5.0, 5.0, 5.0], ["a"] * 4 + ["b"] * 2, num_generations=2, step=70_000)
    for doublings in range(1, 39):
        other.load_state_dict(history.state_dict())
        history.merge(other)
        found = history.stats(["a", "b"])
        assert [s.n for s in found.values()] == [4 * 2**doublings, 2 * 2**doublings]
        assert [s.prompts for s in found.values()] == [2 * 2**doublings, 2**doublings]
        assert [s.last_step for s in found.values()] == [70_000, 70_000]
        # Equal prompts: Σ n_p² of each is twice its rewards, so τ² has these degrees of freedom.
        n = 4 * 2**doublings
        within, between = 0.5 * n / 4, 4 * (1.75**2) * n / 4
        noise = within / (n - n / 2)
        tau_sq = (between - noise * (n / 2 - 1)) / (n - 2 * n / n)
        assert found["a"].between_variance == pytest.approx(tau_sq, rel=1e-12)


def test_the_mean_of_an_unknown_group_is_refused_with_a_near_name():
    history = RewardHistory()
    history.update([1], ["terse"], num_generations=1, step=1)
    with pytest.raises(KeyError, match="did you mean 'terse'"):
        history.mean("terce")
    assert history.count("terce") == 0
