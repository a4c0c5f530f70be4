"""What a judge reads about a completion: the recipe's template, rendered in a sandbox and within bounds."""

from __future__ import annotations

from typing import Any

from pgrpo_cli.recipe.reward_judge import JudgeReward
from pgrpo_cli.recipe.sandbox import Sandbox

from .base import Completion

LONGEST = 1_000_000
"""Characters of a rendered rubric."""


class RubricFailed(Exception):
    """The template cannot be rendered for a completion; says why."""


class Rubric:
    """Renders the rubric of a recipe's judge.

    The recipe may come from a stranger: the sandbox keeps the template from this program's objects, and its
    arithmetic cannot make a long text of a short one.
    """

    def __init__(self, section: JudgeReward) -> None:
        self._template = Sandbox().from_string(section.rubric)
        self._instructions = section.preference_group_rubrics

    def __call__(self, completion: Completion) -> str:
        """The text for one completion. Raises RubricFailed."""
        known: dict[str, Any] = {
            "prompt": completion.prompt,
            "completion": completion.text,
            "preference_group": completion.preference_group,
            "preference_group_rubric": self._instructions.get(completion.preference_group, ""),
            "columns": dict(completion.columns),
        }
        if completion.columns.get("reference") is not None:
            known["reference"] = completion.columns["reference"]
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(known):
                pieces.append(piece)
                length += len(piece)
                if length > LONGEST:
                    raise RubricFailed(f"it is longer than {LONGEST} characters")
        except RubricFailed:
            raise
        # Templates raise whatever the values in them raise.
        except Exception as error:
            raise RubricFailed(f"{type(error).__name__}: {error}") from error
        return "".join(pieces)
