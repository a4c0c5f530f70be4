"""Recipes for tests, written and broken in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.recipe.messages import InvalidRecipe, Problem, choices
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.shape import variants
from pgrpo_cli.recipe.sources import Source

MINIMAL: dict[str, Any] = {
    "name": "minimal",
    "model": {"id": "random"},
    "data": {"source": {"type": "personas"}},
    "rewards": [{"type": "personas"}],
}
"""The least that a recipe says."""

TEN_MISTAKES = """\
name: ten
modle: {id: random}
data:
  source: {type: jsnl, path: prompts.jsonl}
rewards:
  - type: length
    min: 30
    max: 10
  - type: regex
    pattern: "[a-z"
  - type: keyword
    keywords: [no]
rollout:
  num_generations: 1
advantage:
  estimator: grpo
  scale: batch
train:
  steps: 4
  steps: 5
  learning_rate: fast
  optimizer: adamw
"""
"""A recipe in recipe.yaml with ten different mistakes."""

SOURCE_TYPES = choices(variants(Source))
"""The types of `data.source`, as messages list them."""

TEN_PROBLEMS = f"""\
recipe.yaml:2: modle: found a mapping; there is no such key; did you mean 'model'?
recipe.yaml:4: data.source.type: found jsnl; must be {SOURCE_TYPES}; did you mean 'jsonl'?
recipe.yaml:7: rewards.0.min: found 30; must not be greater than max (10); swap them
recipe.yaml:10: rewards.1.pattern: found "[a-z"; \
not a regular expression: unterminated character set at position 0
recipe.yaml:12: rewards.2.keywords.0: found no; must be text; \
YAML takes no for a boolean: write 'no' with the quotes
recipe.yaml:14: rollout.num_generations: found 1; must be 2 or more
recipe.yaml:17: advantage.scale: found "batch"; allowed with estimator 'custom' only; \
remove it, or set advantage.estimator to 'custom' (found 'grpo')
recipe.yaml:20: train.steps: found twice; it is set on line 19 already; remove one
recipe.yaml:21: train.learning_rate: found fast; must be a number
recipe.yaml:22: train.optimizer: found adamw; must be a mapping with the key 'type'; write {{type: adamw}}
"""
"""What is said about them, a line each."""


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


def load_data(
    folder: Path, data: dict[str, Any], *overrides: str, note: Callable[[str], object] | None = None
) -> Recipe:
    """The recipe that `data`, written as YAML, makes."""
    return load_text(folder, yaml.safe_dump(data, sort_keys=False), *overrides, note=note)


def load_text(
    folder: Path, text: str | bytes, *overrides: str, note: Callable[[str], object] | None = None
) -> Recipe:
    """The recipe in `text`."""
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(path, overrides, note)


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
