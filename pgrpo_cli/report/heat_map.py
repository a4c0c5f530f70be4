"""Inline SVG: heat maps of a square matrix. Colours come from the page's style sheet, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

_CELL = 34
_LABEL = 128
_LABEL_CHARACTERS = 18
_STRONGEST = 2.0


def heat_map(title: str, names: Sequence[str], values: Sequence[Sequence[float]]) -> Markup:
    """`values[row][column]`, 0 in the middle; colours are strongest from 2 on. Rows and columns are numbered.

    It has its own size, in which its text is readable; its figure scrolls where that is too wide. The text
    alternative says the mean of the diagonal and of the rest.
    """
    size = len(names)
    width, height = _LABEL + size * _CELL + 4, (size + 1) * _CELL
    parts = []
    for index, name in enumerate(names):
        middle = _CELL * (index + 1.5) + 4
        parts.append(_row_label(f"{index + 1} {name}", middle))
        x = _LABEL + _CELL * (index + 0.5)
        parts.append(_text(x, _CELL - 8, str(index + 1), "tick"))
    parts += [
        _cell(values[row][column], row, column, f"{names[row]} by {names[column]}")
        for row in range(size)
        for column in range(size)
    ]
    frame = Markup(
        '<svg width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" aria-label="{title}. {text}">'
        "<title>{title}</title><desc>{text}</desc>{body}</svg>"
    )
    body = Markup("").join(parts)
    return frame.format(w=width, h=height, title=title, text=_alternative(values), body=body)


def _alternative(values: Sequence[Sequence[float]]) -> str:
    own = [values[i][i] for i in range(len(values))]
    rest = [v for i, row in enumerate(values) for j, v in enumerate(row) if i != j]

    def mean(found: Sequence[float]) -> str:
        known = [value for value in found if not math.isnan(value)]
        return f"{math.fsum(known) / len(known):+.2f}" if known else "n/a"

    return f"Mean of the diagonal {mean(own)}, of the rest {mean(rest)}"


def _cell(value: float, row: int, column: int, title: str) -> Markup:
    x, y = _LABEL + column * _CELL, (row + 1) * _CELL
    known = not math.isnan(value)
    tone = "good" if known and value >= 0 else "bad"
    strength = min(1.0, abs(value) / _STRONGEST) if known else 0.0
    text = f"{value:.1f}" if known else "n/a"
    square = Markup(
        '<rect class="heat {}{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}">'
        "<title>{}: {}</title></rect>"
    ).format(
        tone, " own" if row == column else "", x + 1, y + 1, _CELL - 2, _CELL - 2, 0.6 * strength, title, text
    )
    return square + _text(x + _CELL / 2, y + _CELL / 2 + 4, text.replace("-0.0", "0.0"), "value")


def _row_label(label: str, y: float) -> Markup:
    text: Markup | str = escape(label)
    if len(label) > _LABEL_CHARACTERS:
        text = Markup("{}…<title>{}</title>").format(label[: _LABEL_CHARACTERS - 1], label)
    line = Markup('<text class="label" x="{}" y="{:.1f}" text-anchor="end">{}</text>')
    return line.format(_LABEL - 6, y, text)


def _text(x: float, y: float, text: str, css: str) -> Markup:
    line = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>')
    return line.format(css, x, y, text)
