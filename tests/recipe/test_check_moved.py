"""Keys of older recipes that stand elsewhere now."""

from __future__ import annotations

from pathlib import Path

from pgrpo_cli.recipe.conditioning import PromptConditioning
from pgrpo_cli.recipe.load import differing_keys, dump_resolved, load_resolved
from tests.support.recipes import changed, load_data, problems_of

JSONL = {"type": "jsonl", "path": "rows.jsonl"}
LENGTH = {"type": "length", "max": 10}


def with_source(**source: object) -> dict[str, object]:
    return changed(data={"source": {**JSONL, **source}}, rewards=[LENGTH])


def test_a_system_template_becomes_conditioning(tmp_path: Path) -> None:
    recipe = load_data(tmp_path, with_source(system_template="For {{ name }}."))
    assert recipe.data.conditioning == PromptConditioning(template="For {{ name }}.")
    new = changed(
        data={"source": JSONL, "conditioning": {"type": "prompt", "template": "For {{ name }}."}},
        rewards=[LENGTH],
    )
    assert differing_keys(recipe, load_data(tmp_path, new)) == []
    overridden = load_data(tmp_path, with_source(), "data.source.system_template=For {{ name }}.")
    assert overridden == recipe


def test_the_resolved_recipe_of_an_older_run_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_data(tmp_path, with_source())
    # As version 0.1 wrote it: the key in its old place, none of the new section.
    old = tmp_path / "old.yaml"
    text = dump_resolved(recipe).replace(
        "    template: null\n", "    template: null\n    system_template: null\n", 1
    )
    before, _, after = text.partition("  conditioning:\n    type: prompt\n    template: null\n")
    old.write_text(before + after)
    assert "system_template" in old.read_text() and "conditioning" not in old.read_text()
    assert differing_keys(load_resolved(old), recipe) == []


def test_a_mistake_in_the_old_key_is_told_where_it_stands(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, with_source(system_template="{{ name }"))
    assert problem.where.endswith("recipe.yaml:8")
    assert "data.conditioning.template" in str(problem)
    # Both at once: one of them would not count.
    both = with_source(system_template="a")
    both["data"]["conditioning"] = {"type": "prompt", "template": "b"}  # type: ignore[index]
    (problem,) = problems_of(tmp_path, both)
    assert "system_template" in str(problem) and "there is no such key" in str(problem)


def test_other_sources_never_had_the_key(tmp_path: Path) -> None:
    recipe = changed(data__source={"type": "personas", "system_template": "Be kind."})
    (problem,) = problems_of(tmp_path, recipe)
    assert "there is no such key" in str(problem)
