"""Which prompts a step trains on: a function of seed and step alone, so a resumed run needs no replay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from pgrpo_cli.seeding import derive_seed

from .records import PreparedPrompt


def batch_at(
    prompts: Sequence[PreparedPrompt], step: int, prompts_per_step: int, seed: int
) -> list[PreparedPrompt]:
    """The `prompts_per_step` prompts of a step; steps count from 1.

    Every epoch is a permutation of all prompts, seeded by (seed, epoch); a batch may span two epochs. Raises
    ValueError for a step or a size below 1, or for no prompts.
    """
    if step < 1 or prompts_per_step < 1 or not prompts:
        raise ValueError(f"no batch for step {step} of {prompts_per_step} out of {len(prompts)} prompts")
    first = (step - 1) * prompts_per_step
    chosen = []
    for position in range(first, first + prompts_per_step):
        epoch, offset = divmod(position, len(prompts))
        chosen.append(prompts[_permutation(len(prompts), seed, epoch)[offset]])
    return chosen


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(derive_seed(seed, "batches", epoch)).shuffle(order)
    return tuple(order)
