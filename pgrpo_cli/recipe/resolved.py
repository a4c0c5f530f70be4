"""Recipes as a run keeps them: every default explicit, comparable, hashed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from pgrpo_cli import __version__

from .messages import dotted
from .schema import Recipe
from .yaml_lines import RESOLVERS

_HEADER = "# Resolved recipe, every default explicit, written by pgrpo {version}."
_VERSION = re.compile(re.escape(_HEADER).replace(re.escape("{version}"), r"(\S+)"))


_MAY_BE_AUTO = (
    ("model", "compute_dtype"), ("rollout", "tokens_per_batch"), ("train", "tokens_per_micro_batch"),
    ("loss", "aggregation"),
)  # fmt: skip
"""Keys of which a run keeps the value that it began with. The first three are chosen by the device and are in
paths.json; the last follows from the estimator and is stored in the resolved recipe."""


class _Absent:
    """Stands for a key that only the other recipe has."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


class _Dumper(yaml.SafeDumper):
    """Quotes texts, keys too, that the reader of recipes would take for something else."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML reads a next-line character as a line break unless it is escaped, which double quotes do.
    style = '"' if "\x85" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
for _tag, _pattern, _first in RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def dump_resolved(recipe: Recipe) -> str:
    """YAML from which `load_resolved` makes `with_aggregation` of the recipe.

    Comments name the version that wrote it, and say why the loss is aggregated as it is.
    """
    taken = with_aggregation(recipe)
    return f"{_HEADER.format(version=__version__)}\n{_reason(taken)}{as_yaml(taken.model_dump(mode='json'))}"


def as_yaml(values: dict[str, Any]) -> str:
    """YAML that the reader of recipes takes for the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def with_aggregation(recipe: Recipe) -> Recipe:
    """The recipe with the aggregation of the loss that `auto` stands for."""
    return recipe.model_copy(update={"loss": recipe.resolved_loss})


def _reason(recipe: Recipe) -> str:
    """Why `auto` stands for the recipe's aggregation of the loss; nothing if the recipe has another one."""
    estimator = recipe.advantage.resolved_estimator
    if recipe.loss.aggregation != estimator.aggregation:
        return ""
    why = (
        "every prompt's advantages have mean 0"
        if estimator.centered
        else "the mean of advantages is above 0, which sequence_mean turns into a push towards short answers"
    )
    return (
        f"# loss.aggregation: auto stands for {estimator.aggregation} here. The baseline is "
        f"{estimator.baseline}:\n# {why}.\n"
    )


def written_by(path: Path) -> str | None:
    """The version of pgrpo that wrote the resolved recipe at `path`; None for a recipe written by hand."""
    with path.open(encoding="utf-8", errors="replace") as file:
        match = _VERSION.match(file.readline())
    return match[1].removesuffix(".") if match else None


def differing_keys(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """Dotted keys that differ, in the schema's order, with both values; ABSENT where one has no such key.

    Where and by which kernels a model computes is no difference, nor is what `b` leaves open (`auto`).
    """
    a = with_aggregation(a)
    values_a, values_b = _flat(_identity(a)), _flat(_identity(adopted(a, b)))
    keys = list(values_a) + [key for key in values_b if key not in values_a]
    pairs = [(key, values_a.get(key, ABSENT), values_b.get(key, ABSENT)) for key in keys]
    return [(key, left, right) for key, left, right in pairs if not _same(left, right)]


def adopted(before: Recipe, recipe: Recipe) -> Recipe:
    """The recipe with the values of the one `before` it where its own are `auto`."""
    for section, key in _MAY_BE_AUTO:
        if getattr(getattr(recipe, section), key) == "auto":
            recipe = with_value(recipe, section, key, getattr(getattr(before, section), key))
    return recipe


def with_value(recipe: Recipe, section: str, key: str, value: Any) -> Recipe:
    """The recipe with another value of a key of a section."""
    changed = getattr(recipe, section).model_copy(update={key: value})
    return recipe.model_copy(update={section: changed})


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256, in hexadecimal, of everything in the recipe but where, and by which kernels, it is computed.

    It is equal for equal recipes, however written.
    """
    canonical = json.dumps(_identity(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _identity(recipe: Recipe) -> dict[str, Any]:
    """The values that distinguish this recipe from others."""
    taken = with_aggregation(recipe)
    return taken.model_dump(mode="json", exclude={"model": {"device"}, "train": {"deterministic"}})


def _flat(value: Any, path: tuple[str | int, ...] = ()) -> dict[str, Any]:
    if isinstance(value, (dict, list)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, entry in items for key, leaf in _flat(entry, (*path, name)).items()}
    return {dotted(path): value}


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
