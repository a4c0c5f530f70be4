"""The process that renders templates and matches patterns: run by templates.py, never imported by it.

A template may come from a stranger. Whatever it does, in Jinja or inside one call of C, happens here: with a
limit on this process's memory, one on its processor time for each request (the kernel ends it), no files and
no further processes. So templates are plain Jinja in its own sandbox, patterns are Python's own, and nothing
of either language is counted.

A request is one line of JSON: kind, source, variables (null: only check the source); the answer is another.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_CHARACTERS = 1_000_000
_MAX_REASON = 500
_DRAWING = ("random", "lipsum")
"""What draws at random in Jinja: the same for the same template and variables, hence seeded with them."""
_RESULT = "_result"
_WRITTEN = " written"


class Refused(Exception):
    """Why a template cannot be used; the message is the whole reason."""


def written(value: Any) -> Any:
    """What `{{ value }}` and `~` write. A null or a list is seldom meant in a prompt."""
    if value is None:
        raise Refused("writes a null; give it another value, such as {{ name or '' }}")
    if isinstance(value, str | int | float | Undefined):
        return value
    raise Refused(f"writes a {type(value).__name__}; use |join or |tojson")


def tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON as it stands in a prompt; Jinja's own filter escapes it for HTML."""
    return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})


class _Written(NodeTransformer):
    """Makes `~` convert values to text in the same way as `{{ }}`."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            nodes.Filter(part, _WRITTEN, [], [], None, None, lineno=part.lineno, environment=part.environment)
            for part in node.nodes
        ]
        return node


def recipe_environment() -> Environment:
    """Jinja of a recipe: what is missing is an error."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, finalize=written, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"tojson": tojson, _WRITTEN: written}
    # A page of Latin is of no use here, and a column may have its name.
    del environment.globals["lipsum"]
    return environment


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text in chat templates; nothing more is needed here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def chat_environment() -> Environment:
    """Jinja of a model's chat template, as transformers' apply_chat_template has it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    return environment


def _raise(message: str) -> None:
    raise TemplateError(message)


def _expression(environment: Environment, source: str) -> nodes.Template:
    """The tree of a template that assigns the value of the expression to a name."""
    parser = Parser(environment, source, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        token = parser.stream.current
        raise TemplateSyntaxError(f"{str(token)!r} follows its end", token.lineno)
    line = expression.lineno
    tree = nodes.Template([nodes.Assign(nodes.Name(_RESULT, "store"), expression)])
    return cast(nodes.Template, tree.set_lineno(line).set_environment(environment))


class Program:
    """A compiled source. Raises Refused if it is invalid."""

    def __init__(self, kind: str, source: str) -> None:
        self.kind = kind
        environment = chat_environment() if kind == "chat template" else recipe_environment()
        try:
            parse = _expression if kind == "expression" else Environment.parse
            tree = parse(environment, source)
            for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
                raise TemplateSyntaxError("there is no other template to take in", node.lineno)
            self.variables = sorted(meta.find_undeclared_variables(tree))
            if kind != "chat template":
                tree = _Written().visit(tree)
            code = environment.compile(tree)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line} of the {kind}" if line else ""
            raise Refused(f"{str(error.message).rstrip('.')}{where}") from error
        # Python gives up on deep nesting in several ways.
        except (RecursionError, SyntaxError) as error:
            raise Refused(f"the {kind} is nested too deeply") from error
        self.template = environment.template_class.from_code(environment, code, environment.globals)

    def run(self, values: dict[str, Any]) -> Any:
        """The text, or the value of the expression. Raises anything."""
        if self.kind == "expression":
            context = self.template.new_context(values)
            for _ in self.template.root_render_func(context):
                pass
            value = context.vars[_RESULT]
            if isinstance(value, Undefined):
                # Raises, and says what is undefined.
                str(value)
            return value
        return self.template.render(values)


class Pattern:
    """A compiled regular expression, of the kind `pattern` or `pattern in any case`. Raises Refused."""

    variables = ()

    def __init__(self, kind: str, source: str) -> None:
        try:
            self.pattern = re.compile(source, re.IGNORECASE if kind == "pattern in any case" else 0)
        except (re.error, OverflowError) as error:
            raise Refused(f"not a regular expression: {error}") from error
        except RecursionError as error:
            raise Refused("not a regular expression: it is nested too deeply") from error

    def run(self, values: dict[str, Any]) -> int:
        """The number of matches in the text, at most `most`."""
        return sum(1 for _ in islice(self.pattern.finditer(values["text"]), values["most"]))


def _no_value(value: Any) -> None:
    raise Refused(f"its value is a {type(value).__name__}, which is neither text nor a number nor a list")


_encode = json.JSONEncoder(default=_no_value).encode


def _compiled(kind: str, source: str) -> Program | Pattern:
    return Pattern(kind, source) if kind.startswith("pattern") else Program(kind, source)


program: Callable[[str, str], Program | Pattern] = lru_cache(maxsize=64)(_compiled)


def answer(line: bytes) -> str:
    """The JSON that answers a request."""
    try:
        kind, source, values = json.loads(line)
        if any(name in source for name in _DRAWING):
            random.seed(line)
        found = program(kind, source)
        value = found.variables if values is None else found.run(values)
        text = _encode({"value": value})
        if len(value if isinstance(value, str) else text) > MAX_CHARACTERS:
            raise Refused(f"more than {MAX_CHARACTERS:,} characters")
        return text
    except MemoryError:
        raise
    except (Refused, TemplateError) as error:
        reason = str(error)
    # Odd values make Python raise what it likes: type and value errors, division by 0.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    return json.dumps({"problem": reason[:_MAX_REASON] or "fails without a reason"})


def _load_the_rest() -> None:
    """Make Jinja import what it imports on demand, while files can be opened."""
    loader = recipe_environment().from_string("{{ 'a'|wordwrap|pprint }}{{ gone }}")
    with suppress(TemplateError):
        loader.render()


def main(seconds: float, memory: int) -> None:
    _load_the_rest()
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_NOFILE: 0, resource.RLIMIT_NPROC: 0}
    for what, limit in limits.items():
        # The limit is lower already, or the system (macOS) has none of this kind.
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (limit, limit))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := requests.readline():
        # Where it runs out, SIGPROF ends the process, also in the middle of a call.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            answers.write(answer(line).encode() + b"\n")
        except MemoryError:
            os._exit(errno.ENOMEM)
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
