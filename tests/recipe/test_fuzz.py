"""Shipped recipes with something broken in them: each is a recipe still, or a RecipeError that reads well."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.load import dump_resolved, load_recipe, load_resolved, shipped_recipes
from pgrpo_cli.recipe.resolved import with_aggregation
from pgrpo_cli.recipe.schema import Recipe, hints
from pgrpo_cli.recipe.shape import leaves

RECIPES = [yaml.safe_load(path.read_text()) for path in shipped_recipes().values()]
TAGS = sorted(
    {entry["type"] for entry in RECIPES for entry in entry["rewards"]}
    | {
        "none",
        "nf4",
        "ema",
        "window",
        "jsonl",
        "movielens",
        "cluster",
        "bins",
        "expression",
        "judge",
        "plugin",
    }
)
KEYS = sorted(
    {path[-1] for path in leaves(Recipe)} | {"type", "weight", "pattern", "name", "<<", "__class__"}
)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"type": value}
    return value


NUMBERS = st.sampled_from([0, -1, 1, 2**31, 10**30, 0.5, 5e-324, 1e300, -1e300, float("inf"), float("nan")])
TEXTS = st.sampled_from(
    [
        *(
            "",
            " ",
            "\0",
            "\ud800",
            "\u202e\x1b[31m",
            "é" * 300,
            "~nosuchuser/x",
            "$NO/x",
            "../x",
            "a\nb",
            "1e3",
        ),
        *(
            "{{",
            "{{ x }}",
            "{{ 'a' * 10**9 }}",
            "{% for i in x %}",
            "(",
            "(a+)+$",
            "a{99999}",
            "[",
            "no",
            "null",
        ),
        *("http://[", "file:///etc/passwd", "package:/", "package:a/b.gguf", "random", "x" * 5000, *TAGS),
    ]
) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.integers(1, 60).map(nested),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | TEXTS, inner, max_size=3)
    ),
    max_leaves=4,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and entry below `data`, which may stand inside itself."""
    if len(path) > 5:
        return []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, list[str]]:
    """The YAML of a shipped recipe after one to three changes, and overrides."""
    data = copy.deepcopy(draw(st.sampled_from(RECIPES)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        *parents, key = draw(st.sampled_from(places(data) or [("name",)]))
        container = data
        for parent in parents:
            container = container[parent]
        change = draw(st.sampled_from(["value", "drop", "rename", "add", "swap", "type"]))
        if change == "value":
            container[key] = draw(VALUES)
        elif change == "drop":
            del container[key]
        elif change == "rename" and isinstance(container, dict):
            container[draw(st.sampled_from(KEYS) | TEXTS)] = container.pop(key)
        elif change == "add" and isinstance(container, dict):
            container[draw(st.sampled_from(KEYS))] = draw(VALUES)
        elif change == "type" and isinstance(container, dict):
            container["type"] = draw(st.sampled_from(TAGS))
        elif change == "swap":
            # One object at two places is written with an anchor.
            container[key] = data.get(draw(st.sampled_from(sorted(map(str, data)))))
    text = yaml.dump(data, allow_unicode=draw(st.booleans()), sort_keys=False)
    keys = st.sampled_from([".".join(map(str, place)) for place in places(data)[:60]] or ["name"])
    overrides = st.tuples(keys | TEXTS, TEXTS | st.sampled_from(["1", "[", "{type: ema}"])).map("=".join)
    return text, draw(st.just([]) | st.lists(overrides, max_size=2))


@settings(max_examples=250)
@given(made=broken())
def test_a_broken_recipe_is_a_recipe_or_a_recipe_error(tmp_path: Path, made: tuple[str, list[str]]) -> None:
    text, overrides = made
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        recipe = load_recipe(path, overrides, lambda note: None, paths=True)
    except RecipeError as error:
        report = str(error).replace(str(tmp_path), "")
        assert len(report) < 20_000
        assert all(line.isprintable() for line in report.splitlines())
        return
    assert all(map(str.strip, hints(recipe)))
    path.write_text(dump_resolved(recipe))
    assert load_resolved(path) == with_aggregation(recipe)
