"""A look at a file before its rows: what format and encoding its beginning shows, whatever its name says."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from pgrpo_cli.errors import DataError

from .files import opened
from .json_values import begins_with_a_value
from .text_lines import not_encoded

SPACE = " \t\r\n\v\f"
"""Signs of which a blank line consists."""
HEAD = 1 << 16
"""Bytes that are looked at."""
DELIMITERS = (",", ";", "\t", "|")
ROWS = 20
"""Rows of the beginning that a delimiter is tried on."""
MANY = 0.5
"""Of every second byte is NUL, and none of the others: it is UTF-16 of text in Latin letters."""

MOST = 0.8
"""Of the rows have as many cells as the first: then it is CSV, whatever it is called."""

Kind = Literal["json", "csv", "parquet"]
KINDS: dict[Kind, tuple[str, str]] = {
    "json": ("JSON", "jsonl"),
    "csv": ("CSV", "csv"),
    "parquet": ("Parquet", "parquet"),
}
"""Its name in messages, and the `type` of `data.source` that reads it."""

_OBJECTS = re.compile(r'\s*(\[\s*)?\{\s*"')
_MARKS = (
    # UTF-32's begins as UTF-16's does.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNPACK = "Unpack it, or pack it with gzip, which is read as it is."
_TABLE = "Save the table as CSV in UTF-8."
_DOWNLOAD = "Download the file itself: the address that was fetched gives out a page about it."
_SIGNATURES = (
    (b"BZh", "packed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "packed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", _TABLE),
    (b"ARROW1", "an Arrow file", "Save the table as Parquet."),
    (b"SQLite format 3\0", "an SQLite database", _TABLE),
    (b"%PDF-", "a PDF document", _TABLE),
    (b"<!doctype html", "an HTML page", _DOWNLOAD),
    (b"<html", "an HTML page", _DOWNLOAD),
    (b"<?xml", "an XML document", _TABLE),
    (b"version https://git-lfs", "a pointer to a file in Git LFS", "Fetch the file itself: `git lfs pull`."),
)


@dataclass(frozen=True)
class Look:
    """The encoding that a text file is to be read in, and its first characters; `whole`: they are all."""

    encoding: str
    head: str
    whole: bool
    note: str | None = None

    @property
    def lines(self) -> list[str]:
        """The lines of the head that are not blank; the last one may be cut."""
        return [line for line in file_lines(self.head) if line.strip(SPACE)]


def look(path: Path, name: str, kind: Kind, encoding: str | None = None) -> Look:
    """What a text file of `kind` begins with; an `encoding` that is given is taken for its.

    Raises DataError where the file is of another kind.
    """
    start = _start(path)
    _refuse_foreign(start, name, kind)
    marked = next((codec for mark, codec in _MARKS if start.startswith(mark)), None)
    note = None
    if encoding in (None, "utf-16") and marked is None:
        encoding = _unmarked(start) or encoding or "utf-8"
        if encoding.startswith("utf-16-"):
            note = f"{name} is read as {encoding.upper()}, as its NUL bytes show."
    elif encoding is None:
        encoding = str(marked)
        if encoding != "utf-8":
            note = f"{name} is read as {encoding.upper()}, as its byte order mark says."
    try:
        found = _look(start, encoding, note)
    except UnicodeError as error:
        raise not_encoded(name, encoding, error) from error
    _refuse_other(found, name, kind)
    return found


def refuse_unless_parquet(path: Path, name: str) -> None:
    """Raises DataError where the file is plainly of another format."""
    start = _start(path)
    if not start.startswith(b"PAR1"):
        _refuse_foreign(start, name, "parquet")
        _refuse_other(_look(start, "utf-8"), name, "parquet")


def json_layout(seen: Look) -> Literal["lines", "values"]:
    """Whether JSON has a row on each line, or is an array or indented."""
    lines = seen.lines
    if not lines or lines[0].lstrip(SPACE)[0] not in "[{":
        return "lines"
    array = lines[0].lstrip(SPACE).startswith("[")
    if _is_json(lines[0]):
        return "values" if array and len(lines) == 1 else "lines"
    if _has_a_row(lines if seen.whole else lines[:-1]):
        return "lines"
    if array or begins_with_a_value(seen.head):
        return "values"
    # What is long and has no line end is one row; what is long and has some is indented.
    return "lines" if seen.whole or len(lines) == 1 else "values"


def file_lines(text: str) -> list[str]:
    """Lines, each with its end, as files have them; texts hold other signs that end lines for Python."""
    return list(io.StringIO(text, newline=""))


def delimiter_of(seen: Look) -> str:
    """What separates the cells of a CSV: with it most rows have as many as the header, and more than one."""
    return max(DELIMITERS, key=lambda delimiter: _fit(seen, delimiter))


def excel_delimiter(line: str) -> str | None:
    """The delimiter that Excel's line `sep=;` names, where this is such a line."""
    text = line.strip("\r\n")
    return text[4] if len(text) == 5 and text[:4].lower() == "sep=" else None


