"""Rewards of two values at a low rate: what chance explains is no finding, or not yet a problem."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pgrpo_cli.diagnosis.spread import find_dead_generation_groups, find_no_spread
from pgrpo_cli.diagnosis.view import Completions, Metrics, RunView, TrainingPrompts
from pgrpo_cli.recipe.schema import Recipe
from tests.support.recipes import changed

Random = np.random.Generator
Rewards = Callable[[Random, str], list[float]]
"""Of the completions of a prompt of that preference group."""
NAMES = ("often", "seldom")


def flipped(rewards_of: Rewards, estimator: str = "pgrpo", seldom: int = 1, steps: int = 40) -> RunView:
    """16 prompts a step, so many of them of the rare preference group."""
    random, rows = np.random.default_rng(0), []
    for step in range(1, steps + 1):
        for prompt in range(16):
            name = NAMES[prompt < seldom]
            rows += [(step, prompt, name, reward) for reward in rewards_of(random, name)]
    completions = Completions.of(
        steps=[row[0] for row in rows],
        prompts=[row[1] for row in rows],
        preference_groups=[row[2] for row in rows],
        rewards=[row[3] for row in rows],
        parts=[{}] * len(rows),
        lengths=[20] * len(rows),
        texts=[str(n) for n in range(len(rows))],
    )
    recipe = Recipe.model_validate(changed(advantage__estimator=estimator))
    return RunView(recipe, Metrics(()), completions, {}, TrainingPrompts({}))


def coins(rate: float, G: int) -> Rewards:
    return lambda random, name: (random.random(G) < rate).astype(float).tolist()


@pytest.mark.parametrize(("rate", "G"), [(0.07, 2), (0.5, 2), (0.07, 8)])
def test_equal_rewards_by_chance_are_ordinary_without_a_prompts_own_mean(rate: float, G: int) -> None:
    for estimator in ("pgrpo", "pgrpo_adaptive"):
        assert list(find_dead_generation_groups(flipped(coins(rate, G), estimator, seldom=8))) == []
    # Its own mean leaves nothing of such a prompt.
    grpo = list(find_dead_generation_groups(flipped(coins(rate, G), "grpo", seldom=8)))
    assert all("nothing is learnt from them" in finding.says for finding in grpo)
    assert len(grpo) == 2 or rate == 0.5


def test_rewards_that_hardly_depend_on_the_answer_are_found() -> None:
    """A prompt's two answers nearly always earn the same."""

    def alike(random: Random, name: str) -> list[float]:
        first = float(random.random() < 0.5)
        return [first, first if random.random() < 0.9 else 1 - first]

    found = list(find_dead_generation_groups(flipped(alike, seldom=8)))
    assert [finding.preference_group for finding in found] in (["often", "seldom"], ["seldom", "often"])
    # The range of the reward is not known: whether it is too hard or too easy is not, either.
    assert all("too coarse" in finding.remedy for finding in found)


def test_no_spread_that_may_be_chance_is_no_problem_yet() -> None:
    """32 zeros at a rate of 7 %: 0.93^32 = 0.1. After 80 of them it is 0.003."""

    def never_seldom(random: Random, name: str) -> list[float]:
        return [0.0, 0.0] if name == "seldom" else coins(0.07, 2)(random, name)

    (early,) = find_no_spread(flipped(never_seldom, steps=16))
    assert (early.preference_group, early.severity) == ("seldom", "warning")
    assert "It may be chance" in early.says
    (late,) = find_no_spread(flipped(never_seldom))
    assert late.severity == "problem" and "chance" not in late.says


def test_no_spread_anywhere_is_a_problem() -> None:
    assert {finding.severity for finding in find_no_spread(flipped(lambda *_: [0.0, 0.0]))} == {"problem"}
