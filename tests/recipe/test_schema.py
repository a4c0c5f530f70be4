"""Rules between sections of a recipe, and hints about settings that are rarely intended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.recipe.schema import RULES, hints
from tests.support.recipes import changed, load_data
from tests.support.rules import RuleCase, assert_rule

PERSONAS = {"type": "personas"}
JSONL = {"type": "jsonl", "path": "prompts.jsonl"}
MOVIELENS = {"type": "movielens", "path": "ml"}
LENGTH = {"type": "length", "max": 10}
JUDGE = {"type": "judge", "base_url": "http://localhost:8000/v1", "model": "m"}
PAIRS = {"base_url": "http://localhost:8000/v1", "model": "m"}

CASES: list[RuleCase] = [
    (
        "random_context",
        "model.random.context",
        "must hold data.max_prompt_tokens + rollout.max_completion_tokens (124)",
        changed(
            model__random={"context": 123}, data__max_prompt_tokens=100, rollout__max_completion_tokens=24
        ),
        changed(
            model__random={"context": 124}, data__max_prompt_tokens=100, rollout__max_completion_tokens=24
        ),
    ),
    (
        "labels_differ",
        "rewards.1.name",
        "rewards.0 is recorded under that name already",
        changed(rewards=[PERSONAS, PERSONAS]),
        changed(rewards=[PERSONAS, {**PERSONAS, "name": "again"}]),
    ),
    (
        "some_reward_counts",
        "rewards.0.weight",
        "every reward has weight 0",
        changed(rewards=[{**PERSONAS, "weight": 0}, {**LENGTH, "weight": 0}]),
        changed(rewards=[{**PERSONAS, "weight": 0}, {**LENGTH, "weight": -1}]),
    ),
    (
        "personas_reward_needs_personas",
        "rewards.1.type",
        "data.source.type 'personas' only (found 'jsonl')",
        changed(data={"source": JSONL}, rewards=[LENGTH, PERSONAS]),
        changed(data={"source": JSONL}, rewards=[LENGTH]),
    ),
    (
        "best_needs_evaluations",
        "train.keep_best",
        "of which there are none; set eval.every",
        changed(train={"keep_best": "macro"}),
        changed(train={"keep_best": "macro"}, eval={"every": 5}),
    ),
    (
        "random_groups_need_a_history",
        "history.preference_groups",
        "advantage.estimator 'grpo' uses no reward history",
        changed(history={"preference_groups": "random"}, advantage={"estimator": "grpo"}),
        changed(history={"preference_groups": "random"}, advantage={"estimator": "pgrpo_centered"}),
    ),
    (
        # All that it refuses: test_engine.py.
        "trl_can_express",
        "adapter.dropout",
        "engine.type is 'trl': TRL would sample with dropout on",
        changed(adapter={"dropout": 0.1}, engine={"type": "trl"}),
        changed(adapter={"dropout": 0.0}, engine={"type": "trl"}),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_rule(tmp_path: Path, case: RuleCase) -> None:
    assert_rule(tmp_path, case)


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(
    ("words", "doubtful", "plain"),
    [
        ("add {type: personas}", changed(rewards=[LENGTH]), changed()),
        (
            "model.random has no effect",
            changed(model={"id": "org/model", "random": {"num_layers": 3}}),
            changed(model__random={"num_layers": 3}),
        ),
        (
            "rewards.0.base_url begins with http://: the key is sent unencrypted",
            changed(rewards=[{**JUDGE, "api_key_env": "KEY"}, PERSONAS]),
            changed(rewards=[JUDGE, PERSONAS]),
        ),
        (
            "eval.judge.base_url begins with http://: the key is sent unencrypted",
            changed(eval__judge={**PAIRS, "api_key_env": "KEY"}),
            changed(eval__judge={**PAIRS, "api_key_env": "KEY", "base_url": "https://judge.example.org/v1"}),
        ),
        (
            "history.min_count has no effect",
            changed(history={"min_count": 3}),
            changed(history={"min_count": 3, "update": "after"}),
        ),
        (
            "data.source.prompt_column has no effect with data.source.template",
            changed(
                data={"source": {**JSONL, "prompt_column": "q", "template": "{{ q }}"}}, rewards=[LENGTH]
            ),
            changed(data={"source": {**JSONL, "template": "{{ q }}"}}, rewards=[LENGTH]),
        ),
        (
            "data.source.cut has no effect",
            changed(data={"source": {**MOVIELENS, "cut": 0.8}}, rewards=[LENGTH]),
            changed(data={"source": {**MOVIELENS, "cut": 0.8, "holdout": "cut"}}, rewards=[LENGTH]),
        ),
    ],
)
def test_hints(tmp_path: Path, words: str, doubtful: dict[str, Any], plain: dict[str, Any]) -> None:
    (hint,) = hints(load_data(tmp_path, doubtful))
    assert words in hint
    assert hints(load_data(tmp_path, plain)) == []
