"""How the gains of training are distributed over preference groups.

A gain is tuned minus base, paired by prompt, in reward units. The extremes and the spread of noisy numbers
are larger than those of the true values, and resampling would add noise once more. So they have no bootstrap
interval. Instead the worst gain has an interval that holds for every preference group at once (Bonferroni),
and the spread is also given without the part that noise adds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

from .estimates import PromptValues, Resampler
from .result_types import Detail, Fairness, Minority, Worst


def fairness(
    gains: PromptValues,
    details: Mapping[str, Detail],
    weights: Mapping[str, float],
    minority_share: float,
    resampler: Resampler,
) -> Fairness:
    """The fairness of the preference groups' gains. `weights`: the number of training prompts of each."""
    known = {group: own for group, own in gains.items() if own}
    means = {group: resampler.mean(known, {group: 1.0}).mean for group in known}
    errors = [resampler.standard_error(own) for own in known.values()]
    several = len(means) > 1
    return Fairness(
        worst=_worst(known, means, resampler) if known else None,
        range=max(means.values()) - min(means.values()) if several else math.nan,
        std=statistics.stdev(means.values()) if several else math.nan,
        std_beyond_noise=_beyond_noise(list(means.values()), errors) if several else math.nan,
        jain=jain_index([details[group].effect.mean for group in known]) if several else math.nan,
        minority=_minority(known, weights, minority_share, resampler),
    )


def jain_index(gains: list[float]) -> float:
    """Jain's index (1984) of gains in comparable units: (sum of x)² / (K · sum of x²) with x = max(gain, 0).

    It is 1 if all preference groups gain the same, and 1/K if only one of K gains. A loss counts as a gain of
    0. If no preference group gains it is 0. It is NaN if a gain is unknown.
    """
    if not gains or any(map(math.isnan, gains)):
        return math.nan
    shares = [max(gain, 0.0) for gain in gains]
    squares = math.fsum(share**2 for share in shares)
    return math.fsum(shares) ** 2 / (len(shares) * squares) if squares > 0 else 0.0


def _worst(gains: PromptValues, means: Mapping[str, float], resampler: Resampler) -> Worst:
    group = min(sorted(means), key=means.__getitem__)
    confidence = 1 - (1 - resampler.bootstrap.confidence) / len(means)
    bootstrap = replace(resampler.bootstrap, confidence=confidence)
    simultaneous = replace(resampler, bootstrap=bootstrap)
    return Worst(preference_group=group, gain=simultaneous.gain(gains, {group: 1.0}))


def _beyond_noise(means: list[float], errors: list[float]) -> float:
    """The standard deviation of the true gains, by the method of moments: their observed variance minus the
    mean squared standard error.
    """
    noise = math.fsum(error**2 for error in errors) / len(errors)
    return math.nan if math.isnan(noise) else math.sqrt(max(0.0, statistics.variance(means) - noise))


def _minority(
    gains: PromptValues, weights: Mapping[str, float], share: float, resampler: Resampler
) -> Minority:
    total = math.fsum(weights.values())
    few = {group: total > 0 and weights.get(group, 0.0) / total < share for group in gains}
    minority, majority = (
        {group: 1.0 for group in sorted(gains) if few[group] == wanted} for wanted in (True, False)
    )
    gap = {group: 1 / len(minority) for group in minority}
    gap |= {group: -1 / len(majority) for group in majority}
    gap = gap if minority and majority else {}
    return Minority(
        share=share,
        preference_groups=list(minority),
        minority=resampler.gain(gains, minority),
        majority=resampler.gain(gains, majority),
        gap=resampler.unless_equal(resampler.combination(gains, gap), gap),
    )
