"""JSON files: one object per line, an array, or indented; plain or gzip. A broken line is lost alone."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator
from itertools import chain, islice
from pathlib import Path

from pgrpo_cli.data.row_problem import RowProblem

from .files import opened
from .json_text import parse_object
from .json_values import json_values
from .rows import RawRow
from .sniff import SPACE, json_layout, look
from .text_lines import legible, lines_of, text_of, text_problem

_WRAPPING = re.compile(r'\s*\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*(?=\[)')


def jsonl_rows(
    path: Path, name: str, notes: list[str], *, encoding: str | None = None, columns: Collection[str] = ()
) -> Iterator[RawRow]:
    """The objects of the file as rows; `notes` gets a sentence if they are not one per line.

    An object alone whose only key, none of `columns`, has a list of objects gives these. Raises DataError
    where the file cannot be read or is of another format.
    """
    seen = look(path, name, "json", encoding)
    notes += filter(None, [seen.note])
    with opened(path) as file:
        text = text_of(file, seen.encoding, "\n")
        if json_layout(seen) == "lines":
            lines = lines_of(text, name, seen.encoding)
            items: Iterator[tuple[int, str]] = (
                (number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1) if line.strip(SPACE)
            )
        else:
            notes.append(f"{name} is an array or indented JSON, no JSON lines: each of its objects is a row.")
            items = json_values(text, name)
        first = list(islice(items, 2))
        if len(first) == 1 and (wrapped := _wrapped(first[0][1], columns)):
            notes.append(f"{name} is one object: the rows are the list at {wrapped!r} in it.")
            first, items = [], _unwrapped(*first[0], name)
        for number, item in chain(first, items):
            yield _row(item, name, number, seen.encoding)


def _row(item: str, name: str, number: int, encoding: str) -> RawRow:
    problem = text_problem(item, encoding)
    try:
        # Values of a row with a problem tell at least whose it is.
        return RawRow(name, number, parse_object(legible(item)), problem, item)
    except RowProblem as found:
        return RawRow(name, number, problem=problem or found, text=item)


def _wrapped(item: str, columns: Collection[str]) -> str | None:
    """The only key of the object, if what it has is a list of rows."""
    try:
        ((key, value),) = parse_object(item).items()
    except (RowProblem, ValueError):
        return None
    rows = isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value)
    return key if rows and key not in columns else None


def _unwrapped(number: int, item: str, name: str) -> Iterator[tuple[int, str]]:
    match = _WRAPPING.match(item)
    assert match is not None
    before = number - 1 + item.count("\n", 0, match.end())
    inner = io.StringIO(item[match.end() :].rstrip()[:-1])
    return ((before + line, entry) for line, entry in json_values(inner, name))
