"""The tables of an evaluation and of a comparison: built once, shown in a terminal and on a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from pgrpo_cli.stats.comparison import Comparison, Learning, Pair
from pgrpo_cli.stats.estimates import ROUNDING, verdict
from pgrpo_cli.stats.result_types import Contrast, Estimate, EvalResult, SeedRange, Verdict

Tone = Literal["", "good", "bad", "muted"]

MACRO = "macro mean"
WEIGHTED = "weighted mean"
TONES: dict[Verdict, Tone] = {
    "ahead": "good",
    "behind": "bad",
    "no difference": "muted",
    "can't tell": "muted",
}

_STYLES: dict[Tone, str] = {"": "", "good": "green", "bad": "red", "muted": "dim"}
_WIDE = 110
_SPARE_OF_PAIRS = ("effect size", "p (Holm)", "prompts")


@dataclass(frozen=True)
class Cell:
    """One cell; `detail` is an interval, which a narrow terminal may leave out."""

    text: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class ReportTable:
    """Rows of cells under column heads; the first column names the row.

    `summaries` are the rows set off from the others. Where there is little room, only the columns `details`
    show theirs, and the columns `optional` are left out. The columns `texts` are read, not compared.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    summaries: frozenset[int]
    details: frozenset[int]
    optional: frozenset[int]
    texts: frozenset[int] = frozenset()


def eval_table(result: EvalResult) -> ReportTable:
    """Base against tuned: every preference group, then the means over them."""
    lines: list[tuple[str, Contrast]] = [*result.groups.items()]
    lines += [(MACRO, result.overall.macro), (WEIGHTED, result.overall.weighted)]
    return ReportTable(
        title=f"{result.run}, step {result.step}: mean reward on held-out prompts",
        columns=("preference group", "base", "tuned", "tuned - base", "verdict", "prompts"),
        rows=tuple(_contrast_row(label, contrast) for label, contrast in lines),
        summaries=frozenset({len(lines) - 2, len(lines) - 1}),
        details=frozenset({3}),
        optional=frozenset({5}),
    )


def comparison_table(comparison: Comparison, run: str) -> ReportTable:
    """`run` (or a method) against the reference: every preference group, then the macro mean."""
    # A run that was named twice has one label; its lines stand once.
    pairs = list({pair.preference_group: pair for pair in comparison.pairs if pair.run == run}.values())
    return ReportTable(
        title=f"{run} against {comparison.reference}: mean reward of the tuned models on held-out prompts",
        columns=("preference group", "reference", "run", "run - reference", "verdict", *_SPARE_OF_PAIRS),
        rows=tuple(_pair_row(pair) for pair in pairs),
        summaries=frozenset({len(pairs) - 1}),
        details=frozenset({3}),
        optional=frozenset({5, 6, 7}),
    )


def to_rich(table: ReportTable, width: int) -> RichTable:
    """The table for a terminal of `width` columns, with the columns and intervals that it has room for."""
    wide = width >= _WIDE
    columns = [index for index in range(len(table.columns)) if wide or index not in table.optional]
    title = Text(table.title, "bold")
    rich = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index in columns:
        rich.add_column(
            Text(table.columns[index]),
            justify="left" if index == 0 or index in table.texts else "right",
            # Numbers are not broken within words; names, which may be long, are.
            overflow="fold" if index == 0 else "ellipsis",
            no_wrap=index in table.details,
        )
    for position, row in enumerate(table.rows):
        if position in table.summaries and position - 1 not in table.summaries:
            rich.add_section()
        bold = "bold " if position in table.summaries else ""
        rich.add_row(
            *(_rich_cell(row[index], bold, with_detail=wide or index in table.details) for index in columns)
        )
    return rich


def _rich_cell(cell: Cell, bold: str, *, with_detail: bool) -> Text:
    text = f"{cell.text} {cell.detail}" if cell.detail and with_detail else cell.text
    return Text(text, style=bold + _STYLES[cell.tone])


def number(value: float, *, signed: bool = False) -> str:
    """A reward as text: three decimals if they are meaningful, `n/a` if it is unknown."""
    if math.isnan(value):
        return "n/a"
    value = 0.0 if abs(value) <= ROUNDING else value
    sign = "+" if signed else ""
    if value != 0 and (abs(value) < 0.0005 or abs(value) >= 1e5):
        return f"{value:{sign}.1e}"
    return f"{value:{sign}.3f}" if abs(value) < 100 else f"{value:{sign}.1f}"


