"""Rules of rewards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.recipes import changed
from tests.support.rules import RuleCase, assert_rule

PERSONAS = {"type": "personas"}
LENGTH = {"type": "length", "max": 10}
JUDGE = {"type": "judge", "base_url": "http://localhost:8000/v1", "model": "m"}

CASES: list[RuleCase] = [
    (
        "LengthReward",
        "rewards.0.min",
        "must not be greater than max (10); swap them",
        changed(rewards=[{**LENGTH, "min": 11}]),
        changed(rewards=[{**LENGTH, "min": 10}]),
    ),
    (
        "ReadabilityReward",
        "rewards.0.min",
        "set one of them",
        changed(rewards=[{"type": "readability"}]),
        changed(rewards=[{"type": "readability", "max": 6}]),
    ),
    (
        "SentimentReward",
        "rewards.0.min",
        "must not be greater than max (0.1); swap them",
        changed(rewards=[{"type": "sentiment", "min": 0.2, "max": 0.1}]),
        changed(rewards=[{"type": "sentiment", "min": 0.1, "max": 0.1}]),
    ),
    (
        "PersonasReward",
        "rewards.0.style_weight",
        "both 0",
        changed(rewards=[{**PERSONAS, "style_weight": 0, "genre_weight": 0}]),
        changed(rewards=[{**PERSONAS, "style_weight": 0}]),
    ),
    (
        "RecommendationReward",
        "rewards.0.hit_weight",
        "all weights of its parts are 0",
        changed(rewards=[{"type": "recommendation", "hit_weight": 0, "rank_weight": 0}]),
        changed(rewards=[{"type": "recommendation", "hit_weight": 0}]),
    ),
    (
        "RecommendationReward",
        "rewards.0.candidate_weight",
        "needs candidates_column",
        changed(rewards=[{"type": "recommendation", "candidate_weight": 0.1}]),
        changed(rewards=[{"type": "recommendation", "candidate_weight": 0.1, "candidates_column": "titles"}]),
    ),
    (
        "ReferenceReward",
        "rewards.0.rating_min",
        "must be less than rating_max (1); swap them",
        changed(rewards=[{"type": "rouge", "rating_column": "stars", "rating_min": 1}]),
        changed(rewards=[{"type": "rouge", "rating_column": "stars", "rating_min": 1, "rating_max": 5}]),
    ),
    (
        "ReferenceReward",
        "rewards.0.rating_column",
        "name it, or leave them out",
        changed(rewards=[{"type": "chrf", "rating_max": 5}]),
        changed(rewards=[{"type": "chrf", "rating_max": 1}]),
    ),
    (
        "RewardModelReward",
        "rewards.0.activation",
        "min and max cut raw outputs",
        changed(
            rewards=[{"type": "reward_model", "model": "m", "activation": "sigmoid", "min": 0, "max": 1}]
        ),
        changed(rewards=[{"type": "reward_model", "model": "m", "min": 0, "max": 1}]),
    ),
    (
        "RewardModelReward",
        "rewards.0.max",
        "goes with min; set both, or none",
        changed(rewards=[{"type": "reward_model", "model": "m", "min": 0}]),
        changed(rewards=[{"type": "reward_model", "model": "m", "min": -5, "max": 5}]),
    ),
    (
        "RewardModelReward",
        "rewards.0.min",
        "must be less than max (0); swap them",
        changed(rewards=[{"type": "reward_model", "model": "m", "min": 0, "max": 0}]),
        changed(rewards=[{"type": "reward_model", "model": "m"}]),
    ),
    (
        "RegexReward",
        "rewards.0.limit",
        "set count to true, or remove limit",
        changed(rewards=[{"type": "regex", "pattern": "a", "limit": 2}]),
        changed(rewards=[{"type": "regex", "pattern": "a", "limit": 2, "count": True}]),
    ),
    (
        "JudgeReward",
        "rewards.0.scale.0",
        "must be below the highest score (5.0); swap them",
        changed(rewards=[{**JUDGE, "scale": [5, 5]}]),
        changed(rewards=[{**JUDGE, "scale": [4.9, 5]}]),
    ),
    (
        "JudgeReward",
        "rewards.0.rubric",
        "not a template that can be used: unexpected '}' in line 2 of the template",
        changed(rewards=[{**JUDGE, "rubric": "Fine?\n{{ completion }"}]),
        changed(
            rewards=[
                {**JUDGE, "rubric": "{% if reference is defined %}{{ reference }}{% endif %}{{ completion }}"}
            ]
        ),
    ),
    (
        "JudgeReward",
        "rewards.0.rubric",
        "uses 'row'; known are prompt, ",
        changed(rewards=[{**JUDGE, "rubric": "{{ row }}{{ completion }}"}]),
        changed(rewards=[{**JUDGE, "rubric": "{{ range(3)|join }}{{ completion }}"}]),
    ),
    (
        "JudgeReward",
        "rewards.0.rubric",
        "every answer would be judged alike; add {{ completion }}",
        changed(rewards=[{**JUDGE, "rubric": "{% set completion = 1 %}{{ completion }}"}]),
        changed(rewards=[{**JUDGE, "rubric": "{% set text = completion %}{{ text }}"}]),
    ),
    (
        "JudgeReward",
        "rewards.0.preference_group_rubrics",
        "the rubric must use {{ preference_group_rubric }}",
        changed(
            rewards=[
                {**JUDGE, "rubric": "{{ completion }}", "preference_group_rubrics": {"terse": "Be brief."}}
            ]
        ),
        changed(rewards=[{**JUDGE, "preference_group_rubrics": {"terse": "Be brief."}}]),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_rule(tmp_path: Path, case: RuleCase) -> None:
    assert_rule(tmp_path, case)
