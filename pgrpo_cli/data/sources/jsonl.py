"""JSON lines files: an object a line, plain or gzip. A broken line costs that line only."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import opened
from .rows import RawRow, RowProblem, shown


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


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of one line; NaN and infinities, which are no JSON, become null. Raises RowProblem."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowProblem(
            "not UTF-8", f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        ) from error
    try:
        row = json.loads(text, parse_constant=lambda constant: None, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise RowProblem("not JSON", f"{error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise RowProblem("not JSON", str(error)) from error
    if not isinstance(row, dict):
        raise RowProblem("not a JSON object", f"found {shown(row)}")
    return row


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
