"""CSV files with a header row, plain or gzip. A broken row costs that row only, even by an open quote."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError

from .files import opened
from .json_text import parse_value
from .rows import RawRow
from .sniff import delimiter_of, excel_delimiter, look
from .text_lines import MAX_ROW, legible, lines_of, text_of, text_problem


class _Lines:
    """Lines of which some can be read again; `taken` are those since `begin`, `number` the last one's."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: list[str] = []
        self.taken: list[str] = []
        self.number = 0
        self._characters = 0

    def begin(self) -> None:
        self.taken = []
        self._characters = 0

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
        self._characters += len(line)
        # A quote that is never closed swallows no more before it is given up.
        if self._characters > MAX_ROW:
            raise csv.Error(f"the row has more than {MAX_ROW:,} characters; is a quote not closed?")
        return line


def csv_rows(
    path: Path,
    name: str,
    notes: list[str],
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    json_columns: Collection[str] = (),
    text_columns: Collection[str | None] = (),
) -> Iterator[RawRow]:
    """A row of texts a record, null for empty cells; `json_columns` hold JSON where they can, and columns
    other than `text_columns` a list of texts where a cell is one in JSON.

    A delimiter and encoding that are not given are those that the file's beginning shows; `notes` gets a
    sentence where they are not the usual ones. Raises DataError where the file or its header cannot be read.
    """
    csv.field_size_limit(MAX_ROW)
    seen = look(path, name, "csv", encoding)
    notes += filter(None, [seen.note])
    with opened(path) as file:
        lines = _Lines(lines_of(text_of(file, seen.encoding, ""), name, seen.encoding))
        said = excel_delimiter(seen.head.partition("\n")[0])
        if said is not None:
            next(lines)
        used = delimiter or said or delimiter_of(seen)
        records = _records(lines, used, seen.encoding)
        header = _header(records, name, seen.encoding)
        if header is None:
            return
        if delimiter is None and used != "," and len(header) > 1:
            where = "as its first line says" if said else "as its first rows show"
            notes.append(f"{name} is read with {used!r} between cells, {where}.")
        for line, cells, written, problem in records:
            if len(cells) != len(header):
                detail = f"{len(cells)} cells, the header has {len(header)}"
                yield RawRow(name, line, problem=problem or RowProblem("ragged row", detail), text=written)
                continue
            values = {column: cell or None for column, cell in zip(header, cells, strict=True) if column}
            _parse_json(values, json_columns, text_columns)
            yield RawRow(name, line, values, problem, written)


_Record = tuple[int, list[str], str, RowProblem | None]
"""Line of its beginning, cells (with a problem, as far as they can be told), text, problem."""


def _records(lines: _Lines, delimiter: str, encoding: str) -> Iterator[_Record]:
    """The records that are not blank."""
    while True:
        lines.begin()
        start = lines.number + 1
        cells: list[str] = []
        problem: RowProblem | None = None
        try:
            cells = next(csv.reader(lines, delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            # The lines that an open quote swallowed may be rows of their own.
            lines.give_back_all_but_first()
            problem = RowProblem("not CSV", str(error))
        written = "".join(lines.taken)
        if problem is None:
            if not cells:
                continue
            problem = text_problem(written, encoding)
        yield start, cells if problem is None else list(map(legible, cells)), written, problem


def _header(records: Iterator[_Record], name: str, encoding: str) -> list[str] | None:
    """The names of the columns; None for an empty file."""
    record = next(records, None)
    if record is None:
        return None
    line, cells, written, problem = record
    remedy = "Correct the first row, which names the columns, or data.source.delimiter and encoding."
    if problem is not None:
        raise DataError(f"{name}:{line}: the header is no row: {problem}", remedy=remedy)
    if written.startswith("\xef\xbb\xbf"):
        found = f"{name} begins with the byte order mark of UTF-8, and data.source.encoding is {encoding!r}"
        raise DataError(found, remedy="Set data.source.encoding to 'utf-8'.")
    doubles = [column for column, count in Counter(cells).items() if count > 1 and column]
    if doubles:
        raise DataError(
            f"{name}:{line}: the header names columns twice: {', '.join(map(repr, doubles))}",
            remedy="Give every column a name of its own.",
        )
    if not any(cells):
        raise DataError(f"{name}:{line}: the header names no column", remedy=remedy)
    return cells


def _parse_json(
    values: dict[str, Any], json_columns: Collection[str], text_columns: Collection[str | None]
) -> None:
    """Replace texts by what they say as JSON: of `json_columns` anything, of others but `text_columns` a list
    of texts, which a cell cannot hold otherwise.
    """
    for column, text in values.items():
        anything = column in json_columns
        if isinstance(text, str) and (anything or (column not in text_columns and text.startswith("["))):
            try:
                value = parse_value(text)
            except RowProblem:
                continue
            if anything or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
                values[column] = value
