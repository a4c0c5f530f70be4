"""From the recipe's reward sections to one weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.recipe.reward_text import PersonasReward, RecommendationReward
from pgrpo_cli.recipe.rewards import JudgeReward, RewardModelReward, TasteReward

from . import python_file, recommendation, similarity, simple
from .base import AsyncRewardFunction, BuildContext, Builder, RewardFunction, RowCheck
from .personas import build_personas
from .reward_model import build_reward_model
from .reward_sum import RewardSum, Term


def build_judge(section: JudgeReward, context: BuildContext) -> AsyncRewardFunction:
    """A judge; the HTTP client is imported for a recipe that has one."""
    from .judge import reward

    return reward.build_judge(section, context)


def build_taste(section: TasteReward, context: BuildContext) -> RewardFunction:
    """A taste; what learns it is imported for a recipe that has one."""
    from .taste import reward

    return reward.build_taste(section, context)


BUILDERS: dict[type[RewardBase], Builder] = {
    PersonasReward: build_personas,
    **simple.BUILDERS,
    RecommendationReward: recommendation.build_recommendation,
    **similarity.BUILDERS,
    RewardModelReward: build_reward_model,
    TasteReward: build_taste,
    **python_file.BUILDERS,
    JudgeReward: build_judge,
}


def _judge_row_check(section: JudgeReward) -> RowCheck:
    from .judge.access import Rubric

    rubric = Rubric(section)
    # Not an empty one: `{{ completion[0] }}` would refuse the row for it.
    return lambda completion: rubric(completion, completion="An answer.")


ROW_CHECKS: dict[type[RewardBase], Callable[[Any], RowCheck]] = {
    **similarity.ROW_CHECKS,
    RecommendationReward: recommendation.row_check,
    JudgeReward: _judge_row_check,
}
"""Takes from a row what a reward of that type would. Other types read no column, or are code of others."""


def build_rewards(
    sections: Sequence[RewardBase],
    recipe_dir: Path,
    allow_code: bool,
    *,
    run_dir: Path | None = None,
    allowed_hosts: Iterable[str] = (),
    device: Any = None,
) -> RewardSum:
    """Build every reward of a recipe. Raises RecipeError where one cannot be built or two share a name.

    `recipe_dir` is where relative paths start; `allow_code` permits Python files named in the recipe to run;
    the others are those of `BuildContext`.
    """
    hosts = frozenset(host.lower() for host in allowed_hosts)
    context = BuildContext(Path(recipe_dir), allow_code, run_dir, hosts, device)
    terms: list[Term] = []
    for index, section in enumerate(sections):
        taken = [position for position, term in enumerate(terms) if term.label == section.label]
        if taken:
            raise RecipeError(
                f"rewards[{taken[0]}] and rewards[{index}] would both be recorded as {section.label!r}",
                remedy="Give one of them a `name` of its own.",
            )
        groups = None if section.preference_groups is None else frozenset(section.preference_groups)
        function = BUILDERS[type(section)](section, context)
        terms.append(Term(section.label, section.weight, groups, function))
    return RewardSum(tuple(terms))
