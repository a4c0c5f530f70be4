"""Preference groups from one look at a row: as it names it, by a number, by its user, by lot, by an
expression, or by a function that an installed package brings.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pgrpo_cli.data.records import PromptRecord, text_key
from pgrpo_cli.data.row_problem import RowProblem, preference_group_name, shown
from pgrpo_cli.errors import DataError, RecipeError
from pgrpo_cli.plugins import build_from_entry_point
from pgrpo_cli.recipe.data import (
    BinsGroups,
    ColumnGroups,
    ExpressionGroups,
    PluginGroups,
    RandomGroups,
    UserGroups,
)
from pgrpo_cli.recipe.templates import Expression, TemplateProblem
from pgrpo_cli.seeding import derive_seed

from .base import AssignContext, RowAssigner, require_columns, require_users, user_of

_EXPRESSION = "data.preference_groups.expression"
_OWN_NAMES = ("columns", "user_id", "time", "preference_group")
ENTRY_POINT_GROUP = "pgrpo.preference_groups"


def build_column(section: ColumnGroups, context: AssignContext) -> RowAssigner:
    """The preference group that the source found in the row."""

    def group_of(record: PromptRecord) -> str:
        if record.preference_group is None:
            raise RowProblem("no preference group", "the row names none")
        return record.preference_group

    def check(records: Sequence[PromptRecord]) -> None:
        if records and all(record.preference_group is None for record in records):
            raise DataError(
                f"no row of the source (type {context.source!r}) names a preference group",
                remedy="Set data.preference_groups to another type: cluster, user, expression, bins, random.",
            )

    return RowAssigner(group_of, check)


def build_bins(section: BinsGroups, context: AssignContext) -> RowAssigner:
    """The interval that the row's number falls into; an interval holds its lower edge."""
    names = section.names or interval_names(section.column, section.edges)

    def group_of(record: PromptRecord) -> str:
        value = record.values.get(section.column)
        number = _number(value)
        if number is None:
            raise RowProblem("no number to bin", f"column {section.column!r} is {shown(value)}")
        return preference_group_name(names[bisect_right(section.edges, number)], "the name of the interval")

    return RowAssigner(
        group_of,
        lambda records: require_columns(records, [section.column], "data.preference_groups.column"),
    )


def interval_names(column: str, edges: Sequence[float]) -> tuple[str, ...]:
    """`x < 1`, `1 <= x < 2`, `x >= 2` for edges 1 and 2: ASCII, so that they can be typed."""
    cuts = [f"{edge:.12g}" for edge in edges]
    between = [f"{low} <= {column} < {high}" for low, high in pairwise(cuts)]
    return (f"{column} < {cuts[0]}", *between, f"{column} >= {cuts[-1]}")


def _number(value: Any) -> float | None:
    """A finite number, also where it is written as text (CSV knows nothing else)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def build_user(section: UserGroups, context: AssignContext) -> RowAssigner:
    """One preference group a user."""
    return RowAssigner(
        lambda record: preference_group_name(user_of(record), "the user's id"),
        lambda records: require_users(records, section.type),
    )


def build_random(section: RandomGroups, context: AssignContext) -> RowAssigner:
    """A seeded hash of the user, or of the text of a prompt without one: no order of rows matters."""
    digits = len(str(section.count))

    def group_of(record: PromptRecord) -> str:
        whose = ("user", record.user_id) if record.user_id is not None else ("text", text_key(record))
        drawn = derive_seed(context.seed, "random preference group", *whose) % section.count
        return f"random-{drawn + 1:0{digits}d}"

    return RowAssigner(group_of)


def build_expression(section: ExpressionGroups, context: AssignContext) -> RowAssigner:
    """The name that the expression gives to a row. Raises RecipeError where it takes too long for one."""
    expression = Expression(section.expression)
    columns = sorted(expression.variables.difference(_OWN_NAMES))

    def group_of(record: PromptRecord) -> str:
        try:
            value = expression.evaluate(_seen(record))
        except TemplateProblem as problem:
            if problem.exhausted:
                raise RecipeError(f"{_EXPRESSION}: {problem}", remedy="Simplify the expression.") from problem
            raise RowProblem("the expression fails", str(problem)) from problem
        return preference_group_name(value, "the expression's result")

    def check(records: Sequence[PromptRecord]) -> None:
        require_columns(records, columns, _EXPRESSION)

    return RowAssigner(group_of, check)


def _seen(record: PromptRecord) -> dict[str, Any]:
    """The expression's variables."""
    columns = dict(record.values)
    if columns.get("preference_group", "") is None:
        # As in a row without the column, so that `default` gives it a name.
        del columns["preference_group"]
    own = {"user_id": record.user_id, "time": record.time, "preference_group": record.preference_group}
    return {
        **columns,
        "columns": columns,
        **{name: value for name, value in own.items() if value is not None},
    }


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

    def group_of(record: PromptRecord) -> str:
        try:
            value = function(record)
        except (Exception, SystemExit) as error:
            raise RowProblem("the plug-in fails", f"{type(error).__name__}: {error}") from error
        return preference_group_name(value, f"the result of {named}")

    return RowAssigner(group_of)
