"""From the recipe's reward sections to one weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.recipe.reward_judge import JudgeReward

from .base import AsyncRewardFunction, BuildContext, RewardFunction
from .embedding import build_embedding
from .personas import build_personas
from .python_file import build_plugin, build_python
from .recommendation import build_recommendation
from .reward_model import build_reward_model
from .reward_sum import RewardSum, Term
from .similarity import build_chrf, build_rouge
from .simple import build_keyword, build_length, build_readability, build_regex, build_sentiment


def build_judge(section: JudgeReward, context: BuildContext) -> AsyncRewardFunction:
    """A judge; the HTTP client is imported for a recipe that has one."""
    from .judge import reward

    return reward.build_judge(section, context)


Factory = Callable[[Any, BuildContext], RewardFunction | AsyncRewardFunction]

# The `type` of a recipe's reward section -> the factory that takes the section.
REWARDS: dict[str, Factory] = {
    "personas": build_personas,
    "regex": build_regex,
    "length": build_length,
    "keyword": build_keyword,
    "readability": build_readability,
    "sentiment": build_sentiment,
    "recommendation": build_recommendation,
    "rouge": build_rouge,
    "chrf": build_chrf,
    "embedding": build_embedding,
    "reward_model": build_reward_model,
    "python": build_python,
    "plugin": build_plugin,
    "judge": build_judge,
}


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
        function = REWARDS[section.type](section, context)  # type: ignore[attr-defined]
        terms.append(Term(section.label, section.weight, groups, function))
    return RewardSum(tuple(terms))
