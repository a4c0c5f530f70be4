"""Learning curves for plots: the mean training reward of a preference group by step, raw and smoothed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .result_types import CurvePoint

_SHARE_OF_RUN = 12


@dataclass(frozen=True)
class Curve:
    """The raw and the smoothed mean at the steps with rewards."""

    steps: tuple[int, ...]
    raw: tuple[float, ...]
    smooth: tuple[float, ...]


def half_life_of(points: Sequence[CurvePoint]) -> float:
    """After how many steps a reward has half its weight in the smoothed curve: a twelfth of the run, at least
    one.
    """
    return max(1.0, max((point[0] for point in points), default=0) / _SHARE_OF_RUN)


def group_curves(points: Sequence[CurvePoint], half_life: float) -> dict[str, Curve]:
    """One curve per preference group, in the order of their names.

    The smoothed value at a step is the mean of all rewards up to that step, each weighted by 0.5 ** (age /
    half_life), with the age in steps. So it does not use later rewards, and steps with more rewards count
    more.
    """
    by_group: dict[str, list[tuple[int, float, int]]] = {}
    for step, group, mean, count in sorted(points):
        by_group.setdefault(group, []).append((step, mean, count))
    return {group: _smoothed(found, half_life) for group, found in sorted(by_group.items())}


def macro_curve(curves: Mapping[str, Curve]) -> Curve:
    """The mean over preference groups, each counted once, of their smoothed curves.

    At steps without rewards a preference group keeps its last smoothed value. The curve starts at the first
    step at which all preference groups have a value; otherwise it would jump whenever a new one came in.
    `raw` is empty, since few steps have rewards of all of them.
    """
    steps = sorted({step for curve in curves.values() for step in curve.steps})
    latest: dict[str, float] = {}
    values = {group: dict(zip(curve.steps, curve.smooth, strict=True)) for group, curve in curves.items()}
    shown: list[tuple[int, float]] = []
    for step in steps:
        latest |= {group: by_step[step] for group, by_step in values.items() if step in by_step}
        if len(latest) == len(curves):
            shown.append((step, math.fsum(latest.values()) / len(latest)))
    return Curve(tuple(step for step, _ in shown), (), tuple(value for _, value in shown))


def _smoothed(points: Sequence[tuple[int, float, int]], half_life: float) -> Curve:
    total, weight, previous = 0.0, 0.0, points[0][0]
    smooth = []
    for step, mean, count in points:
        decay = 0.5 ** ((step - previous) / half_life)
        total, weight, previous = total * decay + count * mean, weight * decay + count, step
        smooth.append(total / weight)
    return Curve(tuple(p[0] for p in points), tuple(p[1] for p in points), tuple(smooth))
