"""Rewards that do not differ, and rewards that are not there: nothing can be learnt from either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from pgrpo_cli.recipe.schema import Recipe

from .finding import Finding, Rule, about, percent, shown
from .view import Flags, Floats, RunView, group_masks

LEAST_REWARDS = 32
"""Equal rewards before they are called constant: were one answer in ten worth something else, 32 would all be
alike in 3 % of cases only."""
LEAST_PROMPTS = 12
"""Generation groups before their share is judged: its standard error is then 0.14 at most."""
DEAD_SHARE = 0.5
"""Above, most of what is sampled says nothing about which answer is better."""
MISSING_SHARE = 0.5
"""Above, most of what is sampled is thrown away."""
_NEAR = 0.1
"""Part of a reward's range that counts as its end."""
_ROUNDING = 1e-9

Difficulty = Literal["too hard", "too easy", "unknown"]

_EASIER = (
    "give the reward a slope, so that a slightly better answer earns slightly more "
    "(regex: `count: true`; keyword: `need: share`; length: a larger `slack`), ask for it in the prompt"
)
_HARDER = "ask for more than the model does already (a stricter reward, harder prompts), or leave it out"


def reward_bounds(recipe: Recipe, preference_group: str | None) -> tuple[float, float] | None:
    """The least and the most that the rewards can give, or None where a reward does not tell."""
    low = high = 0.0
    for reward in recipe.rewards:
        applies = reward.preference_groups is None or preference_group in reward.preference_groups
        if reward.weight == 0 or not applies:
            continue
        if reward.value_range is None:
            return None
        ends = [reward.weight * end for end in reward.value_range]
        low, high = low + min(ends), high + max(ends)
    return low, high


def _difficulty(view: RunView, preference_group: str | None, mean: float) -> Difficulty:
    """Whether a mean reward lies at an end of what can be earned."""
    bounds = reward_bounds(view.recipe, preference_group)
    if bounds is None:
        return "unknown"
    low, high = bounds
    margin = _NEAR * (high - low)
    return "too hard" if mean <= low + margin else "too easy" if mean >= high - margin else "unknown"


def _lacks_rewards(view: RunView) -> str | None:
    found = int(view.completions.scored_N.sum())
    return None if found >= LEAST_REWARDS else f"{found} rewards so far, {LEAST_REWARDS} are needed"


def find_no_spread(view: RunView) -> Iterator[Finding]:
    """Preference groups whose rewards are all alike: whatever the estimator, no answer is the better one."""
    completions = view.completions
    scored_N = completions.scored_N
    if scored_N.sum() < LEAST_REWARDS:
        return
    if np.ptp(completions.reward_N[scored_N]) <= _tolerance(view, completions.reward_N[scored_N]):
        yield _no_spread(view, None, scored_N)
        return
    for name, own_N in group_masks(
        completions.preference_group_N, completions.preference_groups, scored_N, LEAST_REWARDS
    ):
        rewards = completions.reward_N[own_N]
        if np.ptp(rewards) <= _tolerance(view, rewards):
            yield _no_spread(view, name, own_N)


def _tolerance(view: RunView, rewards: Floats) -> float:
    """Differences below it are rounding, or drowned by `advantage.epsilon`, which is added to the scale."""
    rounding = _ROUNDING * max(1.0, float(np.abs(rewards).max()))
    return max(rounding, view.estimator.epsilon) if view.estimator.scaled else rounding


def _no_spread(view: RunView, name: str | None, own_N: Flags) -> Finding:
    completions = view.completions
    rewards = completions.reward_N[own_N]
    n, value = len(rewards), float(rewards.mean())
    kind = _difficulty(view, name, value)
    parts = [values_N[own_N] for values_N in completions.parts.values()]
    if kind == "unknown" and parts and not any(np.nan_to_num(values).any() for values in parts):
        kind = "too hard"
    if np.ptp(rewards) > _ROUNDING * max(1.0, abs(value)):
        says = (
            f"The {n} rewards {about(name)} in {completions.steps_text()} differ by no more than "
            f"{shown(float(np.ptp(rewards)))}, which advantage.epsilon "
            f"({shown(view.recipe.advantage.epsilon)}) drowns: there is next to nothing to learn from."
        )
        remedy = "Raise the `weight` of the rewards, or set advantage.epsilon=1e-8."
    else:
        says = (
            f"All {n} rewards {about(name)} in {completions.steps_text()} are {shown(value)}: nothing tells "
            f"a good answer from a bad one, so nothing can be learnt. {_why(kind, n)}"
        )
        remedy = _no_spread_remedy(view, kind)
    return Finding("no-spread", name, "problem", says, remedy, {"rewards": n, "value": value})


def _why(kind: Difficulty, n: int) -> str:
    if kind == "too hard":
        return (
            f"Most likely too hard: no answer earns anything yet; had one in {max(2, n // 3)} done so, it "
            "would probably have shown."
        )
    if kind == "too easy":
        return "Most likely too easy: every answer earns it all."
    return "Either all answers are worth the same, or the reward function returns a constant."


