"""Inline SVG: learning curves and forest plots. Colours come from the page's style sheet, by class.

Widths are in units of about one CSS pixel on a phone, so that text stays readable there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from markupsafe import Markup, escape

from pgrpo_cli.stats.curves import Curve

_PANEL = (320, 190)
_FOREST_WIDTH = 400
_FOREST_ROW = 22
_LABEL_WIDTH = 128
_LABEL_CHARACTERS = 18
_MOST_DOTS = 400

COLOURS = 6
"""Colours of the style sheet, c0 to c5."""


@dataclass(frozen=True)
class Series:
    """One line of a panel; `colour` is the number of its colour in the style sheet.

    `band`: the lower and the upper edge of a band around the smoothed line, if it has one.
    """

    label: str
    curve: Curve
    colour: int
    band: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class ForestRow:
    """A mean with its interval. `tone` is `good`, `bad` or `muted`; `summary` rows are drawn as diamonds."""

    label: str
    mean: float
    low: float
    high: float
    tone: str
    summary: bool = False


def line_panel(
    title: str, series: Sequence[Series], *, x_range: tuple[float, float], x_label: str, y_label: str
) -> Markup:
    """Smoothed lines over raw dots. `title` and the first and last values become the text alternative."""
    width, height = _PANEL
    left, right, top, bottom = 44, width - 12, 22, height - 34
    values = [v for s in series for v in (*s.curve.raw, *s.curve.smooth)]
    values += [v for s in series if s.band for edge in s.band for v in edge]
    if not values:
        return Markup('<p class="nothing">no rewards recorded</p>')
    y_ticks = ticks(min(values), max(values), 4)
    x_ticks = [tick for tick in ticks(*x_range, 5) if x_range[0] <= tick <= x_range[1]]
    x = _scale(*x_range, left, right)
    y = _scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [_y_grid(y_ticks, y, left, right)]
    parts += [_text(x(tick), bottom + 15, _tick_label(tick), "middle") for tick in x_ticks]
    parts.append(_text((left + right) / 2, height - 5, x_label, "middle", "axis"))
    parts.append(_text(4, 10, y_label, "start", "axis"))
    for s in series:
        parts += [_band(s, x, y), _dots(s, x, y)]
    for s in series:
        points = " ".join(
            f"{x(a):.1f},{y(b):.1f}" for a, b in zip(s.curve.steps, s.curve.smooth, strict=True)
        )
        parts.append(Markup('<polyline class="line c{}" points="{}"/>').format(s.colour, points))
    ends = "; ".join(
        f"{s.label} from {s.curve.smooth[0]:.3g} to {s.curve.smooth[-1]:.3g}"
        for s in series
        if s.curve.smooth
    )
    return _svg(width, height, title, f"{y_label} by {x_label}, smoothed: {ends}.", parts)


def forest_plot(title: str, rows: Sequence[ForestRow], *, x_label: str) -> Markup:
    """Differences with intervals around the line of no difference, one row each."""
    top = 14
    bottom = top + _FOREST_ROW * len(rows)
    width, height = _FOREST_WIDTH, bottom + 40
    known = [v for row in rows for v in (row.mean, row.low, row.high) if not math.isnan(v)]
    grid = ticks(min([0.0, *known]), max([0.0, *known]), 5)
    x = _scale(grid[0], grid[-1], _LABEL_WIDTH + 10, width - 12)
    parts = [_vertical(x(tick), top - 6, bottom, "zero" if tick == 0 else "grid") for tick in grid]
    parts += [_text(x(tick), bottom + 15, _tick_label(tick), "middle") for tick in grid]
    parts.append(_text((_LABEL_WIDTH + width) / 2, height - 6, x_label, "middle", "axis"))
    for index, row in enumerate(rows):
        parts.append(_forest_row(row, x, top + _FOREST_ROW * (index + 0.5)))
    summary = "; ".join(map(_forest_text, rows))
    return _svg(width, height, title, f"{x_label}: {summary}.", parts)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 2 round numbers at equal distances whose range holds [low, high].

    A range of (nearly) nothing is widened on both sides, so that what is drawn lies in the middle.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = max(abs(low), abs(high)) / 2 or 0.5
        low, high = low - half, high + half
    span = high - low
    step = next(
        factor * 10.0**power
        for power in count(math.floor(math.log10(span / most)))
        for factor in (1, 2, 5)
        if factor * 10.0**power >= span / most * (1 - 1e-9)
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounding makes 3 * 0.1 the 0.3 that a reader expects, and -0.0 a 0.
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def _forest_text(row: ForestRow) -> str:
    if math.isnan(row.mean):
        return f"{row.label} n/a"
    interval = "no interval" if math.isnan(row.low) else f"{row.low:.3g} to {row.high:.3g}"
    return f"{row.label} {row.mean:+.3g} ({interval})"


def _forest_row(row: ForestRow, x: Callable[[float], float], y: float) -> Markup:
    text = escape(row.label)
    if len(row.label) > _LABEL_CHARACTERS:
        text = Markup("{}…<title>{}</title>").format(row.label[: _LABEL_CHARACTERS - 1], row.label)
    bold = " summary" if row.summary else ""
    label = Markup('<text class="label{}" x="{}" y="{:.1f}" text-anchor="end">{}</text>')
    parts = [label.format(bold, _LABEL_WIDTH, y + 4, text)]
    if not math.isnan(row.low):
        line = Markup('<line class="whisker {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
        parts.append(line.format(row.tone, x(row.low), x(row.high), y, y))
    if not math.isnan(row.mean):
        size, middle = (6.5, x(row.mean)) if row.summary else (4.5, x(row.mean))
        shape = Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            row.tone, middle, y, size
        )
        if row.summary:
            corners = [(middle - size, y), (middle, y - size), (middle + size, y), (middle, y + size)]
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
            shape = Markup('<polygon class="mark {}" points="{}"/>').format(row.tone, points)
        parts.append(shape)
    return Markup("").join(parts)


def _band(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> Markup:
    if series.band is None:
        return Markup("")
    steps = series.curve.steps
    edges = [*zip(steps, series.band[0], strict=True), *reversed([*zip(steps, series.band[1], strict=True)])]
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in edges)
    return Markup('<polygon class="band c{}" points="{}"/>').format(series.colour, points)


def _dots(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> Markup:
    """Raw values as round caps of empty strokes; above `_MOST_DOTS`, means of neighbours."""
    pairs = list(zip(series.curve.steps, series.curve.raw, strict=False))
    size = math.ceil(len(pairs) / _MOST_DOTS) or 1
    bins = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    path = "".join(
        f"M{x(sum(a for a, _ in b) / len(b)):.1f} {y(sum(v for _, v in b) / len(b)):.1f}h0" for b in bins
    )
    return Markup('<path class="dots c{}" d="{}"/>').format(series.colour, path) if path else Markup("")


def _y_grid(values: Iterable[float], y: Callable[[float], float], left: float, right: float) -> Markup:
    line = Markup('<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    return Markup("").join(
        line.format("zero" if value == 0 else "grid", left, right, y(value), y(value))
        + _text(left - 5, y(value) + 4, _tick_label(value), "end")
        for value in values
    )


def _vertical(x: float, top: float, bottom: float, css: str) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>')
    return line.format(css, x, x, top, bottom)


def _text(x: float, y: float, text: str, anchor: str, css: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        css, x, y, anchor, text
    )


def _tick_label(value: float) -> str:
    return f"{value:.10g}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _svg(width: int, height: int, title: str, description: str, parts: Iterable[Markup]) -> Markup:
    frame = Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}. {description}">'
        "<title>{title}</title><desc>{description}</desc>{body}</svg>"
    )
    return frame.format(w=width, h=height, title=title, description=description, body=Markup("").join(parts))
