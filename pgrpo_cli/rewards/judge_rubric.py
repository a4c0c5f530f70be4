"""What a judge reads about a completion: the recipe's template, in the sandbox of all its templates."""

from __future__ import annotations

from typing import Any

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.reward_judge import JudgeReward
from pgrpo_cli.recipe.template_filters import TemplateProblem
from pgrpo_cli.recipe.templates import Template

from .base import Completion


class Rubric:
    """Renders the rubric of a recipe's judge. Raises RecipeError where it is no template of a recipe."""

    def __init__(self, section: JudgeReward) -> None:
        try:
            self._template = Template(section.rubric)
        except TemplateProblem as problem:
            raise RecipeError(
                f"reward {section.label!r}: rubric: {problem}", remedy="Correct the template."
            ) from problem
        self._instructions = section.preference_group_rubrics

    def __call__(self, completion: Completion) -> str:
        """The text for one completion. Raises TemplateProblem."""
        known: dict[str, Any] = {
            "prompt": completion.prompt,
            "completion": completion.text,
            "preference_group": completion.preference_group,
            "preference_group_rubric": self._instructions.get(completion.preference_group, ""),
            "columns": dict(completion.columns),
        }
        if completion.columns.get("reference") is not None:
            known["reference"] = completion.columns["reference"]
        return self._template.render(known)
