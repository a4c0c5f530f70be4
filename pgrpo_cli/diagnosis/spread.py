"""Rules about rewards that do not differ, and rewards that are missing: nothing can be learnt from either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from pgrpo_cli.recipe.reward_base import RewardBase

from .finding import Finding, Rule, about, percent, shown
from .view import Flags, Floats, RunView, group_masks

LEAST_REWARDS = 32
"""How many equal rewards are called constant. If one answer in ten had another reward, 32 would be equal in
only 3 % of cases.
"""
LEAST_PROMPTS = 12
"""How many generation groups a share needs. Its standard error is then at most 0.14."""
DEAD_SHARE = 0.5
"""Share of generation groups with equal rewards. Above it, most samples do not show which answer is better.
"""
IMPROBABLE = 0.01
"""Below this probability it is not by chance that a preference group has none of the others' rewards."""
MISSING_SHARE = 0.5
"""Share of missing rewards. Above it, most samples are not used."""
_NEAR = 0.1
"""Share of a reward's range that counts as near its end."""
_ROUNDING = 1e-9

Difficulty = Literal["too hard", "too easy", "unknown"]

_EASIER = (
    "let the reward rise gradually, so that a slightly better answer earns slightly more "
    "(regex: `count: true`; keyword: `need: share`; length: a larger `slack`), ask for it in the prompt"
)
_HARDER = "ask for more than the model does already (a stricter reward, harder prompts), or leave it out"


def reward_bounds(rewards: Sequence[RewardBase], preference_group: str) -> tuple[float, float] | None:
    """The minimum and the maximum of the sum of rewards; None if the range of a reward is not known."""
    low = high = 0.0
    for reward in rewards:
        applies = reward.preference_groups is None or preference_group in reward.preference_groups
        if reward.weight == 0 or not applies:
            continue
        if reward.value_range is None:
            return None
        ends = [reward.weight * end for end in reward.value_range]
        low, high = low + min(ends), high + max(ends)
    return low, high


def difficulty(view: RunView, preference_group: str | None, mean: float) -> Difficulty:
    """Whether a mean reward is near the minimum or the maximum of the rewards. That of all preference groups
    together (None) tells it only if all of them have the same bounds.
    """
    names = view.completions.preference_groups if preference_group is None else (preference_group,)
    every = {reward_bounds(view.recipe.rewards, name) for name in names}
    bounds = every.pop() if len(every) == 1 else None
    if bounds is None:
        return "unknown"
    low, high = bounds
    margin = _NEAR * (high - low)
    return "too hard" if mean <= low + margin else "too easy" if mean >= high - margin else "unknown"


def _lacks_rewards(view: RunView) -> str | None:
    scored = int(view.completions.scored_N.sum())
    return None if scored >= LEAST_REWARDS else f"{scored} rewards so far, {LEAST_REWARDS} are needed"


def find_no_spread(view: RunView) -> Iterator[Finding]:
    """Preference groups whose rewards are all equal, so that no estimator can find a better answer."""
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
    """Smaller differences are rounding errors, or have no effect because `advantage.epsilon` is larger."""
    rounding = _ROUNDING * max(1.0, float(np.abs(rewards).max()))
    return max(rounding, view.estimator.epsilon) if view.estimator.scaled else rounding


def _no_spread(view: RunView, name: str | None, own_N: Flags) -> Finding:
    completions = view.completions
    rewards = completions.reward_N[own_N]
    n, value = len(rewards), float(rewards.mean())
    kind, elsewhere = difficulty(view, name, value), _other_values(view, own_N, value)
    by_chance = elsewhere > 0 and (1 - elsewhere) ** n >= IMPROBABLE
    parts = [values_N[own_N] for values_N in completions.parts.values()]
    if kind == "unknown" and parts and not any(np.nan_to_num(values).any() for values in parts):
        kind = "too hard"
    if np.ptp(rewards) > _ROUNDING * max(1.0, abs(value)):
        says = (
            f"The {n} rewards {about(name)} in {completions.steps_text()} differ by no more than "
            f"{shown(float(np.ptp(rewards)))}, which is not more than advantage.epsilon "
            f"({shown(view.recipe.advantage.epsilon)}): there is almost nothing to learn from."
        )
        remedy = "Raise the `weight` of the rewards, or set advantage.epsilon=1e-8."
    else:
        says = (
            f"All {n} rewards {about(name)} in {completions.steps_text()} are {shown(value)}: nothing tells "
            "a good answer from a bad one, so nothing can be learnt"
        )
        if by_chance:
            says += (
                f" yet. It may be chance: only {percent(elsewhere)} of the others' rewards differ from it."
            )
        else:
            says += f". {_why(kind, n)}"
        remedy = _no_spread_remedy(view, kind)
    numbers = {"rewards": n, "value": value}
    return Finding("no-spread", name, "warning" if by_chance else "problem", says, remedy, numbers)


def _other_values(view: RunView, own_N: Flags, value: float) -> float:
    """The share of the other preference groups' rewards that differ from `value`; 0 if there are none."""
    rewards = view.completions.reward_N[view.completions.scored_N & ~own_N]
    return float((np.abs(rewards - value) > _tolerance(view, rewards)).mean()) if len(rewards) else 0.0


def _why(kind: Difficulty, n: int) -> str:
    if kind == "too hard":
        return (
            f"Most likely too hard: no answer earns anything yet. If one answer in {max(2, n // 3)} did, it "
            "would probably have been seen."
        )
    if kind == "too easy":
        return "Most likely too easy: every answer earns the maximum."
    return "Either all answers are equally good, or the reward function returns a constant."


