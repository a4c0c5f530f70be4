"""Preference groups that an installed package brings, found by entry point."""

from __future__ import annotations

from pgrpo_cli.data.records import SourceRecord
from pgrpo_cli.data.row_problem import RowProblem, preference_group_name
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.plugins import build_from_entry_point
from pgrpo_cli.recipe.preference_groups import PluginGroups

from .base import AssignContext, RowAssigner

ENTRY_POINT_GROUP = "pgrpo.preference_groups"


def build_plugin(section: PluginGroups, context: AssignContext) -> RowAssigner:
    """Load the entry point and call it with the options; it returns the function.

    Raises RecipeError unless code is allowed and it makes a function.
    """
    where, allow_code = "data.preference_groups", context.allow_code
    function, named = build_from_entry_point(
        ENTRY_POINT_GROUP, section.plugin, section.options, where=where, allow_code=allow_code
    )
    if not callable(function):
        raise RecipeError(
            f"data.preference_groups: {named} made a {type(function).__name__}, which cannot be called",
            remedy="The entry point returns a function from a record to the name of its preference group.",
        )

    def group_of(record: SourceRecord) -> str:
        try:
            value = function(record)
        except (Exception, SystemExit) as error:
            raise RowProblem("the plug-in fails", f"{type(error).__name__}: {error}") from error
        return preference_group_name(value, f"the result of {named}")

    return RowAssigner(group_of)
