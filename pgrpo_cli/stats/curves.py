"""Learning curves for plots: a preference group's mean training reward by step, raw and smoothed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .result_types import CurvePoint

_SHARE_OF_RUN = 12


@dataclass(frozen=True)
class Curve:
    """Raw means at the steps where there were rewards, and the smoothed mean at the same steps."""

    steps: tuple[int, ...]
    raw: tuple[float, ...]
    smooth: tuple[float, ...]


def half_life_of(points: Sequence[CurvePoint]) -> float:
    """Steps after which a reward counts half in the smoothed curve: a twelfth of the run, at least one."""
    return max(1.0, max((point[0] for point in points), default=0) / _SHARE_OF_RUN)


def group_curves(points: Sequence[CurvePoint], half_life: float) -> dict[str, Curve]:
    """A curve a preference group, in the order of their names.

    The smoothed value at a step is the mean of all rewards up to it, each weighted by
    0.5 ** (age / half_life), the age in steps: it never looks ahead, and larger steps weigh more.
    """
    by_group: dict[str, list[tuple[int, float, int]]] = {}
    for step, group, mean, count in sorted(points):
        by_group.setdefault(group, []).append((step, mean, count))
    return {group: _smoothed(found, half_life) for group, found in sorted(by_group.items())}


def macro_curve(curves: Mapping[str, Curve]) -> Curve:
    """The mean over preference groups, each counted once, of their smoothed curves.

    A preference group keeps its last smoothed value at steps without it. The curve starts where every one
    has been seen, so that no jump comes from who is counted. `raw` is empty: few steps have all of them.
    """
    steps = sorted({step for curve in curves.values() for step in curve.steps})
    latest: dict[str, float] = {}
    values = {group: dict(zip(curve.steps, curve.smooth, strict=True)) for group, curve in curves.items()}
    shown: list[tuple[int, float]] = []
    for step in steps:
        latest |= {group: found[step] for group, found in values.items() if step in found}
        if len(latest) == len(curves):
            shown.append((step, math.fsum(latest.values()) / len(latest)))
    return Curve(tuple(step for step, _ in shown), (), tuple(value for _, value in shown))


def _smoothed(points: Sequence[tuple[int, float, int]], half_life: float) -> Curve:
    total, weight, previous = 0.0, 0.0, points[0][0]
    smooth = []
    for step, mean, count in points:
        fade = 0.5 ** ((step - previous) / half_life)
        total, weight, previous = total * fade + count * mean, weight * fade + count, step
        smooth.append(total / weight)
    return Curve(tuple(p[0] for p in points), tuple(p[1] for p in points), tuple(smooth))
