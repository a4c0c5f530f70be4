"""Groups the runs of a comparison into methods: runs of one method differ only in their seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pgrpo_cli.errors import RunError

from .comparison import Method

# Recipe keys that do not change what a run learns.
IMMATERIAL = ("name", "log.", "eval.")
_SEED = "seed"
_FOLLOWS = "loss.aggregation"
"""What a recipe leaves open here follows from its estimator."""


def flat_keys(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted key: {"a": {"b": [1]}} becomes {"a.b.0": 1}."""
    items: Any = (
        enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else None
    )
    if items is None or not value:
        return {prefix: value}
    start = f"{prefix}." if prefix else ""
    return {leaf: inner for key, entry in items for leaf, inner in flat_keys(entry, f"{start}{key}").items()}


def varying_keys(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys whose values differ between the recipes and can change what a run learns."""
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
    """The methods in the order of their first runs, and the recipe keys in which they differ.

    `by`: dotted recipe keys that define a method; RunError for keys that no recipe has or that have one value
    in all runs. Without `by`, runs that differ only in `seed` are one method, if there are then at least two
    methods, one of them has several runs, and none has the same seed twice. Otherwise every run is a method
    of its own, and there are no keys.
    """
    flat = [flat_keys(recipe) for recipe in recipes]
    if by:
        _refuse_useless(flat, by)
        return _grouped(labels, flat, by), list(by)
    keys = [key for key in varying_keys(recipes) if key != _SEED]
    methods = _grouped(labels, flat, keys) if keys else []
    fewer = [key for key in keys if key != _FOLLOWS]
    if fewer and len(shorter := _grouped(labels, flat, fewer)) == len(methods):
        methods = shorter
    several = any(len(method.runs) > 1 for method in methods)
    distinct = all(len(set(method.seeds)) == len(method.seeds) for method in methods)
    if len(methods) > 1 and several and distinct:
        return methods, keys
    return [
        Method(label=label, runs=[label], seeds=[_seed(recipe)])
        for label, recipe in zip(labels, flat, strict=True)
    ], []


def grouping_notes(
    methods: Sequence[Method], recipes: Mapping[str, Mapping[str, Any]], by: Sequence[str]
) -> list[str]:
    """Warnings about the grouping that a reader of the differences needs. `recipes`: by label of the run."""
    notes = []
    for method in methods:
        inside = [
            key for key in varying_keys([recipes[run] for run in method.runs]) if key not in (_SEED, *by)
        ]
        if inside:
            notes.append(f"{method.label}: its runs also differ in {', '.join(inside)}.")
        if by and len(set(method.seeds)) < len(method.seeds):
            notes.append(f"{method.label}: some of its runs have the same seed, so they are not independent.")
    single = [method.label for method in methods if len(method.runs) == 1]
    if by and len(single) == len(methods):
        notes.append("Every method has one seed: the intervals do not include the variation between seeds.")
    elif by and single:
        notes.append(
            f"{', '.join(single)}: only one seed; its variance between seeds is assumed to equal that of the "
            "method it is compared with."
        )
    elif not by and any(varying_keys(list(recipes.values()))):
        notes.append("One seed each: the intervals do not include the variation between seeds.")
    return notes


def _grouped(labels: Sequence[str], flat: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Method]:
    members: dict[str, list[int]] = {}
    for index, recipe in enumerate(flat):
        members.setdefault(_name(recipe, keys), []).append(index)
    return [
        Method(label=name, runs=[labels[i] for i in indices], seeds=[_seed(flat[i]) for i in indices])
        for name, indices in members.items()
    ]


def _name(recipe: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The keys with their values; the value alone if there is one key and its value is a text."""
    if len(keys) == 1 and isinstance(recipe.get(keys[0]), str):
        return str(recipe[keys[0]])
    return ", ".join(f"{key}={recipe.get(key)}" for key in keys)


def _refuse_useless(flat: Sequence[Mapping[str, Any]], by: Iterable[str]) -> None:
    for key in by:
        values = {repr(recipe.get(key)) for recipe in flat}
        if not any(key in recipe for recipe in flat):
            raise RunError(
                f"--by {key}: no recipe has this key",
                remedy="Name a key with a single value by its dotted name, such as advantage.estimator.",
            )
        if len(values) == 1:
            raise RunError(
                f"--by {key}: its value is {values.pop()} in every run",
                remedy="Name a key in which the runs differ.",
            )


def _seed(recipe: Mapping[str, Any]) -> int:
    return int(recipe.get(_SEED, 0))
