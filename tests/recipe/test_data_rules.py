"""Rules of `data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.recipe import data_rules
from tests.support.recipes import changed
from tests.support.rules import RuleCase, assert_all_have_cases, assert_rule

JSONL = {"type": "jsonl", "path": "prompts.jsonl"}
GOODREADS = {"type": "goodreads", "path": "reviews.json.gz"}
LENGTH = {"type": "length", "max": 10}
BINS = {"type": "bins", "column": "age", "edges": [18, 30]}
CLUSTER = {"type": "cluster"}

CASES: list[RuleCase] = [
    (
        "review_lengths",
        "data.source.min_words",
        "must not be greater than data.source.max_words (20)",
        changed(data={"source": {**GOODREADS, "min_words": 21, "max_words": 20}}, rewards=[LENGTH]),
        changed(data={"source": {**GOODREADS, "min_words": 20, "max_words": 20}}, rewards=[LENGTH]),
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
        "examples_have_a_scale",
        "data.conditioning.rating_min",
        "must be less than rating_max (1); swap them",
        changed(data__conditioning={"type": "examples", "rating_column": "up", "rating_min": 1}),
        changed(data__conditioning={"type": "examples", "rating_column": "up", "rating_min": 0}),
    ),
    (
        "examples_have_a_scale",
        "data.conditioning.rating_column",
        "rating_min and rating_max are those of a column",
        changed(data__conditioning={"type": "examples", "rating_max": 5}),
        changed(data__conditioning={"type": "examples", "rating_max": 5, "rating_column": "stars"}),
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
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_rule(tmp_path: Path, case: RuleCase) -> None:
    assert_rule(tmp_path, case)


def test_every_rule_has_a_case() -> None:
    assert_all_have_cases(data_rules, CASES)
