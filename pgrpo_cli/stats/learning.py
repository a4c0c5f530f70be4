"""How fast methods learn: area under the learning curve, and steps and seconds until a threshold.

The curve of a run is the one on held-out prompts that was measured during training, if there is one.
Otherwise it is the smoothed training reward (`curves.py`), which is not measured on held-out prompts.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from statistics import fmean, stdev

from .comparison import CurveSource, Learning, Method, Pair, Side, pairs_of
from .curves import group_curves, half_life_of, macro_curve
from .estimates import ROUNDING, PromptValues, verdict
from .intervals import Bootstrap
from .result_types import CurvePoint, Estimate, SeedRange, Verdict
from .student_t import student_t_quantile, welch_df

CurveLine = list[tuple[int, float]]
"""(step, mean reward), in order of steps."""


_MOST_NAMES = 8


@dataclass(frozen=True)
class TrainingRecord:
    """What a run recorded during training.

    - `points`: training rewards.
    - `held_out`: by step, the mean reward of each preference group on held-out prompts; empty if nothing was
      measured.
    - `prompts`: by step, the same for each prompt of each preference group; empty if a step has no values by
      prompt.
    - `seconds`: how long each step took.
    """

    points: Sequence[CurvePoint] = ()
    held_out: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    prompts: Mapping[int, PromptValues] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)

    def seconds_until(self, step: float) -> float:
        """The seconds of all steps up to and including `step`; NaN if one of them was not recorded."""
        if math.isnan(step):
            return math.nan
        return math.fsum(self.seconds.get(s, math.nan) for s in range(1, int(step) + 1))


def curve_notes(runs: Mapping[str, TrainingRecord]) -> list[str]:
    """Which preference groups the macro curves leave out, and how many prompts the differences."""
    shared, others = curve_groups(runs)
    notes = _uncovered_note(runs)
    if not others:
        return notes
    names = ", ".join(others) if len(others) <= _MOST_NAMES else f"{len(others)} preference groups"
    over = f"over the other {len(shared)}" if shared else "missing"
    missing = f"How fast: not all runs have rewards of {names} on their curves, so the macro mean is {over}."
    return [missing, *notes]


def _uncovered_note(runs: Mapping[str, TrainingRecord]) -> list[str]:
    """How many prompts the differences of mean heights leave out and why, if curves have values by prompt."""
    if not runs or not all(record.prompts for record in runs.values()):
        return []
    first, last = _common_steps(runs)
    every = [
        {p for found in record.prompts.values() for own in found.values() for p in own}
        for record in runs.values()
    ]
    kept = [
        {p for own in _prompt_areas(record.prompts, first, last).values() for p in own}
        for record in runs.values()
    ]
    total, shared, covered = map(len, (set.union(*every), set.intersection(*every), set.intersection(*kept)))
    reasons = (
        (total - shared, total, ("is", "are"), "on the curves of some runs only"),
        (shared - covered, shared, ("has", "have"), "no reward at the first or the last step of a run"),
    )
    return [
        f"How fast: {few} of {all_} prompts {verbs[few > 1]} {what}. Differences of mean heights leave them "
        "out; mean heights do not."
        for few, all_, verbs, what in reasons
        if few
    ]


def _common_steps(runs: Mapping[str, TrainingRecord]) -> tuple[int, int]:
    """The first and the last step that the curves by prompt of all runs have."""
    steps = [record.prompts.keys() for record in runs.values()]
    return max(map(min, steps)), min(map(max, steps))


@dataclass(frozen=True)
class MethodCurve:
    """The mean over a method's seeds at the steps that all of them have, and the range over the seeds."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def curve_source(runs: Mapping[str, TrainingRecord]) -> CurveSource:
    """Held-out curves if every run has one, else training curves. The two kinds are not comparable."""
    return "held-out" if runs and all(record.held_out for record in runs.values()) else "training"


def run_lines(runs: Mapping[str, TrainingRecord]) -> dict[str, dict[str | None, CurveLine]]:
    """The curves of each run by preference group (None: the macro mean), all from the same source. The macro
    mean is that of the preference groups that all runs have, so that it is the same mean in each of them.
    """
    shared, _ = curve_groups(runs)
    if curve_source(runs) == "held-out":
        return {label: _held_out_lines(record, shared) for label, record in runs.items()}
    half_life = max((half_life_of(record.points) for record in runs.values()), default=1.0)
    return {label: _training_lines(record.points, half_life, shared) for label, record in runs.items()}


