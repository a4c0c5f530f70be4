"""Rules about the reward history: one that lags behind recent rewards, and preference groups that are too
rare.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator

from pgrpo_cli.recipe.training import EmaHistory, WindowHistory

from .finding import MOST_PREFERENCE_GROUPS, Finding, Rule, shown
from .view import RECENT_STEPS, Flags, RunView, group_masks

LAG = 1.0
"""In standard deviations of the history, which is the unit of advantages. The average recent answer then has
an advantage of 1, and five of six answers are pushed in the same direction, good or bad.
"""
LEAST_PROMPTS = 4
"""How many recent prompts are needed for a recent mean."""
LEAST_PAST = 64
"""How many rewards the history needs. A new history consists mostly of recent rewards."""
RARE_PROMPTS = 5.0
"""Prompts in a whole run. With 8 completions each they give 40 rewards, which determine a mean to a sixth of
a standard deviation, but hardly teach a taste.
"""
TRIAL_PROMPTS = 100
"""A run that samples fewer prompts than this in total is a trial, in which every preference group is rare."""
_TWO_ERRORS = 2.0
_ADAPTIVE = ", so that it forgets sooner; or advantage.estimator=pgrpo_adaptive, which"


def find_lag(view: RunView) -> Iterator[Finding]:
    """Preference groups whose recent rewards are far from the mean that is subtracted from them."""
    groups = view.completions.generation_groups
    recent_P = (groups.step_P > view.step - RECENT_STEPS) & (groups.counted_P > 0)
    findings: list[tuple[float, Finding]] = []
    names = view.completions.preference_groups
    for name, own_P in group_masks(groups.preference_group_P, names, recent_P, LEAST_PROMPTS):
        past = None if name is None else view.histories.get(name)
        if name is None or past is None or past.n < LEAST_PAST or not past.std > 0:
            continue
        if _remembered(view, past.n) <= int(groups.counted_P[own_P].sum()):
            # It has forgotten what is older than these steps: it cannot lag behind them.
            continue
        now, error = _mean_and_error(view, own_P)
        if abs(now - past.mean) - _TWO_ERRORS * error > LAG * past.std:
            findings.append((abs(now - past.mean) / past.std, _lag(view, name, now, own_P)))
    yield from (finding for _, finding in sorted(findings, key=lambda pair: -pair[0]))


def _mean_and_error(view: RunView, own_P: Flags) -> tuple[float, float]:
    """The mean over prompts of their mean rewards, and its standard error. It is taken over prompts because
    the rewards of one prompt are not independent.
    """
    means = view.completions.generation_groups.mean_P[own_P]
    return float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))


def _lag(view: RunView, name: str, now: float, own_P: Flags) -> Finding:
    past, kind = view.histories[name], view.recipe.history.kind
    lag = (now - past.mean) / past.std
    way = "up" if lag > 0 else "down"
    remembered, least = _remembered(view, past.n), 4.0 * view.recipe.rollout.num_generations
    # A quarter of the rewards remembered now, but at least those of some prompts.
    memory = min(max(remembered / 4, least), 200.0)
    if memory >= remembered:
        remedy = "Set advantage.estimator=pgrpo_adaptive, which"
    elif isinstance(kind, WindowHistory):
        remedy = f"Set history.kind.size={memory:.0f}{_ADAPTIVE}"
    else:
        decay = round(1 - 1 / memory, 4)
        ema = f"history.kind.type=ema and history.kind.decay={decay:g} (about {memory:.0f} rewards)"
        remedy = f"Set {ema}{_ADAPTIVE}"
    return Finding(
        "history-lag",
        name,
        "warning",
        f"The history mean of preference group {name!r} ({shown(past.mean)}) lags behind its rewards of the "
        f"last {RECENT_STEPS} steps (mean {shown(now)}) by {abs(lag):.1f} standard deviations: most answers "
        f"are pushed {way}, good or bad.",
        f"{remedy} combines it with the mean of the other answers to the same prompt.",
        {"history_mean": past.mean, "recent_mean": now, "std": past.std, "prompts": int(own_P.sum())},
    )


def _remembered(view: RunView, n: float) -> float:
    """How many of `n` rewards a history of the run's kind remembers."""
    kind = view.recipe.history.kind
    if isinstance(kind, WindowHistory):
        return min(n, kind.size)
    return min(n, 1 / (1 - kind.decay)) if isinstance(kind, EmaHistory) else n


def _lacks_past(view: RunView) -> str | None:
    if view.estimator.baseline != "history":
        return f"advantage.estimator {view.recipe.advantage.estimator} does not subtract the history's mean"
    if view.recipe.history.preference_groups == "random":
        return "history.preference_groups is random: histories are not those of the preference groups"
    enough = any(past.n >= LEAST_PAST for past in view.histories.values())
    return None if enough else f"no preference group has {LEAST_PAST} rewards yet"


def find_rare(view: RunView) -> Iterator[Finding]:
    """Preference groups that are hardly sampled in the planned steps."""
    train, data = view.recipe.train, view.training_prompts
    sampled = train.steps * train.prompts_per_step
    # Under `balanced` no preference group is sampled less often than another.
    if sampled < TRIAL_PROMPTS or train.sampler == "balanced":
        return
    # Those with strictly fewer prompts than the bound. Pairs compare by count first, and "" is the least
    # name.
    rare = data.ascending[: bisect_left(data.ascending, (RARE_PROMPTS * data.total / sampled, ""))]
    if len(rare) <= MOST_PREFERENCE_GROUPS:
        yield from (_rare(view, name, prompts) for prompts, name in rare)
        return
    names = ", ".join(repr(name) for _, name in rare[:MOST_PREFERENCE_GROUPS])
    yield Finding(
        "rare-preference-group",
        None,
        "note",
        f"{len(rare)} of {len(data.ascending)} preference groups, such as {names}, are sampled fewer than "
        f"{RARE_PROMPTS:.0f} times in {train.steps} steps. That is too little to learn the taste of each; "
        "they mostly get what the others teach.",
        "Join users of similar taste into one preference group, set train.sampler=balanced, or train longer "
        "(train.steps, train.prompts_per_step).",
        {"preference_groups": len(rare), "of": len(data.ascending)},
    )


def _rare(view: RunView, name: str, prompts: int) -> Finding:
    train, total = view.recipe.train, view.training_prompts.total
    expected = train.steps * train.prompts_per_step * prompts / total
    steps = math.ceil(2 * RARE_PROMPTS / prompts * total / train.prompts_per_step)
    return Finding(
        "rare-preference-group",
        name,
        "note",
        f"Preference group {name!r} has {prompts} of {total} training prompts: in {train.steps} steps it is "
        f"sampled about {shown(expected)} times. That is too little to learn its taste; it mostly gets what "
        "the others teach.",
        f"Give it more prompts, set train.sampler=balanced, train longer (train.steps={steps} gives "
        f"{2 * RARE_PROMPTS:.0f}), or join it with users of similar taste into one preference group.",
        {"training_prompts": prompts, "expected": expected},
    )


def _lacks_counts(view: RunView) -> str | None:
    return None if view.training_prompts.total else "the prepared data are not available"


RULES = (
    Rule(
        "history-lag",
        "Does the reward history keep up with recent rewards?",
        _lacks_past,
        find_lag,
    ),
    Rule(
        "rare-preference-group",
        "Is every preference group sampled often enough in the steps planned?",
        _lacks_counts,
        find_rare,
    ),
)
