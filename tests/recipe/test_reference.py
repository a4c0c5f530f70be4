"""The reference for editors and for readers holds every key, and the one in docs/ is the current one."""

from __future__ import annotations

import json
from pathlib import Path

from pgrpo_cli.recipe.reference import json_schema_text, markdown_reference
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.shape import leaves

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"


def test_the_reference_in_docs_is_current() -> None:
    assert DOCS.read_text() == markdown_reference(), "run `make docs`"


def test_every_key_is_described() -> None:
    text = markdown_reference()
    for path in leaves(Recipe):
        assert f"| `{path[-1]}` |" in text or path[-1] == "type"
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row.split(" | ")) >= 4 and not row.endswith("|  |") for row in rows)


def test_defaults_bounds_and_choices_are_shown() -> None:
    text = markdown_reference()
    assert "| `num_generations` | a whole number, ≥ 2, ≤ 4096 | `8` |" in text
    assert "| `top_p` | a number, ≥ 1e-06, ≤ 1 | `1.0` |" in text
    assert "| `seed` | a whole number, ≥ 0, < 2147483648 | `0` |" in text
    assert '| `update` | `before` or `after` | `"before"` |' in text
    assert "| `revision` | text, or null | `null` |" in text
    assert "### `history.kind` with `type: ema`" in text
    assert "## `rewards.N` with `type: regex`" in text


def test_the_schema_is_json_schema_with_descriptions() -> None:
    schema = json.loads(json_schema_text())
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["additionalProperties"] is False
    train = schema["$defs"]["TrainSection"]["properties"]
    assert train["learning_rate"]["description"] == "Peak learning rate."
    assert set(schema["properties"]) == set(Recipe.model_fields)


def test_the_schema_requires_type_where_it_tells_sections_apart() -> None:
    sections = json.loads(json_schema_text())["$defs"]
    assert sections["WindowHistory"]["required"] == ["type"]
    assert sections["RegexReward"]["required"] == ["type", "pattern"]
    assert "required" not in sections["TrainSection"]
