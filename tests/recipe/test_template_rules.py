"""Rules of templates, expressions and rubrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.recipe import template_rules
from tests.support.recipes import changed
from tests.support.rules import RuleCase, assert_all_have_cases, assert_rule

JSONL = {"type": "jsonl", "path": "prompts.jsonl"}
LENGTH = {"type": "length", "max": 10}
JUDGE = {"type": "judge", "base_url": "http://localhost:8000/v1", "model": "m"}
PAIRS = {"base_url": "http://localhost:8000/v1", "model": "m"}

CASES: list[RuleCase] = [
    (
        "templates_parse",
        "data.source.template",
        "unexpected '}' in line 2 of the template",
        changed(data={"source": {**JSONL, "template": "Hi\n{{ name }"}}, rewards=[LENGTH]),
        changed(data={"source": {**JSONL, "template": "Hi\n{{ name }}"}}, rewards=[LENGTH]),
    ),
    (
        "templates_parse",
        "data.conditioning.template",
        "there is no other template to take in in line 1 of the template",
        changed(data__conditioning={"type": "prompt", "template": "{% include 'secrets' %}"}),
        changed(data__conditioning={"type": "prompt", "template": "Be kind."}),
    ),
    (
        "templates_parse",
        "data.conditioning.template",
        "unexpected '}' in line 1 of the template",
        changed(data__conditioning={"type": "profiles", "profiles": "auto", "template": "{{ profile }"}),
        changed(data__conditioning={"type": "profiles", "profiles": "auto", "template": "{{ profile }}"}),
    ),
    (
        "chat_template_parses",
        "model.chat_template",
        "not a template that can be used: unexpected '}'",
        changed(model={"id": "random", "chat_template": "{{ messages }"}),
        changed(model={"id": "random", "chat_template": "{{ messages }}"}),
    ),
    (
        "chat_template_parses",
        "model.chat_template",
        "neither a path that ends in .jinja nor a template",
        changed(model={"id": "random", "chat_template": "chat_template.txt"}),
        changed(model={"id": "random", "chat_template": "chat_template.jinja"}),
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
        "pair_rubric_parses",
        "eval.judge.rubric",
        "does not use 'second', so that every answer would be judged alike; add {{ second }}",
        changed(eval__judge={**PAIRS, "rubric": "{{ first }}"}),
        changed(eval__judge={**PAIRS, "rubric": "{{ first }} or {{ second }}?"}),
    ),
    (
        "pair_rubric_parses",
        "eval.judge.rubric",
        "uses 'completion'; known are prompt, first, second, ",
        changed(eval__judge={**PAIRS, "rubric": "{{ completion }}{{ first }}{{ second }}"}),
        changed(eval__judge=PAIRS),
    ),
    (
        "pair_rubric_parses",
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


def test_every_rule_has_a_case() -> None:
    assert_all_have_cases(template_rules, CASES)
