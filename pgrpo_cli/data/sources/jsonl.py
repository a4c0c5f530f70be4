"""JSON lines files: an object a line, plain or gzip. A broken line costs that line only."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from pgrpo_cli.data.row_problem import RowProblem

from .files import opened
from .rows import RawRow, parse_line


def jsonl_rows(path: Path, name: str) -> Iterator[RawRow]:
    """A row a line that is not blank. Raises DataError where the file cannot be read."""
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            line = line.rstrip(b"\r\n")
            try:
                yield RawRow(name, number, parse_line(line), text=line)
            except RowProblem as problem:
                yield RawRow(name, number, problem=problem, text=line)
