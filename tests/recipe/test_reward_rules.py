"""Rules of rewards."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.recipe import reward_rules
from tests.support.recipes import changed
from tests.support.rules import RuleCase, assert_all_have_cases, assert_rule

PERSONAS = {"type": "personas"}
LENGTH = {"type": "length", "max": 10}
JUDGE = {"type": "judge", "base_url": "http://localhost:8000/v1", "model": "m"}

CASES: list[RuleCase] = [
    (
        "interval",
        "rewards.0.min",
        "must not be greater than max (10); swap them",
        changed(rewards=[{**LENGTH, "min": 11}]),
        changed(rewards=[{**LENGTH, "min": 10}]),
    ),
    (
        "interval",
        "rewards.0.min",
        "set one of them",
        changed(rewards=[{"type": "readability"}]),
        changed(rewards=[{"type": "readability", "max": 6}]),
    ),
    (
        "interval",
        "rewards.0.min",
        "must not be greater than max (0.1); swap them",
        changed(rewards=[{"type": "sentiment", "min": 0.2, "max": 0.1}]),
        changed(rewards=[{"type": "sentiment", "min": 0.1, "max": 0.1}]),
    ),
    (
        "personas_parts",
        "rewards.0.style_weight",
        "both 0",
        changed(rewards=[{**PERSONAS, "style_weight": 0, "genre_weight": 0}]),
        changed(rewards=[{**PERSONAS, "style_weight": 0}]),
    ),
    (
        "recommendation_parts",
        "rewards.0.hit_weight",
        "all weights of its parts are 0",
        changed(rewards=[{"type": "recommendation", "hit_weight": 0, "rank_weight": 0}]),
        changed(rewards=[{"type": "recommendation", "hit_weight": 0}]),
    ),
    (
        "recommendation_parts",
        "rewards.0.candidate_weight",
        "needs candidates_column",
        changed(rewards=[{"type": "recommendation", "candidate_weight": 0.1}]),
        changed(rewards=[{"type": "recommendation", "candidate_weight": 0.1, "candidates_column": "titles"}]),
    ),
    (
        "ratings",
        "rewards.0.rating_min",
        "must be less than rating_max (1); swap them",
        changed(rewards=[{"type": "rouge", "rating_column": "stars", "rating_min": 1}]),
        changed(rewards=[{"type": "rouge", "rating_column": "stars", "rating_min": 1, "rating_max": 5}]),
    ),
    (
        "ratings",
        "rewards.0.rating_column",
        "name it, or leave them out",
        changed(rewards=[{"type": "chrf", "rating_max": 5}]),
        changed(rewards=[{"type": "chrf", "rating_max": 1}]),
    ),
    (
        "raw_outputs",
        "rewards.0.activation",
        "min and max cut raw outputs",
        changed(
            rewards=[{"type": "reward_model", "model": "m", "activation": "sigmoid", "min": 0, "max": 1}]
        ),
        changed(rewards=[{"type": "reward_model", "model": "m", "min": 0, "max": 1}]),
    ),
    (
        "raw_outputs",
        "rewards.0.max",
        "goes with min; set both, or none",
        changed(rewards=[{"type": "reward_model", "model": "m", "min": 0}]),
        changed(rewards=[{"type": "reward_model", "model": "m", "min": -5, "max": 5}]),
    ),
    (
        "raw_outputs",
        "rewards.0.min",
        "must be less than max (0); swap them",
        changed(rewards=[{"type": "reward_model", "model": "m", "min": 0, "max": 0}]),
        changed(rewards=[{"type": "reward_model", "model": "m"}]),
    ),
    (
        "regex_limit",
        "rewards.0.limit",
        "set count to true, or remove limit",
        changed(rewards=[{"type": "regex", "pattern": "a", "limit": 2}]),
        changed(rewards=[{"type": "regex", "pattern": "a", "limit": 2, "count": True}]),
    ),
    (
        "judge_scale",
        "rewards.0.scale.0",
        "must be below the highest score (5.0); swap them",
        changed(rewards=[{**JUDGE, "scale": [5, 5]}]),
        changed(rewards=[{**JUDGE, "scale": [4.9, 5]}]),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_rule(tmp_path: Path, case: RuleCase) -> None:
    assert_rule(tmp_path, case)


def test_every_rule_has_a_case() -> None:
    assert_all_have_cases(reward_rules, CASES)
