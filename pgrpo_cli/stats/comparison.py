"""The lines of a comparison: one method against the reference, by preference group and over them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from statistics import fmean

import numpy as np

from pgrpo_cli.seeding import derive_seed

from .comparison_types import Pair
from .estimates import PromptValues, Resampler, differences_of, shared_prompts, verdict
from .intervals import Bootstrap, Floats, Interval
from .methods import Difference, difference_of, holm, p_value, seeds_interval, units_needed
from .result_types import Estimate, Unit, Verdict

_MOST_SEEDS = 100
_MOST_UNITS = 10_000


@dataclass(frozen=True)
class Side:
    """A method's label, and for each of its seeds the prompts' values of the tuned model."""

    label: str
    seeds: tuple[int, ...]
    values: tuple[PromptValues, ...]


@dataclass(frozen=True)
class _Line:
    preference_group: str | None
    means: tuple[float, float]
    difference: Difference | None
    estimate: Estimate
    p_value: float

    @property
    def units(self) -> int:
        """How many units are resampled: prompts, or users where one has several."""
        return 0 if self.difference is None else sum(part.count for part in self.difference.units)

    @property
    def unit(self) -> Unit:
        return "user" if self.units < self.estimate.n else "prompt"


def pairs_of(
    side: Side, reference: Side, bootstrap: Bootstrap, users: Mapping[str, str] | None = None
) -> list[Pair]:
    """`side` minus `reference`: one line per preference group, then the macro line.

    Prompts count that all runs of both have. `users`: who asked, by prompt id, where that is known; intervals
    then resample users. Verdicts of preference groups hold after Holm's correction over
    them; the macro line is one question and needs none.
    """
    both = (*side.values, *reference.values)
    # Each run cut down to what it shares with all others; every preference group of any stays, if only empty.
    common = reduce(lambda kept, other: shared_prompts(kept, other)[0], both[1:], both[0])
    common = {group: common.get(group, {}) for group in sorted({g for values in both for g in values})}
    groups = list(common)
    resampler = Resampler(bootstrap, users or {})
    lines = [_line(group, [group], side, reference, common, resampler) for group in groups]
    adjusted = holm([line.p_value for line in lines])
    macro = _line(None, groups, side, reference, common, resampler)
    alpha = 1 - bootstrap.confidence
    counted = max(1, sum(not math.isnan(line.p_value) for line in lines))
    pairs = [_pair(line, side, reference, p, alpha, counted) for line, p in zip(lines, adjusted, strict=True)]
    return [*pairs, _pair(macro, side, reference, macro.p_value, alpha, 1)]


def paired_seeds(side: Side, reference: Side) -> bool:
    """Whether both have the same seeds, none twice: then differences are taken seed by seed."""
    return len(set(side.seeds)) == len(side.seeds) and sorted(side.seeds) == sorted(reference.seeds)


def _line(
    name: str | None,
    groups: Sequence[str],
    side: Side,
    reference: Side,
    common: PromptValues,
    resampler: Resampler,
) -> _Line:
    prompts = {group: sorted(common[group]) for group in groups if common[group]}
    n = sum(map(len, prompts.values()))
    if not n:
        nothing = Estimate(mean=math.nan, ci_low=math.nan, ci_high=math.nan, n=0)
        return _Line(name, (math.nan, math.nan), None, nothing, math.nan)
    bootstrap, units = resampler.bootstrap, [resampler.units(found) for found in prompts.values()]
    paired = paired_seeds(side, reference)
    strata = [
        (_matrix(side, group, found, paired), _matrix(reference, group, found, paired))
        for group, found in prompts.items()
    ]
    alike = paired or len(side.seeds) == len(reference.seeds) == 1
    difference = difference_of(strata, paired_seeds=alike, units=units)
    if difference.seeds:
        seeded = replace(bootstrap, seed=derive_seed(bootstrap.seed, "seeds", *prompts))
        interval = seeds_interval(difference, seeded)
    else:
        interval = _over_units(side.values[0], reference.values[0], prompts, resampler)
    means = tuple(fmean(float(pair[i].mean()) for pair in strata) for i in (0, 1))
    estimate = Estimate(mean=interval.mean, ci_low=interval.low, ci_high=interval.high, n=n)
    return _Line(name, (means[0], means[1]), difference, estimate, p_value(difference))


def _over_units(
    values: PromptValues, reference: PromptValues, prompts: dict[str, list[str]], resampler: Resampler
) -> Interval:
    chosen = {group: {p: values[group][p] for p in found} for group, found in prompts.items()}
    weights = dict.fromkeys(prompts, 1.0)
    found = resampler.mean(differences_of(chosen, reference), weights)
    return Interval(found.mean, found.ci_low, found.ci_high)


def _matrix(side: Side, group: str, prompts: Sequence[str], paired: bool) -> Floats:
    """[seeds, prompts]; by seed where seeds are paired."""
    order = range(len(side.seeds))
    rows = sorted(order, key=lambda i: side.seeds[i]) if paired else order
    return np.array([[side.values[i][group][p] for p in prompts] for i in rows], np.float64)


def _pair(
    line: _Line, side: Side, reference: Side, p_adjusted: float, alpha: float, comparisons: int
) -> Pair:
    alone = verdict(line.estimate)
    says: Verdict = alone
    if alone in ("ahead", "behind") and not p_adjusted <= alpha:
        says = "can't tell"
    seeds = min(len(side.seeds), len(reference.seeds))
    several = line.difference is not None and bool(line.difference.seeds)
    needed = None
    if says == "can't tell" and line.difference is not None:
        most = _MOST_SEEDS if several else _MOST_UNITS
        needed = units_needed(line.difference, alpha / comparisons, most)
    return Pair(
        run=side.label,
        reference=reference.label,
        preference_group=line.preference_group,
        difference=line.estimate.mean,
        ci_low=line.estimate.ci_low,
        ci_high=line.estimate.ci_high,
        n=line.estimate.n,
        unit=line.unit,
        units=line.units,
        verdict=says,
        run_mean=line.means[0],
        reference_mean=line.means[1],
        seeds=seeds,
        effect_size=math.nan if line.difference is None else line.difference.effect_size,
        p_value=line.p_value,
        p_adjusted=p_adjusted,
        needed=needed,
        explanation=_explanation(says, alone, line, seeds, several, needed, comparisons),
    )


def _explanation(
    says: Verdict,
    alone: Verdict,
    line: _Line,
    seeds: int,
    several: bool,
    needed: int | None,
    comparisons: int,
) -> str:
    """The verdict in plain words, and what would settle it."""
    if says != "can't tell":
        return says
    if line.estimate.n == 0:
        return "can't tell: no prompt in common"
    if math.isnan(line.p_value):
        return f"can't tell with a single {line.unit}"
    unit, most = ("seed", _MOST_SEEDS) if several else (line.unit, _MOST_UNITS)
    count = seeds if several else line.units
    told = f"can't tell with {count} {unit}{'s' if count > 1 else ''}"
    if alone != says:
        told = f"can't tell: {alone} by itself, not as one of {comparisons}"
        return told if needed is None else f"{told}; about {needed} {unit}s would"
    if needed is not None:
        return f"{told}; about {needed} would"
    short = several and _units_are_too_few(line)
    return f"{told}; more {line.unit}s are needed" if short else f"{told}; nor would {most}"


def _units_are_too_few(line: _Line) -> bool:
    """Whether the choice of prompts or users alone hides the difference, however many seeds there are."""
    assert line.difference is not None
    return sum(p.variance for p in line.difference.units) * 2.8**2 > line.difference.mean**2
