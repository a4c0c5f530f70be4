"""The matrix of an evaluation: completions for one preference group, scored by the rewards of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pgrpo_cli.data.records import PreparedPrompt, completion_of
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.reward_sum import RewardSum
from pgrpo_cli.rewards.scoring import Scorer
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.matrix import few_enough, matrix_of
from pgrpo_cli.stats.result_types import EvalRow, Matrix

MOST_GROUPS = 32
"""With more, `auto` makes no matrix: its cost grows with their square."""
# Scores of a matrix that is `auto`: five seconds of the personas' reward on answers of 400 characters.
_MOST_SCORES = 25_000


def group_rewards(
    rewards: RewardSum, sections: Sequence[RewardBase], mode: Literal["auto", True, False], groups: int
) -> RewardSum | None:
    """The rewards, of nonzero weight, that depend on the preference group; None where there is no matrix.

    `sections` are those that `rewards` were built from; `groups`: number of preference groups. What other
    rewards give to a text is the same whichever preference group is asked. Judges and code of the user's,
    which cost money or time, only count with `mode` True.
    """
    if mode is False or groups < 2 or (mode == "auto" and groups > MOST_GROUPS):
        return None
    chosen = tuple(
        term
        for term, section in zip(rewards.terms, sections, strict=True)
        if term.weight != 0 and (depends(section) or (mode is True and section.by_preference_group is None))
    )
    return RewardSum(chosen) if chosen else None


def evaluate_matrix(
    rewards: RewardSum,
    prompts: Sequence[PreparedPrompt],
    rows: Sequence[EvalRow],
    resampler: Resampler,
    *,
    scorer: Scorer,
    limited: bool,
) -> Matrix | None:
    """Completions by the reward of every preference group; None where all give the same to each.

    `scorer`: the open one of all rewards.

    So does a reward that looks for a preference group elsewhere, as the personas' does for groups by lot.
    """
    asked = {prompt.prompt_id: prompt for prompt in prompts}
    groups = sorted({prompt.preference_group for prompt in prompts})
    if limited:
        rows = few_enough(rows, len(groups), _MOST_SCORES)
    completions = [completion_of(asked[row.prompt_id], row.text) for row in rows]
    scores = cross_scores(scorer, completions, groups, rewards)
    if all(repr(scores[group]) == repr(scores[groups[0]]) for group in groups):
        return None
    return matrix_of(rows, scores, [term.label for term in rewards.terms], resampler)


def cross_scores(
    scorer: Scorer, completions: Sequence[Completion], groups: Sequence[str], rewards: RewardSum | None = None
) -> Mapping[str, list[float]]:
    """The reward of each completion by each preference group. Raises RewardError as scoring does.

    `rewards`: some of the scorer's; None for all.
    """
    return {
        group: [
            score.value
            for score in scorer.start(rewards).scores(
                [replace(c, preference_group=group) for c in completions]
            )
        ]
        for group in groups
    }


def depends(section: RewardBase) -> bool:
    """Whether a reward is known to depend on the preference group. Of judges and code of the user's, which
    cost money or time, this is not known.
    """
    if section.by_preference_group is None:
        return False
    return section.by_preference_group or section.preference_groups is not None
