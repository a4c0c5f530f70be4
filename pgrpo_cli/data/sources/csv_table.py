"""CSV files with a header row, plain or gzip. A broken row costs that row only, even by an open quote."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError

from .files import opened
from .rows import RawRow

MAX_CELL = 1 << 24
"""In characters. A quote that is never closed swallows no more than that before it is given up."""


class _Lines:
    """Lines of which some can be read again; `taken` are those since `begin`, `number` the last one's."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: list[str] = []
        self.taken: list[str] = []
        self.number = 0

    def begin(self) -> None:
        self.taken = []

    def give_back_all_but_first(self) -> None:
        again = self.taken[1:]
        self._again += reversed(again)
        self.number -= len(again)
        del self.taken[1:]

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self.taken.append(line)
        self.number += 1
        return line


def csv_rows(
    path: Path, name: str, *, delimiter: str = ",", encoding: str = "utf-8", json_column: str | None = None
) -> Iterator[RawRow]:
    """A row of texts a record, null for empty cells; `json_column` holds JSON where it can.

    Raises DataError where the file or its header cannot be read.
    """
    csv.field_size_limit(MAX_CELL)
    with opened(path) as file:
        # A byte that is no text is kept as a surrogate, so that it costs its own row only.
        codec = "utf-8-sig" if encoding == "utf-8" else encoding
        text = io.TextIOWrapper(file, encoding=codec, errors="surrogateescape", newline="")
        records = _records(_Lines(_decoded(text, path, encoding)), delimiter, encoding)
        header = _header(records, path, encoding)
        if header is None:
            return
        for line, cells, written in records:
            if isinstance(cells, RowProblem):
                yield RawRow(name, line, problem=cells, text=written)
            elif len(cells) != len(header):
                detail = f"{len(cells)} cells, the header has {len(header)}"
                yield RawRow(name, line, problem=RowProblem("ragged row", detail), text=written)
            else:
                values = {column: cell or None for column, cell in zip(header, cells, strict=True) if column}
                _parse_json(values, json_column)
                yield RawRow(name, line, values, text=written)


def _decoded(lines: Iterator[str], path: Path, encoding: str) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeError as error:
        raise DataError(
            f"{path} is not {encoding}: {error}", remedy="Set data.source.encoding to the file's."
        ) from error


def _records(
    lines: _Lines, delimiter: str, encoding: str
) -> Iterator[tuple[int, list[str] | RowProblem, str]]:
    """(line of its beginning, cells or what is wrong, text) of each record that is not blank."""
    while True:
        lines.begin()
        start = lines.number + 1
        cells: list[str] | RowProblem
        try:
            cells = next(csv.reader(lines, delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            # The lines that an open quote swallowed may be rows of their own.
            lines.give_back_all_but_first()
            cells = RowProblem("not CSV", str(error))
        written = "".join(lines.taken)
        if isinstance(cells, list):
            if not cells:
                continue
            cells = _text_problem(written, encoding) or cells
        yield start, cells, written


def _text_problem(text: str, encoding: str) -> RowProblem | None:
    if "\0" in text:
        return RowProblem("NUL byte", f"at character {text.index(chr(0)) + 1} of the row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        remedy = "set data.source.encoding to the file's, perhaps latin-1"
        return RowProblem(f"not {encoding}", f"byte 0x{byte:02x} at character {error.start + 1}; {remedy}")
    return None


def _header(records: Iterator[tuple[int, list[str] | RowProblem, str]], path: Path, encoding: str) -> Any:
    """The names of the columns; None for an empty file."""
    line, cells, written = next(records, (0, None, ""))
    if cells is None:
        return None
    remedy = "Correct the first row, which names the columns, or data.source.delimiter and encoding."
    if isinstance(cells, RowProblem):
        raise DataError(f"{path}:{line}: the header is no row: {cells}", remedy=remedy)
    if written.startswith("\xef\xbb\xbf"):
        found = f"{path} begins with the byte order mark of UTF-8, and data.source.encoding is {encoding!r}"
        raise DataError(found, remedy="Set data.source.encoding to 'utf-8'.")
    doubles = [column for column, count in Counter(cells).items() if count > 1 and column]
    if doubles:
        raise DataError(
            f"{path}:{line}: the header names columns twice: {', '.join(map(repr, doubles))}",
            remedy="Give every column a name of its own.",
        )
    if not any(cells):
        raise DataError(f"{path}:{line}: the header names no column", remedy=remedy)
    return cells


def _parse_json(values: dict[str, Any], column: str | None) -> None:
    """Replace the text of `column` by what it says, where it is JSON."""
    text = values.get(column) if column is not None else None
    if isinstance(text, str):
        try:
            values[str(column)] = json.loads(text)
        except (ValueError, RecursionError):
            return
