"""Rules of templates and expressions: they are Jinja; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

from .conditioning import ExamplesConditioning
from .evaluation import PAIR_VARIABLES
from .judge import rubric_violations
from .preference_groups import ExpressionGroups
from .schema import Recipe
from .sources import ColumnMapping
from .templates import ChatTemplate, Expression, Template, TemplateProblem
from .violation import Violation


def templates_parse(recipe: Recipe) -> Iterator[Violation]:
    """Templates of rows must be valid Jinja."""
    source, conditioning = recipe.data.source, recipe.data.conditioning
    templates = {
        "source": source.template if isinstance(source, ColumnMapping) else None,
        "conditioning": None if isinstance(conditioning, ExamplesConditioning) else conditioning.template,
    }
    for section, text in templates.items():
        if text is None:
            continue
        try:
            Template(text)
        except TemplateProblem as problem:
            rule = f"not a template that can be used: {problem}"
            yield Violation(("data", section, "template"), text, rule)


def chat_template_parses(recipe: Recipe) -> Iterator[Violation]:
    """A chat template that is written in the recipe must be valid."""
    path, text = ("model", "chat_template"), recipe.model.chat_template
    if text is None or recipe.model.chat_template_file:
        return
    if "{{" not in text and "{%" not in text:
        yield Violation(path, text, "neither a path that ends in .jinja nor a template, which has {{ }}")
        return
    try:
        ChatTemplate(text)
    except TemplateProblem as problem:
        yield Violation(path, text, f"not a template that can be used: {problem}")


def expression_parses(recipe: Recipe) -> Iterator[Violation]:
    """The expression that names preference groups must be valid Jinja."""
    section = recipe.data.preference_groups
    if not isinstance(section, ExpressionGroups):
        return
    try:
        Expression(section.expression)
    except TemplateProblem as problem:
        rule = f"not an expression that can be used: {problem}"
        yield Violation(("data", "preference_groups", "expression"), section.expression, rule)


def pair_rubric_parses(recipe: Recipe) -> Iterator[Violation]:
    """The rubric of `eval.judge` is a template over what there is, with a place for both completions."""
    judge = recipe.eval.judge
    if judge is not None:
        yield from rubric_violations(
            ("eval", "judge"), judge, judge.rubric, PAIR_VARIABLES, ("first", "second")
        )