def _no_spread_remedy(view: RunView, kind: Difficulty) -> str:
    if kind == "too hard":
        return f"Make it reachable: {_EASIER}, or sample more: {_more_generations(view)}."
    if kind == "too easy":
        return f"Nothing is left to learn here: {_HARDER}."
    return (
        "Look at some completions in history.sqlite beside their rewards, and let the reward function return "
        "different numbers for answers of different worth."
    )


def _more_generations(view: RunView) -> str:
    return f"rollout.num_generations={2 * view.recipe.rollout.num_generations}"


def find_dead_generation_groups(view: RunView) -> Iterator[Finding]:
    """Prompts to which all completions differ and earn the same, in preference groups that have a spread.

    Completions that do not differ either are the business of `diversity-collapse`.
    """
    completions, found = view.completions, view.completions.generation_groups
    usable_P = (found.counted_P >= 2) & (found.distinct_P >= 2)
    flat_P = found.high_P - found.low_P <= _ROUNDING * np.maximum(1.0, np.abs(found.mean_P))
    without_spread = {finding.preference_group for finding in find_no_spread(view)}
    if None in without_spread:
        return
    told: list[tuple[float, Finding]] = []
    for name, own_P in group_masks(
        found.preference_group_P, completions.preference_groups, usable_P, LEAST_PROMPTS
    ):
        share = float(flat_P[own_P].mean())
        if share >= DEAD_SHARE and name not in without_spread:
            told.append((share, _dead(view, name, own_P, own_P & flat_P, share)))
    yield from (finding for _, finding in sorted(told, key=lambda pair: -pair[0]))


def _dead(view: RunView, name: str | None, own_P: Flags, dead_P: Flags, share: float) -> Finding:
    found = view.completions.generation_groups
    mean = float(found.mean_P[dead_P].mean())
    living = found.mean_P[own_P & ~dead_P]
    kind = _difficulty(view, name, mean)
    if kind == "unknown" and len(living) and abs(mean - living.mean()) > _ROUNDING:
        kind = "too hard" if mean < living.mean() else "too easy"
    if not view.estimator.centered:
        loss = "They tell a good prompt from a bad one, but not a good answer from a bad one."
    else:
        loss = f"With advantage.estimator {view.recipe.advantage.estimator} nothing is learnt from them."
    remedies = {
        "too hard": f"Most of them earn too little (too hard): {_EASIER}, or set {_more_generations(view)}.",
        "too easy": f"Most of them earn the most already (too easy): {_HARDER}, or set "
        f"{_more_generations(view)}.",
        "unknown": "The reward is too coarse to tell those answers apart: give it more steps between its "
        f"least and its most, or set {_more_generations(view)}.",
    }
    return Finding(
        "dead-generation-groups",
        name,
        "warning",
        f"For {percent(share)} of the {int(own_P.sum())} prompts {about(name)} in "
        f"{view.completions.steps_text()} all completions, though they differ, got one and the same reward "
        f"({shown(mean)} on average). {loss}",
        remedies[kind],
        {"share": share, "prompts": int(own_P.sum()), "mean_reward": mean},
    )


def _lacks_generation_groups(view: RunView) -> str | None:
    found = view.completions.generation_groups
    count = int(((found.counted_P >= 2) & (found.distinct_P >= 2)).sum())
    if count >= LEAST_PROMPTS:
        return None
    return f"{count} prompts with different completions so far, {LEAST_PROMPTS} are needed"


def find_missing_rewards(view: RunView) -> Iterator[Finding]:
    """Completions without a reward: they were sampled for nothing."""
    completions = view.completions
    share = float(1 - completions.scored_N.mean())
    if share < MISSING_SHARE:
        return
    yield Finding(
        "missing-rewards",
        None,
        "problem" if share == 1 else "warning",
        f"{percent(share)} of the {len(completions)} completions in {completions.steps_text()} got no reward "
        "(NaN or None); they teach nothing.",
        "Let every reward return a number for each completion that it can score: one that is missing makes "
        "the whole sum missing. A reward that fits some users only belongs to its `preference_groups`; "
        "`weight: 0` takes one out of the sum.",
        {"share": share, "completions": len(completions)},
    )


def _lacks_completions(view: RunView) -> str | None:
    found = len(view.completions)
    return None if found >= LEAST_REWARDS else f"{found} completions so far, {LEAST_REWARDS} are needed"


RULES = (
    Rule("missing-rewards", "Do completions get a reward?", _lacks_completions, find_missing_rewards),
    Rule(
        "no-spread", "Do the rewards of each preference group differ at all?", _lacks_rewards, find_no_spread
    ),
    Rule(
        "dead-generation-groups",
        "Do the completions of one prompt get different rewards?",
        _lacks_generation_groups,
        find_dead_generation_groups,
    ),
)
