"""Who the model may be asked as: what stands before the question, by preference group."""

from __future__ import annotations

from collections.abc import Sequence

from pgrpo_cli.data.conditioning.presets import Preset, group_preset, plain_preset, preference_groups_of
from pgrpo_cli.eval.targets import EvalTarget

MOST = 100
"""Preference groups that get a preset: the largest."""


def presets_of(target: EvalTarget) -> tuple[list[Preset], int]:
    """A preset for each preference group, the largest first, and how many more groups there are."""
    names = preference_groups_of(target.run.path)
    found = [group_preset(target.run.path, target.recipe, name) for name in names[:MOST]]
    return found, len(names) - len(found)


def default_preset(target: EvalTarget) -> Preset:
    """For whoever is of no preference group."""
    return plain_preset(target.recipe)


def as_json(presets: Sequence[Preset]) -> dict[str, object]:
    """Preference group to its messages, and whose they are."""
    return {
        str(preset.preference_group): {"messages": list(preset.messages), "origin": preset.origin}
        for preset in presets
    }
