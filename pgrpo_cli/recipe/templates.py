"""Jinja of a recipe, as a template or an expression: a small, bounded part of the language, sandboxed.

A recipe may come from a stranger and rows may be hostile, so that neither can reach Python or take much time
or memory: there are no macros, includes or recursion, no lists that grow, a fixed set of filters and methods,
and bounds on loop passes, calls and text (template_filters.py). Rows, preference groups and judges' rubrics
share this one sandbox.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .template_filters import FILTERS, MAX_CHARACTERS, Budget, TemplateProblem, as_text, short, small

MAX_TEMPLATE = 20_000
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"casefold", "endswith", "find", "isdigit", "lower", "lstrip", "rstrip", "split", "splitlines"}
        | {"startswith", "strip", "title", "upper"}
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


class _Program(ABC):
    """Checked and compiled source. Raises TemplateProblem where it is not of this language.

    `variables` are the names that it takes from outside.
    """

    what: ClassVar[str]

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE:
            raise TemplateProblem(f"the {self.what} has more than {MAX_TEMPLATE:,} characters")
        self._budget = Budget()
        environment = _Environment(self._budget)
        try:
            tree = self._parsed(environment, source)
            _check(tree, self.what)
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            code = environment.compile(_Bound().visit(tree))
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line} of the {self.what}" if line else ""
            raise TemplateProblem(f"{str(error.message).rstrip('.')}{where}") from error
        # Python gives up on deep nesting in several ways.
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise TemplateProblem(f"the {self.what} is nested too deeply") from error
        self._template = environment.template_class.from_code(environment, code, environment.globals)

    @abstractmethod
    def _parsed(self, environment: Environment, source: str) -> nodes.Template:
        """The syntax tree of the whole source."""

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """A budget of its own for one run, whose failures are TemplateProblems."""
        self._budget.reset()
        try:
            yield
        except TemplateProblem:
            raise
        except TemplateError as error:
            raise TemplateProblem(str(error.message)) from error
        # Odd values make Python raise what it likes: type and value errors, division by 0.
        except Exception as error:
            raise TemplateProblem(f"{type(error).__name__}: {error}") from error


class Template(_Program):
    """Text with `{{ }}` and `{% %}`."""

    what = "template"

    def render(self, values: Mapping[str, Any]) -> str:
        """The text that it makes of its variables. Raises TemplateProblem."""
        parts: list[str] = []
        length = 0
        with self._bounded():
            for part in self._template.generate(values):
                parts.append(part)
                length += len(part)
                if length > MAX_CHARACTERS:
                    raise TemplateProblem(f"more than {MAX_CHARACTERS:,} characters")
        return "".join(parts)

    def _parsed(self, environment: Environment, source: str) -> nodes.Template:
        return environment.parse(source)


class Expression(_Program):
    """What stands between `{{` and `}}`, by itself."""

    what = "expression"
    _RESULT: ClassVar[str] = "_result"

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Its value, of any type, for these variables. Raises TemplateProblem."""
        with self._bounded():
            context = self._template.new_context(dict(values))
            for _ in self._template.root_render_func(context):
                pass
            value = context.vars[self._RESULT]
            if isinstance(value, Undefined):
                # Raises, and says what is undefined.
                str(value)
        return value

    def _parsed(self, environment: Environment, source: str) -> nodes.Template:
        parser = Parser(environment, source, state="variable")
        expression = parser.parse_expression()
        if not parser.stream.eos:
            token = parser.stream.current
            raise TemplateSyntaxError(f"{str(token)!r} follows its end", token.lineno)
        line = expression.lineno
        result = nodes.Name(self._RESULT, "store", lineno=line)
        tree = nodes.Template([nodes.Assign(result, expression, lineno=line)], lineno=line)
        tree.set_environment(environment)
        return tree


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset("+-*%")

    def __init__(self, budget: Budget) -> None:
        super().__init__(undefined=StrictUndefined, finalize=_written, trim_blocks=True, lstrip_blocks=True)
        self.globals = {"range": self.globals["range"]}
        self._budget = budget
        self.filters = {name: budget.charged(function) for name, function in FILTERS.items()}
        self.filters |= {_COUNTED: budget.counted, _TEXT: as_text, _SHORT: short}

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call of a method, paid for by the size of what it works on."""
        owner = getattr(function, "__self__", None)
        if type(owner) in METHODS:
            self._budget.charge(owner, *args)
        return super().call(context, function, *args, **kwargs)

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


def _check(tree: nodes.Template, what: str) -> None:
    """Raises TemplateProblem at the first part of `tree` that the bounded language lacks."""
    for node in (tree, *tree.find_all(nodes.Node)):
        refused = _refusal(node)
        if refused:
            raise TemplateProblem(f"{refused} in line {node.lineno} of the {what}")


def _refusal(node: nodes.Node) -> str | None:
    if not isinstance(node, _STATEMENTS + _EXPRESSIONS + _CONSTANTS):
        return f"a recipe's Jinja has if, for and set, but no {type(node).__name__}"
    if isinstance(node, nodes.For) and node.recursive:
        return "a recipe's Jinja has no recursive loops"
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return f"a recipe's Jinja has no filter {node.name!r}, only {', '.join(sorted(FILTERS))}"
    if isinstance(node, nodes.Call) and not _may_call(node.node):
        return f"a recipe's Jinja calls nothing but range, {', '.join(sorted(_METHOD_NAMES))}"
    built = isinstance(node, nodes.List | nodes.Dict)
    built = built or (isinstance(node, nodes.Tuple) and node.ctx == "load")
    # Lists of lists of lists would grow with every `set`.
    if built and not all(isinstance(part, _CONSTANTS) for part in node.find_all(nodes.Expr)):
        return "lists and mappings in a recipe's Jinja hold constants only"
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
