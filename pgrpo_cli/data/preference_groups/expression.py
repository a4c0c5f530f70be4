"""Preference groups by a Jinja expression: in a sandbox where nothing can grow, loop or reach into Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pgrpo_cli.data.records import SourceRecord
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.preference_groups import ExpressionGroups

from .base import AssignContext, NoGroup, RowAssigner, group_name, require_columns

FILTERS = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "last", "length", "list", "lower",
    "max", "min", "sort", "string", "sum", "title", "trim", "unique", "upper",
)  # fmt: skip
METHODS = (
    "casefold", "endswith", "find", "get", "isdigit", "lower", "lstrip", "rstrip", "split", "startswith",
    "strip", "title", "upper",
)  # fmt: skip
MAX_TEXT = 100_000
"""Characters of a column that an expression sees."""
_MAX_FACTOR = 1e100
_MAX_EXPONENT = 64

_KEY = "data.preference_groups.expression"
_OWN_NAMES = ("columns", "user_id", "time", "preference_group")


def build_expression(section: ExpressionGroups, context: AssignContext) -> RowAssigner:
    """The name that the expression gives to a row. Raises RecipeError for what the sandbox does not know."""
    evaluate = _compiled(section.expression)
    columns = sorted(_variables(section.expression) - set(_OWN_NAMES))

    def group_of(record: SourceRecord) -> str:
        try:
            value = evaluate(**_seen(record))
        # An expression over strangers' rows raises what it likes: undefined names, types, security.
        except Exception as error:
            raise NoGroup("the expression fails", f"{type(error).__name__}: {error}") from error
        if isinstance(value, Undefined):
            raise NoGroup("the expression fails", value._undefined_message)
        return group_name(value, "the expression's result")

    def check(records: Sequence[SourceRecord]) -> None:
        require_columns(records, columns, _KEY)

    return RowAssigner(group_of, check)


def _seen(record: SourceRecord) -> dict[str, Any]:
    """The expression's variables."""
    columns = {
        name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in record.columns.items()
    }
    own = {"user_id": record.user_id, "time": record.time, "preference_group": record.preference_group}
    return {
        **columns,
        "columns": columns,
        **{name: value for name, value in own.items() if value is not None},
    }


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox without what takes unbounded memory or time."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False)
        self.globals.clear()
        self.filters = {name: self.filters[name] for name in FILTERS}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr in METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Not even the sandbox's own `str.format`: a width in it is an order for that much memory."""
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            raise SecurityError(f"{operator!r} is for numbers")
        if max(abs(left), abs(right)) > _MAX_FACTOR or (operator == "**" and abs(right) > _MAX_EXPONENT):
            raise SecurityError(f"the numbers of {operator!r} are too large")
        return super().call_binop(context, operator, left, right)


def _compiled(expression: str) -> Callable[..., Any]:
    try:
        return _Sandbox().compile_expression(expression, undefined_to_none=False)
    except (TemplateError, RecursionError, SyntaxError, MemoryError) as error:
        raise RecipeError(
            f"{_KEY}: {error}",
            remedy=f"Filters that work here: {', '.join(FILTERS)}.",
        ) from error


def _variables(expression: str) -> set[str]:
    """Names that the expression reads."""
    sandbox = _Sandbox()
    node = Parser(sandbox, expression, state="variable").parse_expression()
    output = nodes.Output([node], lineno=1)
    template = nodes.Template([output], lineno=1)
    template.set_environment(sandbox)
    return meta.find_undeclared_variables(template)
