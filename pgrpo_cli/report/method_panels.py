"""The learning curves of a comparison as panels: one line per method, with a band over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pgrpo_cli.stats.comparison import Method
from pgrpo_cli.stats.curves import Curve
from pgrpo_cli.stats.learning import CurveLine, TrainingRecord, curve_source, method_curve, run_lines

from .svg import COLOURS, Series, line_panel
from .tables import MACRO

MOST_PANELS = 24

_LEADS = {
    "held-out": "Mean reward on held-out prompts, measured during training, by step and preference group.",
    "training": "Mean reward of the completions sampled in training, smoothed over past steps, by step and "
    "preference group: not held-out prompts.",
}
_BANDS = " Bands: from the lowest to the highest seed; lines: their mean."


@dataclass(frozen=True)
class Panel:
    """A titled plot."""

    title: str
    svg: Markup


def method_panels(methods: Sequence[Method], runs: Mapping[str, TrainingRecord]) -> dict[str, Any]:
    """`panels`: the macro mean, then preference groups from the most to the fewest rewards; `lead`: what they
    show; `hidden`: how many preference groups have no panel.
    """
    lines = run_lines(runs)
    groups = _by_size(runs, lines)
    steps = [step for found in lines.values() for line in found.values() for step, _ in line]
    x_range = (min(steps, default=0), max(steps, default=1))
    panels = []
    for group in [None, *groups[:MOST_PANELS]]:
        series = [
            _series(method, number, [lines[run].get(group, []) for run in method.runs])
            for number, method in enumerate(methods)
        ]
        if any(s.curve.steps for s in series):
            title = MACRO if group is None else group
            svg = line_panel(
                f"Learning curve: {title}",
                [s for s in series if s.curve.steps],
                x_range=x_range,
                x_label="step",
                y_label="reward",
            )
            panels.append(Panel(title, svg))
    lead = _LEADS[curve_source(runs)] + (_BANDS if any(len(m.runs) > 1 for m in methods) else "")
    lead += " Every panel has its own scale."
    return {"panels": panels, "lead": lead, "hidden": max(0, len(groups) - MOST_PANELS)}


def _series(method: Method, number: int, lines: Sequence[CurveLine]) -> Series:
    found = method_curve(lines)
    band = (found.low, found.high) if len(lines) > 1 else None
    return Series(method.label, Curve(found.steps, (), found.mean), number % COLOURS, band)


def _by_size(
    runs: Mapping[str, TrainingRecord], lines: Mapping[str, Mapping[str | None, CurveLine]]
) -> list[str]:
    counts = {group: 0 for found in lines.values() for group in found if group is not None}
    for record in runs.values():
        for _, group, _, count in record.points:
            if group in counts:
                counts[group] += count
    return sorted(counts, key=lambda group: (-counts[group], group))
