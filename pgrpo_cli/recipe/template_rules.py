"""Rules of templates and expressions: they are of the Jinja that a recipe may use; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

from .messages import KeyPath, did_you_mean
from .preference_groups import ExpressionGroups
from .reward_base import RewardBase
from .reward_judge import RUBRIC_VARIABLES, JudgeReward
from .schema import Recipe
from .sources import ColumnMapping
from .violation import Violation

# Jinja is loaded by recipes that have templates, so that each rule imports templates.py itself.


def templates_parse(recipe: Recipe) -> Iterator[Violation]:
    """Templates of rows are Jinja, of the part that a recipe may use."""
    source = recipe.data.source
    for key in ("template", "system_template") if isinstance(source, ColumnMapping) else ():
        text = source.__dict__.get(key)
        if text is None:
            continue
        from .template_filters import TemplateProblem
        from .templates import Template

        try:
            Template(text)
        except TemplateProblem as problem:
            yield Violation(("data", "source", key), text, f"not a template that can be used: {problem}")


def expression_parses(recipe: Recipe) -> Iterator[Violation]:
    """The expression that names preference groups is Jinja, of the part that a recipe may use."""
    section = recipe.data.preference_groups
    if not isinstance(section, ExpressionGroups):
        return
    from .template_filters import TemplateProblem
    from .templates import Expression

    try:
        Expression(section.expression)
    except TemplateProblem as problem:
        rule = f"not an expression that can be used: {problem}"
        yield Violation(("data", "preference_groups", "expression"), section.expression, rule)


def rubric_parses(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """A judge's rubric is a template over what there is, with a place for the completion."""
    if not isinstance(reward, JudgeReward):
        return
    from .template_filters import TemplateProblem
    from .templates import Template

    place = (*path, "rubric")
    try:
        used = Template(reward.rubric).variables
    except TemplateProblem as problem:
        yield Violation(place, reward.rubric, f"not a template that can be used: {problem}")
        return
    unknown = sorted(used.difference(RUBRIC_VARIABLES))
    if unknown:
        hint = did_you_mean(unknown[0], RUBRIC_VARIABLES)
        rule = f"uses {unknown[0]!r}; known are {', '.join(RUBRIC_VARIABLES)}{hint}"
        yield Violation(place, reward.rubric, rule)
    elif "completion" not in used:
        rule = "does not use 'completion', so that every answer would be judged alike; add {{ completion }}"
        yield Violation(place, reward.rubric, rule)
    elif reward.__dict__.get("preference_group_rubrics") and "preference_group_rubric" not in used:
        rule = "the rubric must use {{ preference_group_rubric }}, or the judge never sees them"
        yield Violation((*path, "preference_group_rubrics"), reward.preference_group_rubrics, rule)
