"""Which estimator suits a run, from the variance components of its reward history.

The weight of a preference group is w = τ²/(τ² + s²/G). It is 0 if its prompts are equally difficult, and
close to 1 if they differ much, or if rewards have changed much during training. The bounds come from the
study in docs/reproduction.md, in which the mean weight at the end of a run predicts whether P-GRPO or GRPO
did better.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pgrpo_cli.algo.estimators import PRESETS

ENOUGH_PROMPTS = 10
"""With fewer prompts τ² is mostly noise: with 10 its standard error is at least half of its value."""
ALIKE, DIFFERENT = 0.75, 0.8
"""P-GRPO was never behind GRPO for mean weights up to the first bound, and always behind from the second on.
"""
UNLIKE_SPREADS = 10.0
"""From this ratio of spreads s on, estimators without a scale mostly follow the preference group with the
largest spread: at a ratio of 4 they lost nothing, at 32 a tenth of the area.
"""


class Components(Protocol):
    """The statistics of a preference group that are used here. Unknown variances are None."""

    @property
    def prompts(self) -> int: ...
    @property
    def within_variance(self) -> float | None: ...
    @property
    def between_variance(self) -> float | None: ...


@dataclass(frozen=True)
class Advice:
    """The recommended `advantage.estimator` (None: too early to tell), and the reason."""

    estimator: str | None
    sentence: str


def weight_of(group: Components, num_generations: int) -> float | None:
    """w for `num_generations` completions per prompt; None if there are too few rewards to tell."""
    within, between = group.within_variance, group.between_variance
    if group.prompts < ENOUGH_PROMPTS or within is None or between is None or within <= 0:
        return None
    return between / (between + within / num_generations)


def suiting(weight: float | None) -> str | None:
    """The estimator that suits a run with this mean weight."""
    if weight is None:
        return None
    return "pgrpo" if weight <= ALIKE else "pgrpo_adaptive"


def estimator_advice(groups: Mapping[str, Components], num_generations: int) -> Advice:
    """The advice for a run, from the histories of all its preference groups."""
    weights = {name: weight_of(group, num_generations) for name, group in groups.items()}
    known = [weight for weight in weights.values() if weight is not None]
    if not known:
        return Advice(None, _TOO_EARLY)
    weight = statistics.fmean(known)
    spreads = {
        name: math.sqrt(group.within_variance)
        for name, group in groups.items()
        if weights[name] is not None and group.within_variance is not None
    }
    return Advice(suiting(weight), f"{_on_prompts(weight)}{_on_spreads(spreads)} {_BASIS}")


_BASIS = (
    "The rule comes from a simulation; runs of one language model did not confirm it (docs/reproduction.md)."
)
_TOO_EARLY = (
    f"Too early to tell which estimator suits: no preference group has {ENOUGH_PROMPTS} prompts or more with "
    "rewards that differ."
)


def _on_prompts(weight: float) -> str:
    measured = f"w = {weight:.2f}, the mean of τ²/(τ² + s²/G) over preference groups"
    if weight <= ALIKE:
        return (
            f"Prompts of a preference group are alike ({measured}): pgrpo and pgrpo_adaptive suit, since "
            "their baselines vary less than grpo's."
        )
    if weight < DIFFERENT:
        return (
            f"Prompts of a preference group differ somewhat ({measured}): pgrpo_adaptive suits; pgrpo does "
            "no better than grpo."
        )
    return (
        f"Prompts of a preference group differ much, or the policy has moved far ({measured}): "
        "pgrpo_adaptive suits, or grpo; pgrpo learns later than both."
    )


def _on_spreads(spreads: Mapping[str, float]) -> str:
    """A sentence if the rewards of some preference groups vary much more than those of others."""
    largest, smallest = (pick(spreads, key=spreads.__getitem__) for pick in (max, min))
    ratio = spreads[largest] / spreads[smallest]
    if ratio < UNLIKE_SPREADS:
        return ""
    unscaled = " and ".join(name for name, (_, scale) in PRESETS.items() if scale == "none")
    return (
        f" Rewards of {largest} vary {ratio:.3g} times as much as those of {smallest}: {unscaled}, "
        f"which do not divide by a spread, would mostly follow {largest}."
    )
