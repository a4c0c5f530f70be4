"""Which runs of a comparison are seeds of one method. Pure: recipes in, methods out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pgrpo_cli.errors import RunError

from .comparison_types import Method

# Recipe keys that change nothing about what a run learns.
IMMATERIAL = ("name", "log.", "eval.")
_SEED = "seed"


def flat_keys(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted key: {"a": {"b": [1]}} becomes {"a.b.0": 1}."""
    items: Any = (
        enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else None
    )
    if items is None or not value:
        return {prefix: value}
    start = f"{prefix}." if prefix else ""
    return {leaf: found for key, entry in items for leaf, found in flat_keys(entry, f"{start}{key}").items()}


def varying_keys(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys whose values differ between the recipes and bear on what a run learns."""
    flat = [flat_keys(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    return [
        key
        for key in keys
        if not key.startswith(IMMATERIAL) and any(recipe.get(key) != flat[0].get(key) for recipe in flat[1:])
    ]


def methods_of(
    labels: Sequence[str], recipes: Sequence[Mapping[str, Any]], by: Sequence[str] = ()
) -> tuple[list[Method], list[str]]:
    """The methods in the order of their first runs, and the keys that tell them apart.

    `by`: dotted recipe keys. Without any, runs that differ in nothing but `seed` are one method, if that
    leaves two or more, one of them has several, and none has a seed twice; else every run stands for itself
    and the keys are empty. Raises RunError for keys that no recipe has or that
    are equal everywhere.
    """
    flat = [flat_keys(recipe) for recipe in recipes]
    if by:
        _refuse_useless(flat, by)
        return _grouped(labels, flat, by), list(by)
    keys = [key for key in varying_keys(recipes) if key != _SEED]
    found = _grouped(labels, flat, keys) if keys else []
    shared = any(len(method.runs) > 1 for method in found)
    distinct = all(len(set(method.seeds)) == len(method.seeds) for method in found)
    if len(found) > 1 and shared and distinct:
        return found, keys
    return [
        Method(label=label, runs=[label], seeds=[_seed(recipe)])
        for label, recipe in zip(labels, flat, strict=True)
    ], []


def grouping_notes(
    methods: Sequence[Method], recipes: Mapping[str, Mapping[str, Any]], by: Sequence[str]
) -> list[str]:
    """What a reader must know of the grouping before believing differences; `recipes` by run label."""
    notes = []
    for method in methods:
        inside = [
            key for key in varying_keys([recipes[run] for run in method.runs]) if key not in (_SEED, *by)
        ]
        if inside:
            notes.append(f"{method.label}: its runs also differ in {', '.join(inside)}.")
        if by and len(set(method.seeds)) < len(method.seeds):
            notes.append(f"{method.label}: some of its runs have one seed and are no independent ones.")
    single = [method.label for method in methods if len(method.runs) == 1]
    if by and len(single) == len(methods):
        notes.append(
            "Every method has one seed: what another seed would have changed is not in the intervals."
        )
    elif by and single:
        notes.append(
            f"{', '.join(single)}: with one seed, taken to scatter over seeds like the method compared with."
        )
    elif not by and any(varying_keys(list(recipes.values()))):
        notes.append("One seed each: what another seed would have changed is not in the intervals.")
    return notes


def _grouped(labels: Sequence[str], flat: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Method]:
    members: dict[str, list[int]] = {}
    for index, recipe in enumerate(flat):
        members.setdefault(_name(recipe, keys), []).append(index)
    return [
        Method(label=name, runs=[labels[i] for i in found], seeds=[_seed(flat[i]) for i in found])
        for name, found in members.items()
    ]


def _name(recipe: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The values of the keys; a single text stands without its key."""
    if len(keys) == 1 and isinstance(recipe.get(keys[0]), str):
        return str(recipe[keys[0]])
    return ", ".join(f"{key}={recipe.get(key)}" for key in keys)


def _refuse_useless(flat: Sequence[Mapping[str, Any]], by: Iterable[str]) -> None:
    for key in by:
        values = {repr(recipe.get(key)) for recipe in flat}
        if not any(key in recipe for recipe in flat):
            raise RunError(
                f"--by {key}: the recipes have no such key",
                remedy="Name a key with a single value by its dotted name, such as advantage.estimator.",
            )
        if len(values) == 1:
            raise RunError(
                f"--by {key}: it is {values.pop()} in every run",
                remedy="Name a key in which the runs differ.",
            )


def _seed(recipe: Mapping[str, Any]) -> int:
    return int(recipe.get(_SEED, 0))
