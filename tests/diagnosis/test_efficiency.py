"""GRPO's predicted efficiency where rewards have few values, against all outcomes of a prompt, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.diagnosis.efficiency import Components, efficiency, recent_components
from pgrpo_cli.diagnosis.view import Completions

GRPO = resolve_estimator("grpo")


def exactly(chances: dict[float, float], G: int) -> float:
    """The squared signal over the noise of GRPO's advantages, for a gradient that follows the reward."""
    mean = sum(value * chance for value, chance in chances.items())
    variance = sum((value - mean) ** 2 * chance for value, chance in chances.items())
    signal = noise = 0.0
    for outcome in itertools.product(chances, repeat=G):
        rewards, chance = np.array(outcome), float(np.prod([chances[value] for value in outcome]))
        if rewards.std() > 0:
            advantages = (rewards - rewards.mean()) / rewards.std(ddof=1)
            signal += chance * float((advantages * (rewards - mean)).mean())
            noise += chance * float((advantages**2).mean())
    return signal**2 / noise / variance


def components_of(rewards_P_G: Sequence[Sequence[float]]) -> Components:
    rows = [(step, reward) for step, rewards in enumerate(rewards_P_G, 1) for reward in rewards]
    completions = Completions.of(
        steps=[step for step, _ in rows],
        prompts=[step for step, _ in rows],
        preference_groups=["a"] * len(rows),
        rewards=[reward for _, reward in rows],
        parts=[{}] * len(rows),
        lengths=[1] * len(rows),
        texts=[""] * len(rows),
    )
    return recent_components(completions, completions.reward_N, {"a": 0.5})["a"]


@pytest.mark.parametrize("G", [2, 4, 8])
@pytest.mark.parametrize("rate", [0.07, 0.3, 0.5])
def test_rewards_of_two_values(rate: float, G: int) -> None:
    found = efficiency(GRPO, Components(40, rate * (1 - rate), 0.0, rate=rate), G)
    assert found == pytest.approx(exactly({0.0: 1 - rate, 1.0: rate}, G), rel=1e-9)


def test_the_rate_is_that_of_the_recent_rewards() -> None:
    # 8 of 40 rewards are the larger of two values, whatever the values are.
    one = components_of([[-1.0, 3.0], [-1.0, 3.0], [-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]] * 4)
    assert one.rate == pytest.approx(0.2)
    # With two completions σ_G is one constant wherever it is not 0: GRPO is Dr. GRPO.
    assert efficiency(GRPO, one, 2) == pytest.approx(0.5)


def test_rewards_of_three_values_are_measured() -> None:
    # All 81 outcomes of four completions, each once.
    one = components_of(list(itertools.product([0.0, 0.5, 1.0], repeat=4)))
    expected = exactly({0.0: 1 / 3, 0.5: 1 / 3, 1.0: 1 / 3}, 4)
    assert one.rate is None
    assert efficiency(GRPO, one, 4) == pytest.approx(expected, rel=1e-9)
    # Normal rewards are assumed at other numbers: 1/2 · c4(2)², where c4(2)² = 2 / π.
    assert efficiency(GRPO, one, 2) == pytest.approx(1 / np.pi)


def test_normal_rewards_are_as_before() -> None:
    rewards = np.random.default_rng(0).normal(size=(4000, 4))
    found = efficiency(GRPO, components_of(rewards.tolist()), 4)
    assert found == pytest.approx(2 / np.pi, abs=0.01)  # 3/4 · c4(4)² = 3/4 · 8 / (3 π)
