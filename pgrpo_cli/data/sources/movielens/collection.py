"""The files of a MovieLens collection, in a folder or in a zip file, and their rows, read in blocks."""

from __future__ import annotations

import codecs
import re
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import RejectedRow, SourceFile
from pgrpo_cli.data.sources.files import file_name, hashed
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import path_of

# Ratings of a block take about 30 bytes each, so that a block is about 300,000 of them.
BLOCK_BYTES = 8 * 1024 * 1024
LONGEST_LINE = 64 * 1024 * 1024
UNIT_SEPARATOR = b"\x1f"


@dataclass(frozen=True)
class Layout:
    """How one generation of MovieLens names and separates its tables."""

    separator: str
    ratings: str
    films: str
    tags: str
    header: bool


LAYOUTS = (
    Layout(",", "ratings.csv", "movies.csv", "tags.csv", header=True),
    Layout("::", "ratings.dat", "movies.dat", "tags.dat", header=False),
)


@dataclass(frozen=True)
class TableFile:
    """One table: `name` as messages show it, the file it lies in, and its name there if that is a zip."""

    name: str
    path: Path
    member: str | None = None


@dataclass(frozen=True)
class Collection:
    """The tables of a collection. Not every one has tags."""

    layout: Layout
    ratings: TableFile
    films: TableFile
    tags: TableFile | None
    files: tuple[SourceFile, ...]


def find_collection(path: str, recipe_dir: Path, *, with_tags: bool) -> Collection:
    """The collection at `path`; its layout is told by the names of its files. Raises DataError."""
    root = path_of(path, "data.source.path", recipe_dir)
    shown = PurePosixPath(file_name(root, recipe_dir))
    if not root.exists():
        raise DataError(
            f"data.source.path {path!r} does not exist (looked for {root})",
            remedy="Unpack a MovieLens collection there, or correct the path; relative ones start at the "
            "recipe's folder.",
        )
    zipped = root.is_file()
    present = _members(root) if zipped else {name: name for name in _names(root)}
    layout = _layout(path, root, present)
    wanted = (layout.ratings, layout.films, layout.tags)
    tables = [
        TableFile(
            str(shown / present[name]), root if zipped else root / name, present[name] if zipped else None
        )
        for name in (wanted if with_tags else wanted[:2])
        if name in present
    ]
    files = hashed(dict.fromkeys(table.path for table in tables), recipe_dir)
    return Collection(layout, tables[0], tables[1], tables[2] if len(tables) > 2 else None, tuple(files))


