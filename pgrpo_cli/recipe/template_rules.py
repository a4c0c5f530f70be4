"""Rules of templates and expressions: they are Jinja; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .eval_judge import PAIR_VARIABLES
from .judge import JudgeSection
from .messages import KeyPath, did_you_mean
from .preference_groups import ExpressionGroups
from .reward_base import RewardBase
from .reward_judge import RUBRIC_VARIABLES, JudgeReward
from .schema import Recipe
from .sources import ColumnMapping
from .templates import ChatTemplate, Expression, Template, TemplateProblem
from .violation import Violation


def templates_parse(recipe: Recipe) -> Iterator[Violation]:
    """Templates of rows are Jinja."""
    source = recipe.data.source
    for key in ("template", "system_template") if isinstance(source, ColumnMapping) else ():
        text = source.__dict__.get(key)
        if text is None:
            continue
        try:
            Template(text)
        except TemplateProblem as problem:
            yield Violation(("data", "source", key), text, f"not a template that can be used: {problem}")


def chat_template_parses(recipe: Recipe) -> Iterator[Violation]:
    """A chat template that is written in the recipe is one."""
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
    """The expression that names preference groups is Jinja."""
    section = recipe.data.preference_groups
    if not isinstance(section, ExpressionGroups):
        return
    try:
        Expression(section.expression)
    except TemplateProblem as problem:
        rule = f"not an expression that can be used: {problem}"
        yield Violation(("data", "preference_groups", "expression"), section.expression, rule)


def rubric_parses(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """A judge's rubric is a template over what there is, with a place for the completion."""
    if isinstance(reward, JudgeReward):
        yield from _rubric(path, reward, reward.rubric, RUBRIC_VARIABLES, ("completion",))


def pair_rubric_parses(recipe: Recipe) -> Iterator[Violation]:
    """The rubric of `eval.judge` is a template over what there is, with a place for both completions."""
    judge = recipe.eval.judge
    if judge is not None:
        yield from _rubric(("eval", "judge"), judge, judge.rubric, PAIR_VARIABLES, ("first", "second"))


def _rubric(
    path: KeyPath, judge: JudgeSection, rubric: str, known: Sequence[str], needed: Sequence[str]
) -> Iterator[Violation]:
    """What is wrong with a rubric that may use the variables `known` and must use those `needed`."""
    place = (*path, "rubric")
    try:
        used = Template(rubric).variables
    except TemplateProblem as problem:
        yield Violation(place, rubric, f"not a template that can be used: {problem}")
        return
    unknown = sorted(used.difference(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        rule = f"uses {unknown[0]!r}; known are {', '.join(known)}{hint}"
        yield Violation(place, rubric, rule)
    elif missing := [name for name in needed if name not in used]:
        add = f"add {{{{ {missing[0]} }}}}"
        rule = f"does not use {missing[0]!r}, so that every answer would be judged alike; {add}"
        yield Violation(place, rubric, rule)
    elif judge.__dict__.get("preference_group_rubrics") and "preference_group_rubric" not in used:
        rule = "the rubric must use {{ preference_group_rubric }}, or the judge never sees them"
        yield Violation((*path, "preference_group_rubrics"), judge.preference_group_rubrics, rule)
