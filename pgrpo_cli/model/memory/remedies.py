"""What to change in a recipe so that it takes less memory, and how much less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgrpo_cli.recipe.schema import Recipe

from .plan import MemoryPlan
from .planner import Planner

_WORTHWHILE = 0.02
"""Share of the peak that a change must save to be worth naming."""


@dataclass(frozen=True)
class Remedy:
    """Changes of a recipe in the form of `--set`, and the plan of the changed recipe."""

    changes: tuple[str, ...]
    plan: MemoryPlan


def remedies(planner: Planner, recipe: Recipe, plan: MemoryPlan, room: int) -> list[Remedy]:
    """Changes that lower the peak of `plan`: each by itself, and finally all of them together. `room`: the
    bytes of the device, for budgets that are `auto`.

    Except for quantization and 8-bit optimizer states, no change affects the results by more than rounding.
    """
    found: list[Remedy] = []
    together, changes = recipe, []
    for path, value, text in _changes(recipe):
        alone = planner.plan(_changed(recipe, path, value), plan.device, room)
        if alone.peak <= (1 - _WORTHWHILE) * plan.peak:
            change = f"{'.'.join(path)}={text}"
            found.append(Remedy((change,), alone))
            changes.append(change)
            together = _changed(together, path, value)
    if len(found) > 1:
        found.append(Remedy(tuple(changes), planner.plan(together, plan.device, room)))
    return found


def _changes(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """The path of each key, its new value, and that value as YAML."""
    if recipe.model.quantization.type == "none" and recipe.model.id != "random":
        yield ("model", "quantization"), {"type": "nf4"}, "{type: nf4}"
    if recipe.model.compute_dtype == "float32":
        yield ("model", "compute_dtype"), "auto", "auto"
    if not recipe.train.gradient_checkpointing:
        yield ("train", "gradient_checkpointing"), True, "true"
    for section, key in (("train", "tokens_per_micro_batch"), ("rollout", "tokens_per_batch")):
        tokens = getattr(getattr(recipe, section), key)
        if tokens != "auto":
            quarter = max(1, tokens // 4)
            yield (section, key), quarter, str(quarter)
    if recipe.train.optimizer.type == "adamw":
        yield ("train", "optimizer", "type"), "adamw_8bit", "adamw_8bit"


def _changed(recipe: Recipe, path: tuple[str, ...], value: Any) -> Recipe:
    data = recipe.model_dump(mode="json")
    section = data
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return Recipe.model_validate(data)
