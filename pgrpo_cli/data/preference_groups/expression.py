"""Preference groups by a Jinja expression, in the sandbox of a recipe's templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgrpo_cli.data.records import SourceRecord
from pgrpo_cli.data.row_problem import RowProblem, preference_group_name
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.preference_groups import ExpressionGroups
from pgrpo_cli.recipe.templates import Expression, TemplateProblem

from .base import AssignContext, RowAssigner, require_columns

_KEY = "data.preference_groups.expression"
_OWN_NAMES = ("columns", "user_id", "time", "preference_group")


def build_expression(section: ExpressionGroups, context: AssignContext) -> RowAssigner:
    """The name that the expression gives to a row. Raises RecipeError for what the sandbox does not know."""
    try:
        expression = Expression(section.expression)
    except TemplateProblem as problem:
        raise RecipeError(f"{_KEY}: {problem}", remedy="Correct the expression.") from problem
    columns = sorted(expression.variables.difference(_OWN_NAMES))

    def group_of(record: SourceRecord) -> str:
        try:
            value = expression.evaluate(_seen(record))
        except TemplateProblem as problem:
            if problem.exhausted:
                raise RecipeError(f"{_KEY}: {problem}", remedy="Simplify the expression.") from problem
            raise RowProblem("the expression fails", str(problem)) from problem
        return preference_group_name(value, "the expression's result")

    def check(records: Sequence[SourceRecord]) -> None:
        require_columns(records, columns, _KEY)

    return RowAssigner(group_of, check)


def _seen(record: SourceRecord) -> dict[str, Any]:
    """The expression's variables."""
    columns = dict(record.columns)
    own = {"user_id": record.user_id, "time": record.time, "preference_group": record.preference_group}
    return {
        **columns,
        "columns": columns,
        **{name: value for name, value in own.items() if value is not None},
    }
