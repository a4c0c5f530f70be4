"""Jinja templates of a recipe, which may come from a stranger."""

from __future__ import annotations

from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

_PADDING_METHODS = frozenset(["center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"])
_PADDING_FILTERS = ("batch", "center", "format", "indent", "slice", "wordwrap")


class Sandbox(ImmutableSandboxedEnvironment):
    """Without what makes a long text, or a long loop, of a short template: powers, repetition, padding,
    ranges.

    Loops over the data that a completion brings remain; their time is not bounded.
    """

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined)
        self.globals.clear()
        for name in _PADDING_FILTERS:
            del self.filters[name]

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(
                f"{operator!r} is not for a {type(left).__name__} and a {type(right).__name__}"
            )
        return left * right if operator == "*" else left % right

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _PADDING_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` pads too: it is looked up, and refused, like any other method."""


def variables_of(template: str) -> set[str]:
    """Variables that a template takes from outside. ValueError if it is no template."""
    sandbox = Sandbox()
    try:
        sandbox.from_string(template)
        return meta.find_undeclared_variables(sandbox.parse(template))
    except TemplateSyntaxError as error:
        raise ValueError(f"no Jinja template: line {error.lineno}: {error.message}") from error
