"""The reward history: one that lags behind the present, and a preference group too rare to fill it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator

from pgrpo_cli.recipe.training import EmaHistory, WindowHistory

from .finding import MOST_PREFERENCE_GROUPS, Finding, Rule, shown
from .view import RECENT_STEPS, Flags, RunView, group_masks

LAG = 1.0
"""In standard deviations of the history, the unit of an advantage: the average answer of today then has an
advantage of 1, and five in six are pushed the same way, good or bad."""
LEAST_PROMPTS = 4
"""Recent prompts behind the present mean."""
LEAST_PAST = 64
"""Rewards in the history: a young one is nearly all present."""
RARE_PROMPTS = 5.0
"""Prompts in a whole run: at 8 completions 40 rewards, from which a mean is known to a sixth of a standard
deviation, and little else is learnt."""
TRIAL_PROMPTS = 100
"""A run that samples fewer prompts in all is a trial, in which everything is rare."""
_TWO_ERRORS = 2.0


def find_lag(view: RunView) -> Iterator[Finding]:
    """Preference groups whose recent rewards stand far from the mean that is subtracted from them."""
    found = view.completions.generation_groups
    recent_P = (found.step_P > view.step - RECENT_STEPS) & (found.counted_P > 0)
    told: list[tuple[float, Finding]] = []
    names = view.completions.preference_groups
    for name, own_P in group_masks(found.preference_group_P, names, recent_P, LEAST_PROMPTS):
        past = None if name is None else view.histories.get(name)
        if name is None or past is None or past.n < LEAST_PAST or not past.std > 0:
            continue
        now, error = _mean_and_error(view, own_P)
        if abs(now - past.mean) - _TWO_ERRORS * error > LAG * past.std:
            told.append((abs(now - past.mean) / past.std, _lag(view, name, now, own_P)))
    yield from (finding for _, finding in sorted(told, key=lambda pair: -pair[0]))


def _mean_and_error(view: RunView, own_P: Flags) -> tuple[float, float]:
    """Mean over prompts of their mean rewards, and its standard error: completions of a prompt are no
    independent rewards.
    """
    means = view.completions.generation_groups.mean_P[own_P]
    return float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))


def _lag(view: RunView, name: str, now: float, own_P: Flags) -> Finding:
    past, kind = view.histories[name], view.recipe.history.kind
    lag = (now - past.mean) / past.std
    way = "up" if lag > 0 else "down"
    if isinstance(kind, WindowHistory):
        remedy = f"Set history.kind.size={max(16, kind.size // 4)}"
    else:
        # A quarter of what is remembered now, but some prompts at least.
        remembered = 1 / (1 - kind.decay) if isinstance(kind, EmaHistory) else past.n
        memory = min(max(remembered / 4, 4.0 * view.recipe.rollout.num_generations), 200.0)
        decay = round(1 - 1 / memory, 4)
        remedy = f"Set history.kind.type=ema and history.kind.decay={decay:g} (about {memory:.0f} rewards)"
    return Finding(
        "history-lag",
        name,
        "warning",
        f"The history mean of preference group {name!r} ({shown(past.mean)}) lags behind its rewards of the "
        f"last {RECENT_STEPS} steps (mean {shown(now)}) by {abs(lag):.1f} standard deviations: most answers "
        f"are pushed {way}, good or bad, because of the past.",
        f"{remedy}, so that it forgets sooner; or advantage.estimator=pgrpo_adaptive, which weighs it "
        "against the other answers to the same prompt.",
        {"history_mean": past.mean, "recent_mean": now, "std": past.std, "prompts": int(own_P.sum())},
    )


def _lacks_past(view: RunView) -> str | None:
    if view.estimator.baseline != "history":
        return f"advantage.estimator {view.recipe.advantage.estimator} does not subtract it"
    enough = any(past.n >= LEAST_PAST for past in view.histories.values())
    return None if enough else f"no preference group has {LEAST_PAST} rewards yet"


def find_rare(view: RunView) -> Iterator[Finding]:
    """Preference groups that the planned steps hardly meet."""
    train, data = view.recipe.train, view.training_prompts
    sampled = train.steps * train.prompts_per_step
    if sampled < TRIAL_PROMPTS:
        return
    # Strictly fewer prompts than the bound: names compare after counts, and "" before all of them.
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
        f"{RARE_PROMPTS:.0f} times in {train.steps} steps. That is too little to learn the taste of each "
        "from; what they get, the others teach.",
        "Join users of like taste into one preference group, or train longer (train.steps, "
        "train.prompts_per_step).",
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
        f"sampled about {shown(expected)} times. That is too little to learn its taste from; what it gets, "
        "the others teach.",
        f"Give it more prompts, train longer (train.steps={steps} makes {2 * RARE_PROMPTS:.0f}), or join it "
        "with users of like taste into one preference group.",
        {"training_prompts": prompts, "expected": expected},
    )


def _lacks_counts(view: RunView) -> str | None:
    return None if view.training_prompts.total else "the prepared data are not known"


RULES = (
    Rule(
        "history-lag",
        "Does the reward history keep up with the present?",
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
