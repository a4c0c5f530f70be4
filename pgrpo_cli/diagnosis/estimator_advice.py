"""Which estimator suits a run: the one that is predicted to be most efficient with its recent rewards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pgrpo_cli.algo.estimators import PRESETS, resolve_estimator

from .efficiency import ENOUGH_PROMPTS, Components, mean_efficiency, recent_components
from .finding import Finding, Rule
from .spread import DEAD_SHARE
from .view import Completions, Floats, RunView

COMPARED = ("pgrpo", "grpo", "pgrpo_adaptive")
"""The estimators of the advice. pgrpo_shrinkage is predicted as pgrpo_adaptive is; those without a scale and
pgrpo_centered lie between grpo and pgrpo_adaptive.
"""
ABOUT = 0.95
"""From this share of the best efficiency on pgrpo is taken, which is simpler: 5 % more completions make up
for the rest.
"""
INEFFICIENT = 0.5
"""Below this share of the best efficiency `doctor` speaks: the run needs twice as many completions."""
GENERATIONS = (2, 4, 8, 16)
"""Completions per prompt for which efficiencies are shown."""
UNLIKE_SPREADS = 10.0
"""From this ratio of spreads s on, estimators without a scale mostly follow the preference group with the
largest spread: at a ratio of 4 they lost nothing, at 32 a tenth of the area.
"""


@dataclass(frozen=True)
class Advice:
    """The recommended `advantage.estimator` (None: too early to tell), and the reason.

    `efficiencies`: of each of COMPARED, by number of completions per prompt; empty if it is too early.
    """

    estimator: str | None
    sentence: str
    efficiencies: Mapping[int, Mapping[str, float]]


def efficiencies(components: list[Components], num_generations: int) -> dict[str, float]:
    """The predicted efficiency of each of COMPARED, the mean over preference groups."""
    return {name: mean_efficiency(resolve_estimator(name), components, num_generations) for name in COMPARED}


def suiting(predicted: Mapping[str, float]) -> str:
    """The estimator that suits a run with these efficiencies."""
    return "pgrpo" if predicted["pgrpo"] >= ABOUT * predicted["pgrpo_adaptive"] else "pgrpo_adaptive"


def components_of(view: RunView, part_means: Mapping[str, Mapping[str, float]]) -> dict[str, Components]:
    """The components of each preference group. Where each reward has a history of its own (`part_means`:
    label to preference group to mean), those of each reward, as `label/preference group`.
    """
    completions = view.completions
    if not part_means:
        means = {name: past.mean for name, past in view.histories.items()}
        return recent_components(completions, completions.reward_N, means)
    return {
        f"{label}/{group}": one
        for label, means in part_means.items()
        if (values_N := _values(completions, label)) is not None
        for group, one in recent_components(completions, values_N, means).items()
    }


def without_values(view: RunView, labels: Iterable[str]) -> list[str]:
    """Those of the rewards whose completions have the parts of the value, and not the value."""
    completions = view.completions
    unknown = [label for label in labels if _values(completions, label) is None]
    return [label for label in unknown if any(part.startswith(f"{label}.") for part in completions.parts)]


def _values(completions: Completions, label: str) -> Floats | None:
    return completions.parts.get(label, completions.parts.get(f"{label}.value"))


def estimator_advice(
    components: Mapping[str, Components], num_generations: int, *, random_groups: bool = False
) -> Advice:
    """The advice for a run with these components. `random_groups`: its histories are of preference groups
    drawn by chance.
    """
    if not components:
        return Advice(None, _RANDOM if random_groups else _TOO_EARLY, {})
    known = list(components.values())
    by_G = {G: efficiencies(known, G) for G in sorted({*GENERATIONS, num_generations})}
    predicted = by_G[num_generations]
    estimator = suiting(predicted)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in predicted.items())
    sentence = (
        f"Predicted efficiency at G = {num_generations}: {shown}; 1 is a baseline that knows the expected "
        f"reward of every prompt. {_reason(estimator)}{_on_spreads(components)}"
    )
    return Advice(estimator, sentence, by_G)


_RANDOM = (
    "No estimator is recommended: history.preference_groups is random, so these histories are not those of "
    "the run's preference groups."
)
_TOO_EARLY = (
    f"Too early to tell which estimator suits: no preference group has {ENOUGH_PROMPTS} recent prompts with "
    "rewards that differ."
)


def _reason(estimator: str) -> str:
    if estimator == "pgrpo":
        return (
            "pgrpo suits: prompts of a preference group are about equally difficult, and the history keeps "
            "up with recent rewards."
        )
    return (
        "pgrpo_adaptive suits: prompts of a preference group differ in difficulty, or recent rewards have "
        "left the history's mean behind, so that a prompt's own mean has to count."
    )


def _on_spreads(components: Mapping[str, Components]) -> str:
    """A sentence if the rewards of some preference groups vary much more than those of others."""
    spreads = {name: math.sqrt(one.within) for name, one in components.items()}
    largest, smallest = (pick(spreads, key=spreads.__getitem__) for pick in (max, min))
    ratio = spreads[largest] / spreads[smallest]
    if ratio < UNLIKE_SPREADS:
        return ""
    unscaled = " and ".join(name for name, (_, scale) in PRESETS.items() if scale == "none")
    return (
        f" Rewards of {largest} vary {ratio:.3g} times as much as those of {smallest}: {unscaled}, "
        f"which do not divide by a spread, would mostly follow {largest}."
    )


def find_inefficient(view: RunView) -> Iterator[Finding]:
    """Another estimator would need far fewer completions."""
    G, components = view.recipe.rollout.num_generations, _without_other_findings(view)
    if not components:
        return
    predicted, own = efficiencies(components, G), mean_efficiency(view.estimator, components, G)
    best = max(predicted.values())
    if own >= INEFFICIENT * best:
        return
    name, better = view.recipe.advantage.estimator, suiting(predicted)
    yield Finding(
        "inefficient-estimator",
        None,
        "note",
        f"With {G} completions per prompt the efficiency of {name} is predicted to be {own:.2f}, that of "
        f"{better} {predicted[better]:.2f}: {name} needs about {best / own:.1f} times as many completions. "
        "Runs of a small policy agree; runs of a language model are too noisy to tell.",
        f"Set advantage.estimator={better}.",
        {"efficiency": own, **predicted},
    )


def _without_other_findings(view: RunView) -> list[Components]:
    """The components without what other rules speak of: a history that lags behind, and preference groups
    whose prompts mostly have equal rewards.
    """
    groups, names = view.completions.generation_groups, view.completions.preference_groups
    equal_P = groups.low_P == groups.high_P
    return [
        replace(one, lag=0.0)
        for name, one in components_of(view, {}).items()
        if equal_P[groups.preference_group_P == names.index(name)].mean() < DEAD_SHARE
    ]


def _lacks_components(view: RunView) -> str | None:
    if view.recipe.advantage.aggregate == "normalize_then_sum":
        return "each part of the rewards has a history of its own; see `pgrpo groups`"
    if view.recipe.history.preference_groups == "random":
        return "history.preference_groups is random: histories are not those of the preference groups"
    if components_of(view, {}):
        return None
    return f"no preference group has {ENOUGH_PROMPTS} recent prompts with rewards that differ"


RULES = (
    Rule(
        "inefficient-estimator",
        "Does the estimator suit these rewards?",
        _lacks_components,
        find_inefficient,
    ),
)
