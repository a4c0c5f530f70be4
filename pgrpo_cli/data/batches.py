"""Which prompts a step trains on: a function of seed and step alone, so a resumed run needs no replay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from pgrpo_cli.seeding import derive_seed

from .records import PreparedPrompt

Sampler = Literal["proportional", "balanced"]


@dataclass(frozen=True)
class Batches:
    """The prompts of each step, `prompts_per_step` of them.

    - `proportional`: every epoch is a permutation of all prompts, so the more prompts a preference group has,
      the more often it is sampled.
    - `balanced`: every round is a permutation of the preference groups and takes one prompt of each. Each
      preference group goes through its own prompts in epochs; one with few prompts repeats them sooner.

    A batch may span two epochs or rounds.
    """

    prompts: Sequence[PreparedPrompt]
    prompts_per_step: int
    seed: int
    sampler: Sampler = "proportional"

    def at(self, step: int) -> list[PreparedPrompt]:
        """The prompts of a step; steps count from 1. Raises ValueError for a step or a size below 1, or for
        no prompts.
        """
        if step < 1 or self.prompts_per_step < 1 or not self.prompts:
            raise ValueError(
                f"no batch for step {step} of {self.prompts_per_step} out of {len(self.prompts)} prompts"
            )
        first = (step - 1) * self.prompts_per_step
        choose = self._balanced if self.sampler == "balanced" else self._proportional
        return [choose(position) for position in range(first, first + self.prompts_per_step)]

    def _proportional(self, position: int) -> PreparedPrompt:
        epoch, offset = divmod(position, len(self.prompts))
        return self.prompts[_permutation(len(self.prompts), self.seed, "batches", epoch)[offset]]

    def _balanced(self, position: int) -> PreparedPrompt:
        names = self._preference_groups
        turn, offset = divmod(position, len(names))
        name = names[_permutation(len(names), self.seed, "preference groups", turn)[offset]]
        own = self._prompts_of[name]
        epoch, place = divmod(turn, len(own))
        return own[_permutation(len(own), self.seed, f"prompts of {name}", epoch)[place]]

    @cached_property
    def _prompts_of(self) -> dict[str, list[PreparedPrompt]]:
        found: dict[str, list[PreparedPrompt]] = {}
        for prompt in self.prompts:
            found.setdefault(prompt.preference_group, []).append(prompt)
        return found

    @cached_property
    def _preference_groups(self) -> list[str]:
        return sorted(self._prompts_of)


@lru_cache(maxsize=64)
def _permutation(size: int, seed: int, purpose: str, number: int) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(derive_seed(seed, purpose, number)).shuffle(order)
    return tuple(order)
