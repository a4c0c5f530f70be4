"""Token budgets for `auto`: the largest useful ones that fit according to the memory plan.

Rollouts get as few batches as possible. Decoding reads all weights for every token of a batch, and every
batch captures CUDA graphs of its own. Updates get less: beyond some thousand tokens a micro-batch is hardly
faster, and its memory is then not available for the buffers and graphs that rollouts keep from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pgrpo_cli.recipe.resolved import with_value
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.training import TOKENS_PER_BATCH, TOKENS_PER_MICRO_BATCH

from ..rollout.workspace import fits_beside_updates
from .plan import OVERHEADS, Device, MemoryPlan

_LARGEST_MICRO_BATCH = 16384
"""More tokens than this do not make an update on a GPU faster."""

PlanOf = Callable[[Recipe], MemoryPlan]
"""Makes the plan of a recipe on a GPU. The recipe's budgets must be numbers."""


def fitted(recipe: Recipe, device: Device, room: int, longest_prompt: int, plan: PlanOf) -> Recipe:
    """The recipe with numbers in place of `auto`, so that it fits into `room` bytes if that is possible."""
    if device == "cpu":
        return with_budgets(recipe, TOKENS_PER_BATCH, TOKENS_PER_MICRO_BATCH)
    if recipe.rollout.tokens_per_batch == "auto":
        recipe = _batches_fitted(recipe, room, longest_prompt, plan)
    if recipe.train.tokens_per_micro_batch == "auto":
        recipe = _micro_batches_fitted(recipe, room, longest_prompt, plan)
    return recipe


def with_budgets(recipe: Recipe, per_batch: int | None, per_micro_batch: int | None) -> Recipe:
    """The recipe with these numbers in place of `auto`."""
    if recipe.rollout.tokens_per_batch == "auto":
        recipe = with_value(recipe, "rollout", "tokens_per_batch", per_batch)
    if recipe.train.tokens_per_micro_batch == "auto":
        recipe = with_value(recipe, "train", "tokens_per_micro_batch", per_micro_batch)
    return recipe


def _batches_fitted(recipe: Recipe, room: int, longest: int, plan: PlanOf) -> Recipe:
    """Cut a step's prompts into the fewest equal batches that fit, at worst one prompt per batch."""
    P, G, T = (
        recipe.train.prompts_per_step, recipe.rollout.num_generations, recipe.rollout.max_completion_tokens
    )  # fmt: skip
    whole = longest + G * T

    def in_batches(count: int) -> Recipe:
        return with_value(recipe, "rollout", "tokens_per_batch", math.ceil(P / count) * whole)

    # Only the rollout is checked here, so the update's budget may be any number.
    def fits(count: int) -> bool:
        trial = with_value(in_batches(count), "train", "tokens_per_micro_batch", 1)
        return _fits(plan(trial), "rollout", room)

    return in_batches(_least(fits, P))


def _micro_batches_fitted(recipe: Recipe, room: int, longest: int, plan: PlanOf) -> Recipe:
    """The largest number of whole rows per micro-batch with which rollouts can still keep their buffers. If
    the buffers do not fit beside even one row, the largest micro-batch that fits without them; if none fits,
    one completion at a time.
    """
    G, T = recipe.rollout.num_generations, recipe.rollout.max_completion_tokens
    row = longest + G * (T - 1)
    rows = max(1, min(recipe.train.prompts_per_step, _LARGEST_MICRO_BATCH // row))
    # From large to small: some rows, then one row with fewer and fewer completions.
    sizes = [row * n for n in range(rows, 0, -1)] + [longest + n * (T - 1) for n in range(G - 1, 0, -1)]

    def of_size(place: int) -> Recipe:
        return with_value(recipe, "train", "tokens_per_micro_batch", sizes[place - 1])

    def beside_buffers(place: int) -> bool:
        found = plan(of_size(place))
        return found.peak <= room and fits_beside_updates(found.kept_buffers, found.tensors, room)

    def alone(place: int) -> bool:
        return _fits(plan(of_size(place)), "update", room)

    place = _least(beside_buffers, rows)
    return of_size(place if beside_buffers(place) else _least(alone, len(sizes)))


def _fits(plan: MemoryPlan, name: str, room: int) -> bool:
    (tensors,) = (phase.total for phase in plan.phases if phase.name == name)
    return OVERHEADS["cuda"].with_tensors(tensors) <= room


def _least(holds: Callable[[int], bool], most: int) -> int:
    """The smallest number from 1 to `most` for which `holds` is true, by bisection; `most` if there is none.

    `holds` must be monotonic: true from some number on.
    """
    low, high = 1, most
    if holds(low):
        return low
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
