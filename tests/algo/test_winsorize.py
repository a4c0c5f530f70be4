"""How rewards with outliers enter the history: limits by hand, and what must not change."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.recipe.schema import Recipe, hints
from pgrpo_cli.recipe.training import AdvantageSection, HistorySection
from tests.support.history import contents
from tests.support.recipes import changed

nan = math.nan
KINDS = [{}, {"kind": "ema", "decay": 0.9}, {"kind": "window", "window": 24}]


def known(winsorize: float | None = 2.0, **kind) -> RewardHistory:
    """Of a: 16 rewards, 8 of 1 and 8 of 3: mean 2, variance 16 / 15."""
    history = RewardHistory(**kind, winsorize=winsorize)
    history.update([1.0, 3.0] * 8, ["a"] * 16, num_generations=2, step=1)
    return history


def test_a_reward_enters_at_the_limit_of_its_preference_group():
    # c = 2: 2 ± 2 sqrt(16/15) = 2 ± 2.066. 100 enters as 4.066, -100 as -0.066, 3.5 as it is.
    limit = 2 * math.sqrt(16 / 15)
    history, expected = known(), known(None)
    history.update([100.0, -100.0, 3.5, nan], ["a"] * 4, num_generations=2, step=2)
    expected.update([2 + limit, 2 - limit, 3.5, nan], ["a"] * 4, num_generations=2, step=2)
    assert history.count("a") == 19
    assert history.mean("a") == pytest.approx(expected.mean("a"), rel=1e-14)
    assert history.std("a") == pytest.approx(expected.std("a"), rel=1e-14)


def test_a_new_preference_group_has_the_limits_of_its_own_median():
    # 1 2 3 4 100: median 3, deviations 2 1 0 1 97, MAD 1; with c = 2 the reach is 2 · 2 · 1.4826 = 5.9304.
    history, expected = RewardHistory(winsorize=2.0), RewardHistory()
    history.update([1.0, 2.0, 3.0, 4.0, 100.0], ["b"] * 5, num_generations=5, step=1)
    expected.update([1.0, 2.0, 3.0, 4.0, 8.9304], ["b"] * 5, num_generations=5, step=1)
    assert history.mean("b") == pytest.approx(expected.mean("b"), rel=1e-14)
    assert history.std("b") == pytest.approx(expected.std("b"), rel=1e-14)


@pytest.mark.parametrize(
    "rewards",
    [
        [0.0] * 7 + [1.0],  # MAD 0: nothing is known of the first success
        [5.0, 6.0, 900.0],  # three rewards are too few
    ],
)
def test_without_a_spread_there_are_no_limits(rewards):
    history, expected = RewardHistory(winsorize=1.0), RewardHistory()
    for found in (history, expected):
        found.update(rewards, ["a"] * len(rewards), num_generations=1, step=1)
    assert contents(history)["columns"] == contents(expected)["columns"]


def test_the_first_success_after_many_failures_counts_in_full():
    history = RewardHistory(winsorize=1.0)
    history.update([0.0] * 32, ["a"] * 32, num_generations=4, step=1)
    history.update([0.0, 0.0, 0.0, 1.0], ["a"] * 4, num_generations=4, step=2)
    assert history.mean("a") == pytest.approx(1 / 36, rel=1e-14)


@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e150])
def test_one_outlier_in_the_first_step_does_not_silence_a_preference_group(outlier):
    """Without limits σ is about outlier / sqrt(n), and every later advantage close to 0."""
    generator = torch.Generator().manual_seed(0)

    def largest(winsorize: float | None) -> float:
        history = RewardHistory(winsorize=winsorize)
        for step in range(1, 9):
            rewards = torch.randn(16, generator=generator).double()
            if step == 1:
                rewards[0] = outlier
            history.update(rewards, ["a"] * 16, num_generations=4, step=step)
        found = compute_advantages(rewards, ["a"] * 16, num_generations=4, history=history)
        return found.advantages_N.abs().max().item()

    assert largest(None) < 0.3
    assert 1 < largest(4.0) < 4


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_its_state(kind):
    one, two = known(1.5, **kind), RewardHistory(**kind, winsorize=1.5)
    two.load_state_dict(one.state_dict())
    for history in (one, two):
        history.update(
            [0.0, 9.0, -9.0, 2.0, 70.0, 1.0, 2.0, 3.0], ["a"] * 4 + ["b"] * 4, num_generations=4, step=2
        )
    assert contents(one) == contents(two)
    assert contents(one)["columns"] != contents(known(None, **kind))["columns"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_history_from_a_state_has_its_limits(kind):
    history = known(2.0, **kind)
    restored = RewardHistory.from_state_dict(history.state_dict())
    assert restored.winsorize == 2.0
    for each in (history, restored):
        each.update([90.0, 2.0], ["a"] * 2, num_generations=2, step=2)
    assert contents(restored) == contents(history)
    # States of earlier versions do not have it, and load all the same.
    earlier = {key: value for key, value in known(2.0, **kind).state_dict().items() if key != "winsorize"}
    assert RewardHistory.from_state_dict(earlier).winsorize is None
    history.load_state_dict(earlier)
    assert history.winsorize == 2.0 and contents(history) == contents(known(2.0, **kind))


@settings(deadline=None, max_examples=30)
@given(
    rewards=st.lists(st.integers(-80, 80).map(float), min_size=8, max_size=8),
    factor=st.sampled_from([1, 2, 4]),
)
def test_preference_groups_do_not_influence_each_other(rewards, factor):
    """Two new preference groups, and one with a history."""
    others = {"c": [100 * reward + 7 for reward in rewards], "a": [1e9, -1e9, 0.0, 5.0]}
    together = known(factor)
    groups = ["b"] * 8 + ["c"] * 8 + ["a"] * 4
    together.update([*rewards, *others["c"], *others["a"]], groups, num_generations=4, step=2)
    for name, values in {"b": rewards, **others}.items():
        alone = known(factor)
        alone.update(values, [name] * len(values), num_generations=4, step=2)
        assert together.stats([name]) == alone.stats([name])


@pytest.mark.parametrize("window", [2, 8, 15, 16])
def test_a_step_that_replaces_a_window_has_the_limits_of_its_own_median(window):
    """Rewards near 1, then near 3: beyond 1 ± 4 · 0.26 all would enter as 2.03, with deviation 0."""
    history = RewardHistory("window", window=window, winsorize=4.0)
    history.update([0.75, 1.25] * 8, ["a"] * 16, num_generations=4, step=1)
    history.update([2.75, 3.25] * 8, ["a"] * 16, num_generations=4, step=2)
    # Median 3, MAD 0.25: all are within the limits.
    assert history.mean("a") == pytest.approx(3, abs=0.04)
    assert history.std("a") > 0.25


def test_a_history_of_few_rewards_that_has_received_many_knows_little():
    # 64 rewards received, an effective count of 3.0 at a decay of 0.5, and of 8 in a window.
    for kind in ({"kind": "ema", "decay": 0.5}, {"kind": "window", "window": 8}):
        history = RewardHistory(**kind, winsorize=4.0)
        history.update([0.75, 1.25] * 32, ["a"] * 64, num_generations=4, step=1)
        # Fewer than 4 rewards in the step: no limits.
        history.update([50.0, 60.0], ["a"] * 2, num_generations=2, step=2)
        plain = RewardHistory(**kind)
        plain.update([0.75, 1.25] * 32, ["a"] * 64, num_generations=4, step=1)
        plain.update([50.0, 60.0], ["a"] * 2, num_generations=2, step=2)
        assert history.mean("a") == plain.mean("a")


@pytest.mark.parametrize("kind", [*KINDS[:2], {"kind": "window", "window": 64}])
def test_the_smallest_factor_of_a_recipe_keeps_the_spread_of_normal_rewards(kind):
    """A normal reward limited to 2 standard deviations has 0.96 of its own; then of that, and so on."""

    def spread(factor: float) -> float:
        history, generator = RewardHistory(**kind, winsorize=factor), torch.Generator().manual_seed(0)
        spreads = []
        for step in range(1, 101):
            rewards = torch.randn(32, generator=generator).double()
            history.update(rewards, ["a"] * 32, num_generations=4, step=step)
            spreads.append(history.std("a"))
        return sum(spreads[50:]) / 50

    assert HistorySection(winsorize=2).winsorize == 2
    assert 0.85 < spread(2) < 1
    # Below it the limits follow the spread that they have made smaller.
    assert spread(1) < 0.5
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        HistorySection(winsorize=1.9)


def test_rare_successes_inside_a_known_range_enter_in_full():
    """Limits from limited rewards would take the mean of a success rate of 3 % to nearly nothing."""

    def mean(**reward) -> float:
        recipe = Recipe.model_validate(changed(rewards=[reward], history__winsorize=4.0))
        history = RewardHistories(recipe.advantage, recipe.resolved_history).history
        generator = torch.Generator().manual_seed(0)
        for step in range(1, 101):
            rewards = (torch.rand(32, generator=generator) < 0.03).double()
            history.update(rewards, ["a"] * 32, num_generations=4, step=step)
        return history.mean("a")

    assert mean(type="keyword", keywords=["x"]) == pytest.approx(0.03, abs=0.01)
    # A reward of one's own may have outliers.
    assert mean(type="python", file="judge.py") < 0.02


def test_a_limit_without_effect_is_a_hint():
    known = Recipe.model_validate(
        changed(rewards=[{"type": "keyword", "keywords": ["x"]}], history__winsorize=4.0)
    )
    assert any(hint.startswith("history.winsorize has no effect") for hint in hints(known))
    own = Recipe.model_validate(
        changed(rewards=[{"type": "python", "file": "judge.py"}], history__winsorize=4.0)
    )
    assert not any("winsorize" in hint for hint in hints(own))


def test_the_recipe_sets_it():
    for section, limit in ((HistorySection(), None), (HistorySection(winsorize=4.0), 4.0)):
        assert RewardHistories(AdvantageSection(), section).history.winsorize == limit