def blocks(table: TableFile, size: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, from 1; whole lines, each with its end) about `size` bytes at a time."""
    line, rest = 1, b""
    try:
        with _opened(table) as file:
            first = True
            while chunk := file.read(size):
                rest += chunk.removeprefix(codecs.BOM_UTF8) if first else chunk
                first = False
                end = rest.rfind(b"\n") + 1
                if end:
                    yield line, rest[:end]
                    line, rest = line + rest.count(b"\n", 0, end), rest[end:]
                elif len(rest) > LONGEST_LINE:
                    raise DataError(
                        f"{table.name}:{line} has no end within {LONGEST_LINE >> 20} MiB: this is no table",
                        remedy="Unpack or download the collection again.",
                    )
    # RuntimeError is zipfile's for a password, NotImplementedError the one for an unknown compression.
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(
            f"{table.name} cannot be read: {error}",
            remedy="Check that the file is complete (unzip -t tests a .zip) and that you may read it.",
        ) from error
    if rest:
        yield line, rest + b"\n"


@dataclass(frozen=True)
class Rows:
    """The rows of a block: `columns` by name, and the lines of the file, from 1, on which they stand."""

    table: TableFile
    columns: dict[str, Any]
    line_N: NDArray[np.int64]
    _first_line: int
    _block: bytes

    def rejected(self, rows: Mapping[int, tuple[str, str | None]]) -> Iterator[RejectedRow]:
        """The rows with these numbers, each with a reason and a detail (None: what stands there)."""
        texts = self._block.split(b"\n") if rows else []
        for row, (reason, detail) in rows.items():
            line = int(self.line_N[row])
            text = texts[line - self._first_line][:500].decode("utf-8", errors="backslashreplace").strip()
            yield RejectedRow(reason, detail or f"found {text[:60]!r}", self.table.name, line, row=text)


def read_table(
    table: TableFile, layout: Layout, types: Mapping[str, str], rule: str, rejections: Rejections
) -> Iterator[Rows]:
    """The rows, block by block, with Arrow's `types` of the columns. `rule` says what a row is.

    Raises DataError, with the line, where the header is another one or a line holds something else.
    """
    for first_line, block in blocks(table):
        if first_line == 1 and layout.header:
            first_line, block = 2, _without_header(table, block, ",".join(types).encode())
        found = _columns(block, layout.separator, types)
        if found is None:
            raise _no_row(table, layout, types, block, first_line, rule)
        columns, lines = found
        rejections.looked_at(table.name, len(lines))
        yield Rows(table, columns, lines + first_line, first_line, block)


def _without_header(table: TableFile, block: bytes, header: bytes) -> bytes:
    line, _, rest = block.partition(b"\n")
    if line.strip().replace(b'"', b"") != header:
        found = line[:80].decode("utf-8", errors="backslashreplace").strip()
        raise DataError(
            f"{table.name}:1 is {found!r}; MovieLens's header is {header.decode()!r}",
            remedy="Set data.source.path to a MovieLens collection as GroupLens gives it out.",
        )
    return rest


def _columns(
    block: bytes, separator: str, types: Mapping[str, str]
) -> tuple[dict[str, Any], NDArray[np.int64]] | None:
    """The columns, and the lines of their rows, from 0. None where a line holds something else."""
    import pyarrow
    from pyarrow import csv

    if not block.strip(b"\r\n"):
        return {name: np.empty(0, dtype=np.int64) for name in types}, np.empty(0, dtype=np.int64)
    lines = np.arange(block.count(b"\n"))
    # Arrow takes a carriage return within a line for a line end.
    if re.search(rb"\r(?!\n)", block):
        return None
    quoted: str | bool = '"' if separator == "," and "string" in types.values() else False
    if separator == "::":
        if UNIT_SEPARATOR in block:
            return None
        # Arrow's delimiters are of one character.
        block, separator = _utf8(block).replace(b"::", UNIT_SEPARATOR), UNIT_SEPARATOR.decode()
    arrow_types = {name: pyarrow.type_for_alias(kind) for name, kind in types.items()}
    try:
        found = csv.read_csv(
            pyarrow.BufferReader(block),
            csv.ReadOptions(column_names=list(types), use_threads=False, block_size=len(block) + 1),
            csv.ParseOptions(delimiter=separator, quote_char=quoted),
            csv.ConvertOptions(column_types=arrow_types, null_values=[]),
        )
    except pyarrow.ArrowInvalid:
        return None
    if found.num_rows != len(lines):
        # Arrow passes over empty lines.
        lines = np.array([i for i, line in enumerate(block.split(b"\n")) if line.rstrip(b"\r")])
    # A quote that is not closed before its line ends joins rows.
    if found.num_rows != len(lines):
        return None
    return {name: found.column(name).to_numpy() for name in types}, lines


def _utf8(block: bytes) -> bytes:
    """1M is in Latin-1, in which every byte is a character; 10M is in UTF-8."""
    try:
        block.decode()
    except UnicodeDecodeError:
        return block.decode("latin-1").encode()
    return block


def _no_row(
    table: TableFile, layout: Layout, types: Mapping[str, str], block: bytes, first_line: int, rule: str
) -> DataError:
    """The error for the first line of the block that is no row."""
    ends = [match.end() for match in re.finditer(b"\n", block)]
    # The shortest beginning of the block that cannot be read ends with that line.
    bad = bisect_left(ends, True, key=lambda end: _columns(block[:end], layout.separator, types) is None)
    found = block[: ends[bad]].split(b"\n")[-2][:60].decode("utf-8", errors="backslashreplace").strip()
    return DataError(
        f"{table.name}:{first_line + bad} is {found!r}; {rule}, with {layout.separator!r} in between",
        remedy="Unpack or download the collection again.",
    )


@contextmanager
def _opened(table: TableFile) -> Iterator[IO[bytes]]:
    if table.member is None:
        with open(table.path, "rb") as file:
            yield file
        return
    with zipfile.ZipFile(table.path) as archive, archive.open(table.member) as member:
        yield member


def _names(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in root.iterdir() if entry.is_file())
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error.strerror}") from error


def _members(root: Path) -> dict[str, str]:
    """File name to name in the zip file: the one nearest to its top, macOS's own copies left out."""
    try:
        with zipfile.ZipFile(root) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{root} is no folder and cannot be read as a zip file: {error}",
            remedy="Set data.source.path to MovieLens's zip file or to the folder it unpacks to.",
        ) from error
    names = [name for name in names if not name.startswith("__MACOSX/")]
    nearest_last = sorted(names, key=lambda name: (-name.count("/"), name))
    return {name.rpartition("/")[2]: name for name in nearest_last}


def _layout(path: str, root: Path, present: dict[str, str]) -> Layout:
    for layout in LAYOUTS:
        if layout.ratings in present and layout.films in present:
            return layout
    looked_for = " or ".join(f"{layout.ratings} with {layout.films}" for layout in LAYOUTS)
    found = ", ".join(sorted(present)[:10]) or "no file"
    remedy = "Set data.source.path to the folder or zip file of MovieLens 1M, 10M, 25M, 32M or latest-small."
    if "u.data" in present:
        remedy = (
            "MovieLens 100K (u.data) has a format of its own, which is not read: take latest-small or 1M."
        )
    elif root.is_dir():
        inside = [file.parent.name for layout in LAYOUTS for file in root.glob(f"*/{layout.ratings}")]
        if inside:
            remedy = f"Did you mean {(PurePosixPath(path) / min(inside)).as_posix()!r}?"
    raise DataError(f"data.source.path {path!r} lacks {looked_for}; found: {found}", remedy=remedy)
