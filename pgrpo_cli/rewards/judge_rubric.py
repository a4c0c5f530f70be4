"""What a judge reads about an answer: the recipe's template, in the sandbox of all its templates."""

from __future__ import annotations

from typing import Any

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.templates import Template, TemplateProblem

from .base import Completion
from .columns import where
from .judge_access import AnyJudge


class Rubric:
    """Renders the rubric of a recipe's judge. Raises RecipeError where it is no template of a recipe."""

    def __init__(self, section: AnyJudge) -> None:
        self._label = section.label
        try:
            self._template = Template(section.rubric)
        except TemplateProblem as problem:
            raise RecipeError(
                f"judge {self._label!r}: rubric: {problem}", remedy="Correct the template."
            ) from problem
        self._instructions = section.preference_group_rubrics

    def __call__(self, asked: Completion, **answers: str) -> str:
        """The text about `answers`, by variable, to the prompt that `asked` answers. Raises RewardError."""
        known: dict[str, Any] = {
            "prompt": asked.prompt,
            **answers,
            "preference_group": asked.preference_group,
            "preference_group_rubric": self._instructions.get(asked.preference_group, ""),
            "columns": dict(asked.columns),
        }
        if asked.columns.get("reference") is not None:
            known["reference"] = asked.columns["reference"]
        try:
            return self._template.render(known)
        except TemplateProblem as problem:
            raise RewardError(
                f"judge {self._label!r}: the rubric cannot be written for {where(asked)}: {problem}",
                remedy="Correct `rubric`; `{% if reference is defined %}` asks what a row has, and "
                "`{{ columns.note or '' }}` writes nothing for a null.",
            ) from problem