def curve_groups(runs: Mapping[str, TrainingRecord]) -> tuple[list[str], list[str]]:
    """The preference groups that the curves of all runs have, and those that only some have. A run without a
    curve does not count.
    """
    held_out = curve_source(runs) == "held-out"
    of_runs = [
        {group for found in record.held_out.values() for group in found}
        if held_out
        else {group for _, group, *_ in record.points}
        for record in runs.values()
    ]
    of_runs = [groups for groups in of_runs if groups] or [set()]
    shared = set.intersection(*of_runs)
    return sorted(shared), sorted(set.union(*of_runs) - shared)


def method_curve(lines: Sequence[CurveLine]) -> MethodCurve:
    """One curve for several seeds."""
    values = [dict(line) for line in lines]
    steps = sorted(set.intersection(*(set(by_step) for by_step in values))) if values else []
    rows = [[by_step[step] for by_step in values] for step in steps]
    return MethodCurve(tuple(steps), tuple(map(fmean, rows)), tuple(map(min, rows)), tuple(map(max, rows)))


def learning_of(
    methods: Sequence[Method],
    runs: Mapping[str, TrainingRecord],
    *,
    areas_by_prompt: Mapping[tuple[str, str | None], Pair] | None = None,
    threshold: float | None = None,
    confidence: float = 0.95,
) -> list[Learning]:
    """One line per method and preference group, the macro mean (None) first. The first method is the
    reference.

    `areas_by_prompt`: the result of `area_pairs`; without it, intervals of areas are over seeds only.
    `threshold`: a mean reward; None: in each preference group the lowest of the methods' last values.
    """
    by_prompt = areas_by_prompt or {}
    if not runs:
        return []
    source, lines = curve_source(runs), run_lines(runs)
    groups = sorted({g for found in lines.values() for g in found if g is not None})
    found = []
    for group in (None, *groups):
        by_run = {label: line for label in runs if (line := lines[label].get(group))}
        if len(by_run) < len(runs):
            continue
        goal = _goal(methods, by_run) if threshold is None else threshold
        areas = _areas(by_run)
        for method in methods:
            pair = by_prompt.get((method.label, group))
            learnt = _learning(method, methods[0], group, source, by_run, runs, areas, goal, confidence)
            found.append(learnt if pair is None else _judged(learnt, pair))
    return found


def area_pairs(
    methods: Sequence[Method],
    runs: Mapping[str, TrainingRecord],
    bootstrap: Bootstrap,
    users: Mapping[str, str] | None = None,
) -> dict[tuple[str, str | None], Pair]:
    """The areas of every other method against those of the first, compared by `pairs_of`; by method and
    preference group.

    The value of a prompt is the mean height of its curve over the steps that all runs have. Empty if the
    curve of a run has no values by prompt.
    """
    if not runs or not all(record.prompts for record in runs.values()):
        return {}
    first, last = _common_steps(runs)
    reference, *others = (
        Side(
            method.label,
            tuple(method.seeds),
            tuple(_prompt_areas(runs[run].prompts, first, last) for run in method.runs),
        )
        for method in methods
    )
    return {
        (pair.run, pair.preference_group): pair
        for side in others
        for pair in pairs_of(side, reference, bootstrap, users)
    }


def _prompt_areas(prompts: Mapping[int, PromptValues], first: int, last: int) -> PromptValues:
    """The mean height of each prompt's curve. Prompts whose curve does not cover `first` to `last` are left
    out.
    """
    points = sorted(
        (group, prompt, step, value)
        for step, groups in prompts.items()
        for group, found in groups.items()
        for prompt, value in found.items()
    )
    areas: PromptValues = {}
    for (group, prompt), found in groupby(points, key=lambda point: point[:2]):
        line: CurveLine = [(step, value) for _, _, step, value in found]
        height = mean_height(line, first, last)
        if not math.isnan(height):
            areas.setdefault(group, {})[prompt] = height
    return areas


def steps_until(line: CurveLine, threshold: float) -> float:
    """The first step at which the curve reaches the threshold; NaN if it never does."""
    return next((float(step) for step, value in line if value >= threshold - ROUNDING), math.nan)


def mean_height(line: CurveLine, first: float, last: float) -> float:
    """The area under the curve from step `first` to `last`, by linear interpolation, over last - first."""
    if not line or first < line[0][0] or last > line[-1][0] or last < first:
        return math.nan
    if first == last:
        return _at(line, first)
    inner = [(s, v) for s, v in line if first < s < last]
    points = [(first, _at(line, first)), *inner, (last, _at(line, last))]
    return math.fsum((b - a) * (v + w) / 2 for (a, v), (b, w) in pairwise(points)) / (last - first)


