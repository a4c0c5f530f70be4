"""What the checks find is JSON that its own schema describes."""

from __future__ import annotations

import json
from typing import Any, get_args

import jsonschema
import pytest
from pydantic import ValidationError

from pgrpo_cli.selfcheck import results
from pgrpo_cli.selfcheck.catalogue import ALWAYS, BY_NAME, CHECKS
from pgrpo_cli.selfcheck.results import CheckResult, report_of, schema_text

RATES = results.Rates(copy_rate=1e9, half_dtype="float16", half_rate=float("inf"), float32_rate=None)
GRADIENT = results.Gradient(layers=2, error=0.99)


def whole() -> dict[str, Any]:
    found = [
        CheckResult(name="rates", status="ok", seconds=1.5, found=RATES),
        CheckResult(name="gradient", status="failed", reason="off by 99 %", found=GRADIENT, trace="Trace"),
        CheckResult(name="graphs", status="skipped", reason="needs a GPU"),
    ]
    return json.loads(report_of(found, 2.5).model_dump_json())  # type: ignore[no-any-return]


def valid(document: Any) -> bool:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def test_a_report_is_valid_json_and_counts() -> None:
    document = whole()
    assert valid(document)
    assert (document["ok"], document["failed"], document["skipped"]) == (1, 1, 1)
    assert document["results"][0]["found"]["half_rate"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"results": [{"name": "rates", "status": "good"}]},
        {"results": [{"name": "rates", "status": "ok", "found": {"copy_rate": 1.0}}]},
        {"seconds": "2.5"},
        {"more": 1},
    ],
)
def test_the_schema_refuses_what_is_no_report(change: dict[str, Any]) -> None:
    assert not valid({**whole(), **change})


def test_the_schema_says_what_numbers_are_and_in_which_unit() -> None:
    definitions = json.loads(schema_text())["$defs"]
    rate = definitions["Rates"]["properties"]["copy_rate"]
    assert rate["unit"] == "bytes/s" and rate["description"].startswith("Bytes read and written")
    for kind in get_args(results.AnyFound):
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"


def test_a_result_comes_back_as_what_it_was() -> None:
    """The types of what is found are told apart by their fields."""
    for kind in get_args(results.AnyFound):
        others = [other for other in get_args(results.AnyFound) if other is not kind]
        assert all(set(kind.model_fields) != set(other.model_fields) for other in others)
    line = CheckResult(name="gradient", status="ok", found=GRADIENT).model_dump_json()
    assert CheckResult.model_validate_json(line).found == GRADIENT
    with pytest.raises(ValidationError):
        CheckResult.model_validate_json(line.replace('"layers"', '"lairs"'))


def test_every_check_has_a_function_and_a_limit() -> None:
    assert list(BY_NAME) == [check.name for check in CHECKS] and set(ALWAYS) <= set(BY_NAME)
    for check in CHECKS:
        assert callable(check.function()) and 0 < check.seconds < 480 and check.question.endswith("?")
