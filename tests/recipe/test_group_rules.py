"""Rules of `data.preference_groups` and `data.split_by`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.recipe import group_rules
from tests.support.recipes import changed
from tests.support.rules import RuleCase, assert_all_have_cases, assert_rule

JSONL = {"type": "jsonl", "path": "prompts.jsonl"}
LENGTH = {"type": "length", "max": 10}
BINS = {"type": "bins", "column": "age", "edges": [18, 30]}
CLUSTER = {"type": "cluster"}

CASES: list[RuleCase] = [
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
    assert_all_have_cases(group_rules, CASES)
