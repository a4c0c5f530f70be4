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
from .yaml_lines import FLOAT

_HEADER = "# Resolved recipe, every default explicit, written by pgrpo {version}."
_VERSION = re.compile(re.escape(_HEADER).replace(re.escape("{version}"), r"(\S+)"))


_LEFT_TO_THE_DEVICE = (
    ("model", "compute_dtype"), ("rollout", "tokens_per_batch"), ("train", "tokens_per_micro_batch")
)  # fmt: skip
"""Keys that may be `auto`. The chosen values are stored in the run's paths.json."""


class _Absent:
    """Stands for a key that only the other recipe has."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


class _Dumper(yaml.SafeDumper):
    """Quotes texts that the reader of recipes would take for numbers."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def dump_resolved(recipe: Recipe) -> str:
    """YAML from which `load_resolved` makes an equal recipe; a comment names the version that wrote it."""
    body = yaml.dump(
        recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return f"{_HEADER.format(version=__version__)}\n{body}"


def written_by(path: Path) -> str | None:
    """The version of pgrpo that wrote the resolved recipe at `path`; None for a recipe written by hand."""
    with path.open(encoding="utf-8", errors="replace") as file:
        match = _VERSION.match(file.readline())
    return match[1].removesuffix(".") if match else None


def differing_keys(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """Dotted keys that differ, in the schema's order, with both values; ABSENT where one has no such key.

    Where and by which kernels a model computes is no difference, nor is what `b` leaves to the device.
    """
    values_a, values_b = _flat(_identity(a)), _flat(_identity(adopted(a, b)))
    keys = list(values_a) + [key for key in values_b if key not in values_a]
    pairs = [(key, values_a.get(key, ABSENT), values_b.get(key, ABSENT)) for key in keys]
    return [(key, left, right) for key, left, right in pairs if not _same(left, right)]


def adopted(before: Recipe, recipe: Recipe) -> Recipe:
    """The recipe with the values of the one `before` it where its own leave them to the device."""
    for section, key in _LEFT_TO_THE_DEVICE:
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
    return recipe.model_dump(mode="json", exclude={"model": {"device"}, "train": {"deterministic"}})


def _flat(value: Any, path: tuple[str | int, ...] = ()) -> dict[str, Any]:
    if isinstance(value, (dict, list)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, entry in items for key, leaf in _flat(entry, (*path, name)).items()}
    return {dotted(path): value}


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