def _no_spread_remedy(view: RunView, kind: Difficulty) -> str:
    if kind == "too hard":
        return f"Make it easier to earn: {_EASIER}, or sample more: {_more_generations(view)}."
    if kind == "too easy":
        return f"Nothing is left to learn here: {_HARDER}."
    return (
        "Look at some completions in history.sqlite and their rewards, and let the reward function return "
        "different numbers for answers of different quality."
    )


def _more_generations(view: RunView) -> str:
    return f"rollout.num_generations={2 * view.recipe.rollout.num_generations}"


def find_dead_generation_groups(view: RunView) -> Iterator[Finding]:
    """Prompts whose completions differ but have equal rewards, in preference groups whose rewards vary.

    Completions that do not differ either are left to `diversity-collapse`.
    """
    completions, groups = view.completions, view.completions.generation_groups
    usable_P = (groups.counted_P >= 2) & (groups.distinct_P >= 2)
    flat_P = groups.high_P - groups.low_P <= _ROUNDING * np.maximum(1.0, np.abs(groups.mean_P))
    without_spread = {finding.preference_group for finding in find_no_spread(view)}
    if None in without_spread:
        return
    findings: list[tuple[float, Finding]] = []
    for name, own_P in group_masks(
        groups.preference_group_P, completions.preference_groups, usable_P, LEAST_PROMPTS
    ):
        share = float(flat_P[own_P].mean())
        ordinary = not view.estimator.centered and not _beyond_chance(view, own_P, flat_P)
        if share >= DEAD_SHARE and name not in without_spread and not ordinary:
            findings.append((share, _dead(view, name, own_P, own_P & flat_P, share)))
    yield from (finding for _, finding in sorted(findings, key=lambda pair: -pair[0]))


def _beyond_chance(view: RunView, own_P: Flags, flat_P: Flags) -> bool:
    """Whether far more prompts have equal rewards than if rewards were dealt to completions at random. Where
    rewards have few values many prompts have equal ones, which are signal as any other unless a prompt's own
    mean is subtracted.
    """
    completions, groups = view.completions, view.completions.generation_groups
    own_N = np.repeat(own_P, groups.size_P) & completions.scored_N
    _, counts = np.unique(completions.reward_N[own_N], return_counts=True)
    chances = counts / counts.sum()
    expected = float(np.mean([(chances**size).sum() for size in groups.counted_P[own_P].tolist()]))
    prompts, share = int(own_P.sum()), float(flat_P[own_P].mean())
    error = np.sqrt(expected * (1 - expected) / prompts)
    return share - expected > max(DEAD_SHARE * (1 - expected), 3 * error)


def _dead(view: RunView, name: str | None, own_P: Flags, dead_P: Flags, share: float) -> Finding:
    groups = view.completions.generation_groups
    mean = float(groups.mean_P[dead_P].mean())
    kind = difficulty(view, name, mean)
    if not view.estimator.centered:
        loss = "They distinguish prompts, but not good answers from bad ones."
    else:
        loss = f"With advantage.estimator {view.recipe.advantage.estimator} nothing is learnt from them."
    remedies = {
        "too hard": f"Most of them earn too little (too hard): {_EASIER}, or set {_more_generations(view)}.",
        "too easy": f"Most of them earn the maximum already (too easy): {_HARDER}, or set "
        f"{_more_generations(view)}.",
        "unknown": "The reward is too coarse to distinguish these answers: give it more levels between its "
        f"minimum and its maximum, or set {_more_generations(view)}.",
    }
    return Finding(
        "dead-generation-groups",
        name,
        "warning",
        f"For {percent(share)} of the {int(own_P.sum())} prompts {about(name)} in "
        f"{view.completions.steps_text()} all completions got the same reward although they differ "
        f"({shown(mean)} on average). {loss}",
        remedies[kind],
        {"share": share, "prompts": int(own_P.sum()), "mean_reward": mean},
    )


def _lacks_generation_groups(view: RunView) -> str | None:
    groups = view.completions.generation_groups
    count = int(((groups.counted_P >= 2) & (groups.distinct_P >= 2)).sum())
    if count >= LEAST_PROMPTS:
        return None
    return f"{count} prompts with different completions so far, {LEAST_PROMPTS} are needed"


def find_missing_rewards(view: RunView) -> Iterator[Finding]:
    """Completions without a reward, from which nothing is learnt."""
    completions = view.completions
    scored_N = completions.scored_N
    if view.recipe.advantage.aggregate == "normalize_then_sum":
        # The rewards that a completion has count without those that are missing.
        labels = {section.label for section in view.recipe.rewards if section.weight != 0}
        parts = [own_N for name, own_N in completions.parts.items() if name.partition(".")[0] in labels]
        scored_N = np.any([scored_N, *(~np.isnan(own_N) for own_N in parts)], axis=0)
    share = float(1 - scored_N.mean())
    if share < MISSING_SHARE:
        return
    yield Finding(
        "missing-rewards",
        None,
        "problem" if share == 1 else "warning",
        f"{percent(share)} of the {len(completions)} completions in {completions.steps_text()} got no reward "
        "(NaN or None), so nothing is learnt from them.",
        "Let every reward return a number for each completion that it can score: if one is missing, the "
        "whole sum is missing. Give a reward that applies to some users only its `preference_groups`; "
        "`weight: 0` "
        "takes a reward out of the sum.",
        {"share": share, "completions": len(completions)},
    )


def _lacks_completions(view: RunView) -> str | None:
    count = len(view.completions)
    return None if count >= LEAST_REWARDS else f"{count} completions so far, {LEAST_REWARDS} are needed"


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
