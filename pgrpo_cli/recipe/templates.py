"""Jinja templates of a recipe: a small, bounded part of the language, sandboxed.

A recipe may come from a stranger and rows may be hostile, so that a template can neither reach Python nor
take much time or memory: it has no macros, includes or recursion, makes no list that grows, calls a fixed
set of filters and methods, and has bounds on loop passes, filter calls and text (template_filters.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .template_filters import FILTERS, MAX_CHARACTERS, Budget, TemplateProblem, as_text, short, small

MAX_TEMPLATE = 20_000
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"endswith", "lower", "lstrip", "rstrip", "split", "splitlines", "startswith", "strip", "upper"}
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
}
_METHOD_NAMES = frozenset().union(*METHODS.values())
_STATEMENTS = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.For,
    nodes.Assign,
    nodes.With,
)
_CONSTANTS = (nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Neg)
_EXPRESSIONS = (
    *(nodes.Name, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Pos),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
)
# Filters that a template cannot name.
_COUNTED, _TEXT, _SHORT = " counted", " text", " short"


class RowTemplate:
    """A template that renders rows. Raises TemplateProblem where `source` is not of this language."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE:
            raise TemplateProblem(f"the template has more than {MAX_TEMPLATE:,} characters")
        self._budget = Budget()
        environment = _Environment(self._budget)
        try:
            tree = environment.parse(source)
            _check(tree)
            code = environment.compile(_Bound().visit(tree))
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line} of the template" if line else ""
            raise TemplateProblem(f"{str(error.message).rstrip('.')}{where}") from error
        # Python gives up on deep nesting in several ways.
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise TemplateProblem("the template is nested too deeply") from error
        self._template = environment.template_class.from_code(environment, code, environment.globals)

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for a row: its columns are variables, `row` is all of them. Raises TemplateProblem."""
        self._budget.reset()
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate({**row, "row": row}):
                parts.append(part)
                length += len(part)
                if length > MAX_CHARACTERS:
                    raise TemplateProblem(f"more than {MAX_CHARACTERS:,} characters")
        except TemplateProblem:
            raise
        except TemplateError as error:
            raise TemplateProblem(str(error.message)) from error
        # What a template does to odd values raises what Python raises: type and value errors, division by 0.
        except Exception as error:
            raise TemplateProblem(f"{type(error).__name__}: {error}") from error
        return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset("+-*%")

    def __init__(self, budget: Budget) -> None:
        super().__init__(undefined=StrictUndefined, finalize=_written, trim_blocks=True, lstrip_blocks=True)
        self.globals = {"range": self.globals["range"]}
        self.filters = {name: budget.charged(function) for name, function in FILTERS.items()}
        self.filters |= {_COUNTED: budget.counted, _TEXT: as_text, _SHORT: short}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`left operator right` for numbers; + joins texts, too."""
        for value in (left, right):
            if isinstance(value, Undefined):
                str(value)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return short(left + right)
        for value in (left, right):
            if not isinstance(value, int | float):
                raise TemplateProblem(f"{operator} is for numbers here, found a {type(value).__name__}")
        return small(super().call_binop(context, operator, left, right))

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether a template may call `obj`: range, and the methods above of their own types."""
        allowed = METHODS.get(type(getattr(obj, "__self__", None)), frozenset())
        return obj is self.globals["range"] or getattr(obj, "__name__", None) in allowed


def _written(value: Any) -> Any:
    """What `{{ value }}` writes."""
    return value if isinstance(value, str) else as_text(value)


def _check(tree: nodes.Template) -> None:
    """Raises TemplateProblem at the first part of `tree` that the bounded language lacks."""
    for node in (tree, *tree.find_all(nodes.Node)):
        refused = _refusal(node)
        if refused:
            raise TemplateProblem(f"{refused} in line {node.lineno} of the template")


def _refusal(node: nodes.Node) -> str | None:
    if not isinstance(node, _STATEMENTS + _EXPRESSIONS + _CONSTANTS):
        return f"templates of a recipe have if, for and set, but no {type(node).__name__}"
    if isinstance(node, nodes.For) and node.recursive:
        return "templates of a recipe have no recursive loops"
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return f"templates of a recipe have no filter {node.name!r}, only {', '.join(sorted(FILTERS))}"
    if isinstance(node, nodes.Call) and not _may_call(node.node):
        return f"templates of a recipe call nothing but range, {', '.join(sorted(_METHOD_NAMES))}"
    built = isinstance(node, nodes.List | nodes.Dict)
    built = built or (isinstance(node, nodes.Tuple) and node.ctx == "load")
    # Lists of lists of lists would grow with every `set`.
    if built and not all(isinstance(part, _CONSTANTS) for part in node.find_all(nodes.Expr)):
        return "lists and mappings in templates of a recipe hold constants only"
    return None


def _may_call(function: nodes.Expr) -> bool:
    if isinstance(function, nodes.Name):
        return function.name == "range"
    return isinstance(function, nodes.Getattr) and function.attr in _METHOD_NAMES


class _Bound(NodeTransformer):
    """Makes loops count their passes, and `~` refuse what is no text or makes too much of it."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        loop = self.generic_visit(node)
        assert isinstance(loop, nodes.For)
        loop.iter = _filtered(loop.iter, _COUNTED)
        return loop

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        joined = self.generic_visit(node)
        assert isinstance(joined, nodes.Concat)
        joined.nodes = [_filtered(part, _TEXT) for part in joined.nodes]
        return _filtered(joined, _SHORT)


def _filtered(value: Any, name: str) -> nodes.Expr:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno, environment=value.environment)