def over_seeds(values: Sequence[float], confidence: float) -> Estimate:
    """The mean with Student's interval over seeds. One seed has no interval; an unknown value gives NaN."""
    n = len(values)
    mean = fmean(values) if n else math.nan
    if n < 2 or math.isnan(mean):
        return Estimate(mean=mean, ci_low=math.nan, ci_high=math.nan, n=n)
    half = student_t_quantile((1 + confidence) / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Estimate(mean=mean, ci_low=mean - half, ci_high=mean + half, n=n)


def _learning(
    method: Method,
    reference: Method,
    group: str | None,
    source: CurveSource,
    lines: Mapping[str, CurveLine],
    runs: Mapping[str, TrainingRecord],
    areas: Mapping[str, float],
    goal: float,
    confidence: float,
) -> Learning:
    difference = _area_difference(method, reference, areas, confidence)
    says, explanation = _over_seeds_verdict(difference)
    steps = [steps_until(lines[run], goal) for run in method.runs]
    seconds = [runs[run].seconds_until(step) for run, step in zip(method.runs, steps, strict=True)]
    return Learning(
        method=method.label,
        preference_group=group,
        source=source,
        area=over_seeds([areas[run] for run in method.runs], confidence),
        area_difference=difference,
        area_verdict=None if method is reference else says,
        area_explanation="" if method is reference else explanation,
        threshold=goal,
        reached=sum(not math.isnan(step) for step in steps),
        steps=SeedRange.of(steps),
        seconds=SeedRange.of(seconds),
    )


def _judged(line: Learning, pair: Pair) -> Learning:
    """The line with the difference of areas over prompts and seeds, from `pair`."""
    difference = Estimate(mean=pair.difference, ci_low=pair.ci_low, ci_high=pair.ci_high, n=pair.seeds)
    judged = {"area_verdict": pair.verdict, "area_explanation": pair.explanation}
    return line.model_copy(update={"area_difference": difference, **judged})


def _over_seeds_verdict(difference: Estimate) -> tuple[Verdict, str]:
    if math.isnan(difference.ci_low) and difference.n > 1:
        return "can't tell", f"can't tell with {difference.n} seeds, whose mean heights are equal or unknown"
    if math.isnan(difference.ci_low):
        return "can't tell", "can't tell with one seed, since the curve has no values by prompt"
    says = verdict(difference)
    return says, says if says != "can't tell" else f"can't tell with {difference.n} seeds"


def _area_difference(
    method: Method, reference: Method, areas: Mapping[str, float], confidence: float
) -> Estimate:
    """The difference with the interval of Welch's test over seeds; unknown if none of them varies."""
    a, b = [areas[run] for run in method.runs], [areas[run] for run in reference.runs]
    mean, n = fmean(a) - fmean(b), min(len(a), len(b))
    known = n > 1 and not math.isnan(mean)
    parts = [(stdev(v) ** 2 / len(v), len(v) - 1) for v in (a, b)] if known else []
    variance = math.fsum(v for v, _ in parts)
    if variance <= ROUNDING**2:
        return Estimate(mean=mean, ci_low=math.nan, ci_high=math.nan, n=n)
    half = student_t_quantile((1 + confidence) / 2, welch_df(parts)) * math.sqrt(variance)
    return Estimate(mean=mean, ci_low=mean - half, ci_high=mean + half, n=n)


def _goal(methods: Sequence[Method], lines: Mapping[str, CurveLine]) -> float:
    return min(fmean(lines[run][-1][1] for run in method.runs) for method in methods)


def _areas(lines: Mapping[str, CurveLine]) -> dict[str, float]:
    """The mean height of each run's curve over the steps that all curves cover."""
    first, last = max(line[0][0] for line in lines.values()), min(line[-1][0] for line in lines.values())
    return {label: mean_height(line, first, last) for label, line in lines.items()}


def _at(line: CurveLine, step: float) -> float:
    index = bisect_left(line, step, key=lambda point: point[0])
    (right, value) = line[index]
    if right == step or index == 0:
        return value
    left, before = line[index - 1]
    return before + (value - before) * (step - left) / (right - left)


def _held_out_lines(record: TrainingRecord, shared: Sequence[str]) -> dict[str | None, CurveLine]:
    lines: dict[str | None, CurveLine] = {}
    for step, found in sorted(record.held_out.items()):
        for group, value in found.items():
            lines.setdefault(group, []).append((step, value))
        if shared and found.keys() >= set(shared):
            lines.setdefault(None, []).append((step, fmean(found[group] for group in shared)))
    return lines


def _training_lines(
    points: Sequence[CurvePoint], half_life: float, shared: Sequence[str]
) -> dict[str | None, CurveLine]:
    curves = group_curves(points, half_life)
    lines: dict[str | None, CurveLine] = {
        group: list(zip(curve.steps, curve.smooth, strict=True)) for group, curve in curves.items()
    }
    if curves and shared:
        macro = macro_curve({group: curves[group] for group in shared})
        lines[None] = list(zip(macro.steps, macro.smooth, strict=True))
    return lines