def interval(estimate: Estimate | Pair) -> str:
    """`[low..high]` without spaces, so that it is not wrapped; empty if it is unknown."""
    if math.isnan(estimate.ci_low):
        return ""
    return f"[{number(estimate.ci_low)}..{number(estimate.ci_high)}]"


def percent(share: float) -> str:
    """A share as text, `n/a` if it is unknown. Rounding does not make it 0 % or 100 %."""
    if math.isnan(share):
        return "n/a"
    near_an_end = ROUNDING < share < 0.005 or 0.995 <= share < 1 - ROUNDING
    return f"{100 * min(max(share, 0.001), 0.999):.1f} %" if near_an_end else f"{100 * share:.0f} %"


def percents(estimate: Estimate) -> str:
    """The interval of a share; empty if it is unknown. A short one has a decimal more."""
    if math.isnan(estimate.ci_low):
        return ""
    low, high = (0.0 if abs(end) <= ROUNDING else 100 * end for end in (estimate.ci_low, estimate.ci_high))
    digits = 1 if 0 < high - low < 5 else 0
    return f"[{low:.{digits}f}..{high:.{digits}f}]"


def _contrast_row(label: str, contrast: Contrast) -> tuple[Cell, ...]:
    difference = contrast.difference
    says = verdict(difference)
    return (
        Cell(label),
        Cell(number(contrast.base.mean), interval(contrast.base)),
        Cell(number(contrast.tuned.mean), interval(contrast.tuned)),
        Cell(number(difference.mean, signed=True), interval(difference)),
        Cell(says, tone=TONES[says]),
        Cell(str(difference.n)),
    )


def _pair_row(pair: Pair) -> tuple[Cell, ...]:
    return (
        Cell(MACRO if pair.preference_group is None else pair.preference_group),
        Cell(number(pair.reference_mean)),
        Cell(number(pair.run_mean)),
        Cell(number(pair.difference, signed=True), interval(pair)),
        Cell(pair.verdict, pair.explanation.removeprefix(pair.verdict).lstrip(": "), TONES[pair.verdict]),
        Cell(f"{pair.effect_size:+.2f}" if math.isfinite(pair.effect_size) else "n/a"),
        Cell(f"{pair.p_adjusted:.2g}" if math.isfinite(pair.p_adjusted) else "n/a"),
        Cell(str(pair.n)),
    )


_LEARNING_COLUMNS = (
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


def learning_table(comparison: Comparison, *, macro_only: bool = False) -> ReportTable | None:
    """One row per preference group and method, or only those of the macro mean; None without any record."""
    rows = [row for row in comparison.learning if not macro_only or row.preference_group is None]
    if not rows:
        return None
    cells = [_learning_row(row, row.method == comparison.reference) for row in rows]
    skipped = 1 if macro_only else 0
    return ReportTable(
        title=f"How fast: {'macro mean, ' if macro_only else ''}{_SOURCES[rows[0].source]}",
        columns=_LEARNING_COLUMNS[skipped:],
        rows=tuple(row[skipped:] for row in cells),
        summaries=frozenset(
            i for i, row in enumerate(rows) if row.preference_group is None and not macro_only
        ),
        details=frozenset({3 - skipped}),
        optional=frozenset({8 - skipped}),
    )


def _learning_row(row: Learning, is_reference: bool) -> tuple[Cell, ...]:
    difference = row.area_difference
    seeds = row.area.n
    tone: Tone = TONES[row.area_verdict] if row.area_verdict else ""
    return (
        Cell(MACRO if row.preference_group is None else row.preference_group),
        Cell(row.method),
        Cell(number(row.area.mean), interval(row.area)),
        Cell("") if is_reference else Cell(number(difference.mean, signed=True), interval(difference), tone),
        Cell(row.area_verdict or "", tone=tone),
        Cell(number(row.threshold)),
        Cell(_whole(row.steps.mean), _seed_range(row.steps)),
        Cell(_whole(row.seconds.mean), _seed_range(row.seconds)),
        Cell(f"{row.reached} of {seeds}"),
    )


def _seed_range(found: SeedRange) -> str:
    if found.n < 2 or math.isnan(found.mean):
        return ""
    return f"{_whole(found.smallest)} to {_whole(found.largest)}"


def _whole(value: float) -> str:
    """Steps or seconds; unknown if a seed does not reach the threshold, or if it was not recorded."""
    return "n/a" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
