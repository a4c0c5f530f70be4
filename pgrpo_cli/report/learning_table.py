"""The table of how fast methods learn, and the sentence that explains its curves."""

from __future__ import annotations

import math
from collections.abc import Callable

from pgrpo_cli.stats.comparison_types import Comparison, Learning
from pgrpo_cli.stats.result_types import Estimate

from .tables import MACRO, TONES, Cell, ReportTable, Tone, number


def learning_table(comparison: Comparison, *, macro_only: bool = False) -> ReportTable | None:
    """One row per preference group and method, or only those of the macro mean; None without any record."""
    rows = [row for row in comparison.learning if not macro_only or row.preference_group is None]
    if not rows:
        return None
    cells = [_row(row, row.method == comparison.reference) for row in rows]
    skipped = 1 if macro_only else 0
    return ReportTable(
        title=f"How fast: {'macro mean, ' if macro_only else ''}{_SOURCES[rows[0].source]}",
        columns=_COLUMNS[skipped:],
        rows=tuple(row[skipped:] for row in cells),
        summaries=frozenset(
            i for i, row in enumerate(rows) if row.preference_group is None and not macro_only
        ),
        details=frozenset({3 - skipped}),
        optional=frozenset({8 - skipped}),
    )


def learning_sentence(comparison: Comparison) -> str:
    """Which rewards the curves show, and what the numbers of the table mean."""
    source = comparison.learning[0].source if comparison.learning else "training"
    basis = (
        "Curves are of held-out prompts, measured during training."
        if source == "held-out"
        else "Curves are of training rewards, smoothed, not of held-out prompts: how fast, not how well."
    )
    verdicts = "made as those above" if source == "held-out" else "over seeds alone"
    return (
        f"{basis} Mean height is the area under the curve over the steps that all runs have, divided by "
        f"their number; verdicts on it are {verdicts}. Steps and seconds are those of training until "
        "the curve is at the reward named: by default the lowest of the methods' last values."
    )


_COLUMNS = (
    "mean of",
    "method",
    "mean height",
    "less reference",
    "verdict",
    "reward",
    "steps to it",
    "seconds",
    "by",
)
_SOURCES = {
    "held-out": "held-out prompts during training",
    "training": "training rewards, smoothed",
}


def _row(row: Learning, is_reference: bool) -> tuple[Cell, ...]:
    difference = row.area_difference
    seeds = row.area.n
    tone: Tone = TONES[row.area_verdict] if row.area_verdict else ""
    return (
        Cell(MACRO if row.preference_group is None else row.preference_group),
        Cell(row.method),
        Cell(number(row.area.mean), _interval(row.area, number)),
        Cell("")
        if is_reference
        else Cell(number(difference.mean, signed=True), _interval(difference, number), tone),
        Cell(row.area_verdict or "", tone=tone),
        Cell(number(row.threshold)),
        Cell(_whole(row.steps.mean), _interval(row.steps, _whole)),
        Cell(_whole(row.seconds.mean), _interval(row.seconds, _whole)),
        Cell(f"{row.reached} of {seeds}"),
    )


def _interval(estimate: Estimate, shown: Callable[[float], str]) -> str:
    if math.isnan(estimate.ci_low):
        return ""
    return f"[{shown(estimate.ci_low)}..{shown(estimate.ci_high)}]"


def _whole(value: float) -> str:
    """Steps or seconds; unknown if a seed does not reach the threshold, or if it was not recorded."""
    return "n/a" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
