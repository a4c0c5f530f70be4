"""Preference groups that an installed package brings, found by entry point."""

from __future__ import annotations

from importlib.metadata import entry_points

from pgrpo_cli.data.records import SourceRecord
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.preference_groups import PluginGroups
from pgrpo_cli.registry import nearest

from .base import AssignContext, NoGroup, RowAssigner, group_name

ENTRY_POINT_GROUP = "pgrpo.preference_groups"


def build_plugin(section: PluginGroups, context: AssignContext) -> RowAssigner:
    """Load the entry point and call it with the options; it returns the function. Raises RecipeError."""
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if section.plugin not in known:
        registered = ", ".join(sorted(known)) or "none"
        near = nearest(section.plugin, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise RecipeError(
            f"data.preference_groups: no installed package registers {section.plugin!r} "
            f"under the entry point group {ENTRY_POINT_GROUP!r}{hint}",
            remedy=f"Install the package that brings it (registered now: {registered}).",
        )
    entry = known[section.plugin]
    named = f"plug-in {section.plugin!r} ({entry.value})"
    try:
        function = entry.load()(**section.options)
    except Exception as error:
        raise RecipeError(
            f"data.preference_groups: building {named} raised {type(error).__name__}: {error}",
            remedy="Check `options` against the plug-in's documentation.",
        ) from error
    if not callable(function):
        raise RecipeError(
            f"data.preference_groups: {named} made a {type(function).__name__}, which cannot be called",
            remedy="The entry point returns a function from a record to the name of its preference group.",
        )

    def group_of(record: SourceRecord) -> str:
        try:
            value = function(record)
        except Exception as error:
            raise NoGroup("the plug-in fails", f"{type(error).__name__}: {error}") from error
        return group_name(value, f"the result of {named}")

    return RowAssigner(group_of)
