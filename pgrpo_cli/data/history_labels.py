"""Whose reward history a prompt's rewards enter: its preference group's, or that of one drawn by chance."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pgrpo_cli.recipe.training import HistorySection
from pgrpo_cli.seeding import derive_seed

from .records import PreparedPrompt


class HistoryLabels:
    """The labels under which histories of rewards are kept.

    With `history.preference_groups: named` it is the prompt's preference group. With `random` the prompts
    are shared out by chance among as many preference groups of the same sizes, `random-1` and so on in the
    alphabetical order of those they have the sizes of. Who shares a history is a function of the seed and
    the training prompts, so a resumed run shares out as before.
    """

    def __init__(self, section: HistorySection, prompts: Sequence[PreparedPrompt], seed: int) -> None:
        self._drawn = _drawn(prompts, seed) if section.preference_groups == "random" else None

    @property
    def random(self) -> bool:
        """Whether they are drawn."""
        return self._drawn is not None

    def of(self, prompts_P: Sequence[PreparedPrompt]) -> list[str]:
        """The label of each training prompt, [P]."""
        if self._drawn is None:
            return [prompt.preference_group for prompt in prompts_P]
        return [self._drawn[prompt.prompt_id] for prompt in prompts_P]


def _drawn(prompts: Sequence[PreparedPrompt], seed: int) -> Mapping[str, str]:
    """The label of each prompt by its id."""
    names = sorted({prompt.preference_group for prompt in prompts})
    numbers = {name: f"random-{number}" for number, name in enumerate(names, 1)}
    ordered = sorted(prompts, key=lambda prompt: prompt.prompt_id)
    labels = [numbers[prompt.preference_group] for prompt in ordered]
    random.Random(derive_seed(seed, "random preference groups")).shuffle(labels)
    return {prompt.prompt_id: label for prompt, label in zip(ordered, labels, strict=True)}
