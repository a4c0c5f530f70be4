"""Which estimator suits a run: efficiencies by hand, what they are computed from, and the advice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from pgrpo_cli.algo.estimators import PRESETS, resolve_estimator
from pgrpo_cli.diagnosis.efficiency import ENOUGH_PROMPTS, Components, efficiency, recent_components
from pgrpo_cli.diagnosis.estimator_advice import (
    COMPARED,
    components_of,
    efficiencies,
    estimator_advice,
    suiting,
    without_values,
)
from pgrpo_cli.diagnosis.view import Completions, Metrics, PastRewards, RunView, TrainingPrompts
from pgrpo_cli.recipe.schema import Recipe
from tests.support.recipes import changed

nan = math.nan


def completions_of(rewards_P_G: Sequence[Sequence[float]], steps: Sequence[int] | None = None) -> Completions:
    """Prompts of preference group a, each in a step of its own unless said otherwise."""
    steps = steps or range(1, len(rewards_P_G) + 1)
    rows = [
        (step, p, reward) for p, (step, G) in enumerate(zip(steps, rewards_P_G, strict=True)) for reward in G
    ]
    return Completions.of(
        steps=[row[0] for row in rows],
        prompts=[row[1] for row in rows],
        preference_groups=["a"] * len(rows),
        rewards=[None if math.isnan(row[2]) else row[2] for row in rows],
        parts=[{}] * len(rows),
        lengths=[1] * len(rows),
        texts=[""] * len(rows),
    )


def found_in(
    rewards_P_G: Sequence[Sequence[float]], mean: float, steps: Sequence[int] | None = None
) -> Components | None:
    completions = completions_of(rewards_P_G, steps)
    return recent_components(completions, completions.reward_N, {"a": mean}).get("a")


# s² = 3, mean square distance 1, G = 4: w = 1 / (1 + 3/4) = 4/7.
ALIKE = Components(40, within=3.0, difficulty=0.75, lag=0.25)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pgrpo", 3 / 4),
        ("pgrpo_adaptive", 1 - 4 / 7 / 4),
        ("pgrpo_shrinkage", 1 - 4 / 7 / 4),
        ("dr_grpo", 3 / 4),
        ("rloo", 3 / 4),
        ("pgrpo_centered", 3 / 4),
        # c4(4) = sqrt(2/3) Γ(2) / Γ(3/2) = sqrt(2/3) / (sqrt(π)/2): c4² = 8 / (3 π).
        ("grpo", 3 / 4 * 8 / (3 * math.pi)),
    ],
)
def test_efficiencies_by_hand(name: str, expected: float) -> None:
    assert efficiency(resolve_estimator(name), ALIKE, 4) == pytest.approx(expected, rel=1e-12)


def test_grpo_by_number_of_completions() -> None:
    found = [efficiency(resolve_estimator("grpo"), ALIKE, G) for G in (2, 4, 8, 16)]
    assert found == pytest.approx([0.32, 0.64, 0.82, 0.91], abs=0.006)


@pytest.mark.parametrize("G", [2, 4, 8, 16])
@pytest.mark.parametrize("between", [0.0, 0.01, 0.3, 1.0, 10.0, 1e6])
def test_the_shrunken_baseline_is_at_least_the_best(between: float, G: int) -> None:
    components = Components(40, 1.0, between)
    adaptive = efficiency(resolve_estimator("pgrpo_adaptive"), components, G)
    for name in PRESETS:
        assert adaptive >= efficiency(resolve_estimator(name), components, G) - 1e-12
    assert adaptive <= 1


def test_components_by_hand() -> None:
    # Ten prompts of 2 rewards each, m ± 1, in one step: s² = 10 · 2 / 10 = 2. Their means are 3 and 7 in
    # turn: mean 5, variance 10 · 4 / 9, less s² / 2. The history has 5 as well.
    rewards = [[m - 1, m + 1] for m in (3.0, 7.0) * 5]
    found = found_in(rewards, 5.0, [1] * 10)
    assert found is not None and found.prompts == 10
    assert (found.within, found.difficulty, found.lag) == pytest.approx((2.0, 40 / 9 - 1, 0.0))
    # Four values; the deviation of every prompt is √2, so dividing by it changes nothing.
    assert (found.rate, found.measured) == (None, {2: pytest.approx(1.0)})
    # A history at 4 is 1 away: 1² less the error of the mean, (τ² + s²/2) / 10.
    found = found_in(rewards, 4.0, [1] * 10)
    assert found is not None
    assert (found.difficulty, found.lag) == pytest.approx((40 / 9 - 1, 1 - 40 / 9 / 10))


def test_learning_is_no_difficulty() -> None:
    """Means that rise by 1 a step have no variance between prompts of one step; the lag counts."""
    rewards = [[step - 1.0, step + 1.0] for step in range(1, 21)]
    found = found_in(rewards, 10.5)
    assert found is not None and found.within == pytest.approx(2.0)
    # The last 10 steps: mean 15.5, 5 above the history's; error (0 + 2/2) / 10.
    assert (found.difficulty, found.lag) == pytest.approx((0, 25 - 0.1))


def test_missing_rewards_are_left_out() -> None:
    rewards = [[m - 1, m + 1, nan] for m in (3.0, 7.0) * 5]
    assert found_in(rewards, 5.0, [1] * 10) == found_in([row[:2] for row in rewards], 5.0, [1] * 10)
    assert found_in([*rewards, [nan, nan, nan]], 5.0, [1] * 11) == found_in(rewards, 5.0, [1] * 10)


@pytest.mark.parametrize(
    "rewards",
    [
        [[1.0, 2.0]] * (ENOUGH_PROMPTS - 1),
        [[1.0, 1.0], [4.0, 4.0]] * 8,  # no prompt with two rewards that differ
        [[1.0, nan]] * 16,
    ],
)
def test_what_tells_nothing(rewards: list[list[float]]) -> None:
    assert found_in(rewards, 1.5) is None
    assert recent_components(completions_of(rewards), np.zeros(len(rewards) * 2), {}) == {}


def test_nothing_at_all() -> None:
    assert recent_components(completions_of([]), np.zeros(0), {"a": 1.0}) == {}
    advice = estimator_advice({}, 8)
    assert (advice.estimator, advice.efficiencies) == (None, {})
    assert advice.sentence.startswith("Too early to tell")


def test_the_advice_is_the_most_efficient_or_pgrpo_where_it_is_as_good() -> None:
    # Noise: 1 / (1 + 0.02) is 0.98 of pgrpo_adaptive's at G = 4.
    noisy = estimator_advice({"a": Components(40, 1.0, 0.02)}, 4)
    assert noisy.estimator == "pgrpo"
    assert "pgrpo 0.98, grpo 0.64, pgrpo_adaptive 0.98" in noisy.sentence
    assert "about equally difficult" in noisy.sentence
    # 1 / (1 + 2) against 1 - 8/9 / 4 = 7/9.
    differ = estimator_advice({"a": Components(40, 1.0, 2.0)}, 4)
    assert differ.estimator == "pgrpo_adaptive"
    assert "pgrpo 0.33, grpo 0.64, pgrpo_adaptive 0.78" in differ.sentence
    assert "differ in difficulty" in differ.sentence
    assert list(differ.efficiencies) == [2, 4, 8, 16]
    assert list(estimator_advice({"a": ALIKE}, 6).efficiencies) == [2, 4, 6, 8, 16]
    assert suiting({"pgrpo": 0.76, "grpo": 0.9, "pgrpo_adaptive": 0.8}) == "pgrpo"
    assert suiting({"pgrpo": 0.75, "grpo": 0.9, "pgrpo_adaptive": 0.8}) == "pgrpo_adaptive"


def test_preference_groups_count_once_each() -> None:
    # 1/2 and 1/4, whatever their numbers of prompts.
    found = efficiencies([Components(10, 1.0, 1.0), Components(999, 1.0, 3.0)], 4)
    assert found["pgrpo"] == pytest.approx(3 / 8)
    assert list(found) == list(COMPARED)


def test_unlike_spreads_are_named() -> None:
    spreads = {"a": 1.0, "b": 12.0, "c": 2.0}
    groups = {name: Components(40, spread**2, 0.0) for name, spread in spreads.items()}
    assert estimator_advice(groups, 4).sentence.endswith(
        "Rewards of b vary 12 times as much as those of a: dr_grpo and rloo, which do not divide by a "
        "spread, would mostly follow b."
    )
    del groups["b"]
    assert "dr_grpo" not in estimator_advice(groups, 4).sentence
    assert "dr_grpo" not in estimator_advice({**groups, "d": Components(40, 9.9**2, 0.0)}, 4).sentence


def test_rewards_that_record_several_parts_have_components_of_their_values() -> None:
    # The history of each reward goes by its label, the columns by `label` or `label.part`.
    rows = [(step, g, (step + g) % 4 / 4) for step in range(1, 13) for g in range(4)]
    parts = [
        {
            "chrf.value": v,
            "chrf.similarity": 1 - v,
            "keyword": v * v,
            "personas.style": v,
            "personas.genre": v,
        }
        for _, _, v in rows
    ]
    completions = Completions.of(
        steps=[row[0] for row in rows],
        prompts=[0] * len(rows),
        preference_groups=["a"] * len(rows),
        rewards=[row[2] for row in rows],
        parts=parts,
        lengths=[1] * len(rows),
        texts=[""] * len(rows),
    )
    recipe = Recipe.model_validate(changed(rewards=[{"type": "chrf"}]))
    view = RunView(recipe, Metrics(()), completions, {"a": PastRewards(48, 0.4, 0.4)}, TrainingPrompts({}))
    means = {label: {"a": 0.4} for label in ("chrf", "keyword", "personas")}
    found = components_of(view, means)
    assert list(found) == ["chrf/a", "keyword/a"]
    assert found["chrf/a"] == components_of(view, {})["a"]
    assert without_values(view, means) == ["personas"]
    # The sum says nothing about a reward whose value is not known.
    assert components_of(view, {"personas": {"a": 0.4}}) == {}
