"""Rewards that an installed package brings, found by entry point."""

from __future__ import annotations

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.plugins import build_from_entry_point
from pgrpo_cli.recipe.reward_code import PluginReward

from .base import AsyncRewardFunction, BuildContext, RewardFunction

ENTRY_POINT_GROUP = "pgrpo.rewards"


def build_plugin(section: PluginReward, context: BuildContext) -> RewardFunction | AsyncRewardFunction:
    """Load the entry point and call it with the options; it returns the reward.

    Raises RecipeError unless code is allowed and it makes a reward.
    """
    where = f"reward {section.label!r}"
    reward, named = build_from_entry_point(
        ENTRY_POINT_GROUP, section.plugin, section.options, where=where, allow_code=context.allow_code
    )
    if not isinstance(reward, RewardFunction) or not callable(reward):
        raise RecipeError(
            f"{where}: {named} made a {type(reward).__name__}, which is no reward",
            remedy="A reward has `parts`, `value_range` and is called with a list of completions.",
        )
    return reward
