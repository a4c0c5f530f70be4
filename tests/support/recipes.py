"""Recipes for tests, written and broken in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.recipe.messages import InvalidRecipe, Problem
from pgrpo_cli.recipe.schema import Recipe

MINIMAL: dict[str, Any] = {
    "name": "minimal",
    "model": {"id": "random"},
    "data": {"source": {"type": "personas"}},
    "rewards": [{"type": "personas"}],
}
"""The least that a recipe says."""


def changed(**values: Any) -> dict[str, Any]:
    """The minimal recipe with dotted keys (`train__steps=3` is train.steps) set to other values."""
    recipe = copy.deepcopy(MINIMAL)
    for key, value in values.items():
        *parents, last = key.split("__")
        section = recipe
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return recipe


def load_data(folder: Path, data: dict[str, Any], *overrides: str) -> Recipe:
    """The recipe that `data`, written as YAML, makes."""
    return load_text(folder, yaml.safe_dump(data, sort_keys=False), *overrides)


def load_text(folder: Path, text: str | bytes, *overrides: str) -> Recipe:
    """The recipe in `text`."""
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(path, overrides)


def problems_of(folder: Path, recipe: dict[str, Any] | str, *overrides: str) -> tuple[Problem, ...]:
    """The problems of an invalid recipe; a valid one has none."""
    try:
        if isinstance(recipe, str):
            load_text(folder, recipe, *overrides)
        else:
            load_data(folder, recipe, *overrides)
    except InvalidRecipe as error:
        return error.problems
    return ()
