"""Rewards that an installed package brings, found by entry point."""

from __future__ import annotations

from importlib.metadata import entry_points

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.reward_code import PluginReward
from pgrpo_cli.registry import nearest

from .base import AsyncRewardFunction, BuildContext, RewardFunction

ENTRY_POINT_GROUP = "pgrpo.rewards"


def build_plugin(section: PluginReward, context: BuildContext) -> RewardFunction | AsyncRewardFunction:
    """Load the entry point and call it with the options; it returns the reward. Raises RecipeError."""
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if section.plugin not in known:
        registered = ", ".join(sorted(known)) or "none"
        near = nearest(section.plugin, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise RecipeError(
            f"reward {section.label!r}: no installed package registers {section.plugin!r} "
            f"under the entry point group {ENTRY_POINT_GROUP!r}{hint}",
            remedy=f"Install the package that brings it (registered now: {registered}).",
        )
    entry = known[section.plugin]
    try:
        reward = entry.load()(**section.options)
    except Exception as error:
        raise RecipeError(
            f"reward {section.label!r}: building plug-in {section.plugin!r} ({entry.value}) raised "
            f"{type(error).__name__}: {error}",
            remedy="Check `options` against the plug-in's documentation.",
        ) from error
    if not isinstance(reward, RewardFunction) or not callable(reward):
        raise RecipeError(
            f"reward {section.label!r}: plug-in {section.plugin!r} ({entry.value}) "
            f"made a {type(reward).__name__}, which is no reward",
            remedy="A reward has `parts`, `value_range` and is called with a list of completions.",
        )
    return reward