def _start(path: Path) -> bytes:
    with opened(path) as file:
        return file.read(HEAD)


def _look(start: bytes, encoding: str, note: str | None = None) -> Look:
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)("replace")
    return Look(encoding, decoder.decode(start), len(start) < HEAD, note)


def _has_a_row(lines: list[str]) -> bool:
    """Whether a line after the first is an object by itself, and not an item of a list that continues."""
    return any(
        line.lstrip(SPACE).startswith("{")
        and _is_json(line)
        and following.lstrip(SPACE)[:1] not in (",", "]", "}")
        for line, following in pairwise([*lines[1:], " "])
    )


def _fit(seen: Look, delimiter: str) -> tuple[bool, float, int]:
    """(more than one cell in the header, share of rows with as many, cells in the header)."""
    lines = file_lines(seen.head)
    lines = lines[1:] if lines and excel_delimiter(lines[0]) else lines
    lines = lines if seen.whole else lines[:-1]
    rows: list[int] = []
    try:
        cells = (len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        rows.extend(islice(cells, ROWS))
    # What was read before an odd place counts.
    except csv.Error:
        pass
    if not rows:
        return False, 0.0, 0
    return rows[0] > 1, rows.count(rows[0]) / len(rows), rows[0]


def _refuse_other(seen: Look, name: str, kind: Kind) -> None:
    """Raises DataError for JSON that is to be read as something else, and for CSV."""
    if kind != "json" and _OBJECTS.match(seen.head):
        raise _other(name, kind, "json")
    lines = seen.lines[:ROWS]
    if kind != "csv" and len(lines) > 1 and not any(line.lstrip(SPACE)[0] in "[{" for line in lines):
        more, share, _ = _fit(seen, delimiter_of(seen))
        if more and share > MOST:
            raise _other(name, kind, "csv")


def _other(name: str, kind: Kind, other: Kind) -> DataError:
    (found, type_), (wanted, _) = KINDS[other], KINDS[kind]
    return DataError(
        f"{name} is {found}, and it is to be read as {wanted}",
        remedy=f"Set data.source.type to '{type_}'. Of a public set, name the files as it does: they "
        "are read by their endings.",
    )


def _refuse_foreign(start: bytes, name: str, kind: Kind) -> None:
    if start.startswith(b"PAR1") and kind != "parquet":
        raise _other(name, kind, "parquet")
    if start.startswith(b"PK\x03\x04"):
        if b"[Content_Types].xml" in start or b"xl/" in start:
            raise _foreign(name, "an Excel workbook", _TABLE)
        raise _foreign(name, "a zip archive", _UNPACK)
    text = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for signature, what, remedy in _SIGNATURES:
        if text.startswith(signature.lower()) or start.startswith(signature):
            raise _foreign(name, what, remedy)


def _unmarked(start: bytes) -> str | None:
    """UTF-16 that has no byte order mark, by the NUL bytes that letters of most scripts have in it."""
    even, odd = start[0:400:2], start[1:400:2]
    for codec, high, low in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if high.count(0) > MANY * len(high) and not low.count(0):
            return codec
    return None


def _foreign(name: str, what: str, remedy: str) -> DataError:
    return DataError(f"{name} is {what}, and no table of text", remedy=remedy)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
