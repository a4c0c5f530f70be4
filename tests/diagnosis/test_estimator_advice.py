"""Which estimator suits a run: each branch of the rule, on made variance components."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from pgrpo_cli.diagnosis.estimator_advice import (
    ALIKE,
    DIFFERENT,
    ENOUGH_PROMPTS,
    estimator_advice,
    suiting,
    weight_of,
)


@dataclass(frozen=True)
class Group:
    within_variance: float | None
    between_variance: float | None
    prompts: int = 40


def with_weight(weight: float, *, spread: float = 1.0, G: int = 4) -> Group:
    """τ² / (τ² + s²/G) = w for τ² = w / (1 - w) · s²/G."""
    return Group(spread**2, weight / (1 - weight) * spread**2 / G)


def test_alike_prompts_suit_pgrpo() -> None:
    # G = 4: s² = 4, τ² = 1 is w = 1 / (1 + 4/4) = 0.5; s² = 12, τ² = 1 is w = 1 / (1 + 12/4) = 0.25.
    groups = {"a": Group(4.0, 1.0), "b": Group(12.0, 1.0)}
    assert [weight_of(group, 4) for group in groups.values()] == pytest.approx([0.5, 0.25])
    advice = estimator_advice(groups, num_generations=4)
    assert advice.estimator == "pgrpo"
    assert advice.sentence.startswith("Prompts of a preference group are alike (w = 0.38,")


def test_the_number_of_completions_counts() -> None:
    # s² = 4, τ² = 1: w = 1 / (1 + 4/4) = 0.5, but 1 / (1 + 4/64) = 0.94 with 64 completions a prompt.
    groups = {"a": Group(4.0, 1.0)}
    assert estimator_advice(groups, 4).estimator == "pgrpo"
    many = estimator_advice(groups, 64)
    assert many.estimator == "pgrpo_adaptive"
    assert "w = 0.94" in many.sentence


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (0.0, "are alike"),
        (ALIKE - 0.01, "are alike"),
        (ALIKE + 0.01, "differ somewhat"),
        (DIFFERENT - 0.01, "differ somewhat"),
        (DIFFERENT + 0.01, "differ much"),
    ],
)
def test_bounds(weight: float, says: str) -> None:
    advice = estimator_advice({"a": with_weight(weight), "b": with_weight(weight)}, 4)
    assert says in advice.sentence
    assert advice.estimator == suiting(weight)
    assert (advice.estimator == "pgrpo") == (weight <= ALIKE)


def test_preference_groups_count_once_each() -> None:
    """0.2 and 0.9 twice: the mean is 2/3, whatever their numbers of prompts."""
    many = replace(with_weight(0.9), prompts=999)
    advice = estimator_advice({"a": with_weight(0.2), "b": with_weight(0.9), "c": many}, 4)
    assert "w = 0.67" in advice.sentence


@pytest.mark.parametrize(
    "unknown",
    [
        Group(1.0, 9.0, prompts=ENOUGH_PROMPTS - 1),
        Group(None, 9.0),
        Group(1.0, None),
        Group(0.0, 9.0),  # no prompt with two rewards that differ
        Group(0.0, 0.0),
    ],
)
def test_what_tells_nothing_is_left_out(unknown: Group) -> None:
    assert weight_of(unknown, 4) is None
    alone = estimator_advice({"new": unknown}, 4)
    assert (alone.estimator, suiting(None)) == (None, None)
    assert alone.sentence.startswith("Too early to tell")
    known = {"a": with_weight(0.1)}
    assert estimator_advice({"new": unknown, **known}, 4) == estimator_advice(known, 4)


def test_a_run_without_rewards() -> None:
    assert estimator_advice({}, 8).estimator is None


def test_enough_prompts_are_enough() -> None:
    assert weight_of(Group(1.0, 0.0, prompts=ENOUGH_PROMPTS), 4) == 0.0


def test_unlike_spreads_are_named() -> None:
    spreads = {"a": 1.0, "b": 12.0, "c": 2.0}
    groups = {name: with_weight(0.1, spread=spread) for name, spread in spreads.items()}
    rule, _, basis = estimator_advice(groups, 4).sentence.partition(" The rule comes")
    assert "simulation" in basis
    assert rule.endswith(
        "Rewards of b vary 12 times as much as those of a: dr_grpo and rloo, which do not divide by a "
        "spread, would mostly follow b."
    )
    del groups["b"]
    assert "dr_grpo" not in estimator_advice(groups, 4).sentence
    assert "dr_grpo" not in estimator_advice({**groups, "d": with_weight(0.1, spread=9.9)}, 4).sentence
