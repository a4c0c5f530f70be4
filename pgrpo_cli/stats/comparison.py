"""A comparison: its result, and its lines, which are those of one method against the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from statistics import fmean
from typing import Any, Literal

import numpy as np

from pgrpo_cli.seeding import derive_seed

from .estimates import (
    ROUNDING,
    PromptValues,
    Resampler,
    differences_of,
    shared_prompts,
    unless_equal,
    verdict,
)
from .intervals import Bootstrap, Floats, Interval
from .methods import (
    Difference,
    difference_of,
    holm,
    p_value,
    seeds_interval,
    variance_shares,
)
from .power import detectable, hidden_by_units, units_needed
from .result_types import Data, Estimate, Number, SeedRange, Unit, Verdict

_MOST_SEEDS = 100
_MOST_UNITS = 10_000
_ENOUGH_SEEDS = 3
"""With fewer the spread between seeds is as good as unknown, so nothing is said of more seeds."""


class VarianceShares(Data):
    """What the variance of a difference of several seeds consists of; the three add up to 1.

    `rest`: what seed and prompt have together, and the sampling of completions.
    """

    seeds: Number
    units: Number
    rest: Number


class Pair(Data):
    """One line of a comparison: the tuned model of `run` minus that of `reference`, paired over `n` prompts.

    `run` and `reference` are labels of runs, or of methods if seeds are grouped. `preference_group` is None
    on the macro line, where each preference group counts once. Intervals resample `units` units, which are
    prompts, or users if a user has several prompts. `detectable`: the smallest true difference that would be
    found with a probability of 80 %. docs/metrics.md has the formulas.
    """

    run: str
    reference: str
    preference_group: str | None
    difference: Number
    ci_low: Number
    ci_high: Number
    n: int
    unit: Unit
    units: int
    verdict: Verdict
    run_mean: Number
    reference_mean: Number
    seeds: int
    effect_size: Number
    p_value: Number
    p_adjusted: Number
    detectable: Number
    needed: int | None
    variance: VarianceShares | None
    explanation: str


class Method(Data):
    """Runs that differ only in their seeds, or a single run. `label` names it in all lines."""

    label: str
    runs: list[str]
    seeds: list[int]


CurveSource = Literal["held-out", "training"]


class Learning(Data):
    """How fast a method learns in one preference group (None: the macro mean), over its seeds.

    - `source`: which rewards the curve shows.
    - `area`: the mean height of the curve over the steps that all runs have.
    - `area_difference`: the area minus that of the reference. Its interval is over prompts and seeds, as in
      `Pair`, if the curves have values by prompt; else over seeds.
    - `area_verdict`, `area_explanation`: as in `Pair`; None and empty for the reference.
    - `reached`: how many seeds reach `threshold`.
    - `steps`, `seconds`: how long the curve needs to reach it; unknown unless all seeds do.
    """

    method: str
    preference_group: str | None
    source: CurveSource
    area: Estimate
    area_difference: Estimate
    area_verdict: Verdict | None
    area_explanation: str
    threshold: Number
    reached: int
    steps: SeedRange
    seconds: SeedRange


class ComparedRun(Data):
    """One run of a comparison. `differs`: the recipe keys that differ between the runs, with its values."""

    run: str
    step: int
    macro: Estimate
    differs: dict[str, Any]


class Comparison(Data):
    """The result of `pgrpo compare`. The first run, or its method, is the reference.

    `by`: the recipe keys in which methods differ; empty if every run is a method of its own. `standardised`:
    the macro line of each method with the rewards of each preference group in standard deviations of the base
    model's, so that groups with large rewards do not carry most of the noise.
    """

    version: Literal[1] = 1
    reference: str
    confidence: float
    by: list[str]
    methods: list[Method]
    runs: list[ComparedRun]
    pairs: list[Pair]
    standardised: list[Pair]
    learning: list[Learning]
    notes: list[str]


@dataclass(frozen=True)
class Side:
    """The label of a method, its seeds, and for each seed the values of the tuned model by prompt.

    `texts`: for each seed the completions of each preference group, where they are known.
    """

    label: str
    seeds: tuple[int, ...]
    values: tuple[PromptValues, ...]
    texts: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True)
class _Line:
    preference_group: str | None
    means: tuple[float, float]
    difference: Difference | None
    estimate: Estimate
    p_value: float

    @property
    def units(self) -> int:
        """How many units are resampled: prompts, or users if a user has several prompts."""
        return 0 if self.difference is None else self.difference.unit_count

    @property
    def unit(self) -> Unit:
        return "user" if self.units < self.estimate.n else "prompt"


def pairs_of(
    side: Side, reference: Side, bootstrap: Bootstrap, users: Mapping[str, str] | None = None
) -> list[Pair]:
    """`side` minus `reference`: one line per preference group, then the macro line.

    Only prompts that all runs of both methods have are used. `users`: the user of each prompt id, as far as
    known; intervals then resample users. The verdicts of preference groups are corrected for their number by
    Holm's method. The macro line is a single test and needs no correction.
    """
    both = (*side.values, *reference.values)
    # Prompts that all runs share. A preference group of any run is kept even if it shares no prompt.
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
    bootstrap, units = resampler.bootstrap, [resampler.units(own) for own in prompts.values()]
    strata = [(_matrix(side, group, own), _matrix(reference, group, own)) for group, own in prompts.items()]
    difference = difference_of(strata, units=units)
    if difference.seeds:
        seeded = replace(bootstrap, seed=derive_seed(bootstrap.seed, "seeds", *prompts))
        interval = seeds_interval(difference, seeded)
    else:
        interval = _over_units(side.values[0], reference.values[0], prompts, resampler)
    means = tuple(fmean(float(pair[i].mean()) for pair in strata) for i in (0, 1))
    estimate = Estimate(mean=interval.mean, ci_low=interval.low, ci_high=interval.high, n=n)
    estimate = unless_equal(estimate, _equal(side, reference, prompts))
    return _Line(name, (means[0], means[1]), difference, estimate, p_value(difference))


def _equal(side: Side, reference: Side, groups: Iterable[str]) -> bool:
    """Whether both are one run, or two with the same completions."""
    if max(len(side.seeds), len(reference.seeds)) > 1:
        return False
    if side.values is reference.values:
        return True
    ours, theirs = ((*one.texts, {})[0] for one in (side, reference))
    return all(group in ours and ours[group] == theirs.get(group) for group in groups)


def _over_units(
    values: PromptValues, reference: PromptValues, prompts: dict[str, list[str]], resampler: Resampler
) -> Interval:
    chosen = {group: {p: values[group][p] for p in own} for group, own in prompts.items()}
    weights = dict.fromkeys(prompts, 1.0)
    estimate = resampler.mean(differences_of(chosen, reference), weights)
    return Interval(estimate.mean, estimate.ci_low, estimate.ci_high)


def _matrix(side: Side, group: str, prompts: Sequence[str]) -> Floats:
    """The values as [seeds, prompts]."""
    return np.array([[values[group][p] for p in prompts] for values in side.values], np.float64)


def _pair(
    line: _Line, side: Side, reference: Side, p_adjusted: float, alpha: float, comparisons: int
) -> Pair:
    alone = verdict(line.estimate)
    says: Verdict = alone
    if alone in ("ahead", "behind") and not p_adjusted <= alpha:
        says = "can't tell"
    seeds = min(len(side.seeds), len(reference.seeds))
    several = line.difference is not None and bool(line.difference.seeds)
    needed, shares, visible = None, None, math.nan
    if line.difference is not None:
        shares = variance_shares(line.difference)
        visible = detectable(line.difference, alpha / comparisons)
        if says == "can't tell" and not (several and seeds < _ENOUGH_SEEDS):
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
        detectable=visible,
        needed=needed,
        variance=None if shares is None else VarianceShares(seeds=shares[0], units=shares[1], rest=shares[2]),
        explanation=_explanation(
            says, alone, line, seeds, several, visible, needed, alpha / comparisons, comparisons
        ),
    )


def _explanation(
    says: Verdict,
    alone: Verdict,
    line: _Line,
    seeds: int,
    several: bool,
    visible: float,
    needed: int | None,
    alpha: float,
    comparisons: int,
) -> str:
    """The verdict in plain words, which differences would probably have been seen, and how many seeds,
    prompts or users would be enough to see one as large as this.
    """
    if says != "can't tell":
        return says
    if line.estimate.n == 0:
        return "can't tell: no prompt in common"
    if math.isnan(line.p_value):
        single = f"a single {line.unit}"
        return f"can't tell {'with' if line.units == 1 else 'since a preference group has'} {single}"
    unit, most = ("seed", _MOST_SEEDS) if several else (line.unit, _MOST_UNITS)
    count = seeds if several else line.units
    text = f"can't tell with {count} {unit}{'s' if count > 1 else ''}"
    assert line.difference is not None
    if not line.difference.standard_error > ROUNDING:
        same = abs(line.estimate.mean) > ROUNDING
        return f"{text}, {'too few although all differ alike' if same else 'whose rewards are all equal'}"
    if math.isnan(line.estimate.ci_low):
        return f"can't tell since a preference group has too few {line.unit}s, which all differ alike"
    if alone != says:
        corrected = f"{alone} by itself, but not as one of {comparisons} comparisons"
        single = f"{alone} by its interval, but its p-value is {line.p_value:.2g}"
        text = f"can't tell: {corrected if comparisons > 1 else single}"
        return text if needed is None else f"{text}; about {needed} {unit}s would be enough"
    if several and seeds < _ENOUGH_SEEDS:
        return f"{text}: too few to say which differences they show"
    if not math.isnan(visible):
        text += f", which show differences of {visible:.2g} or more"
    if needed is not None:
        return f"{text}; about {needed} would be enough"
    short = several and hidden_by_units(line.difference, alpha)
    return f"{text}; more {line.unit}s are needed" if short else f"{text}; {most} would not be enough"
