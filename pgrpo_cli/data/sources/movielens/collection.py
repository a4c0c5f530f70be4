"""The files of a MovieLens collection, in a folder or in a zip file, read in blocks of whole lines."""

from __future__ import annotations

import codecs
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pgrpo_cli.data.records import SourceFile
from pgrpo_cli.data.sources.files import file_name, hashed
from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import path_of

# Ratings of a block take about 30 bytes each, so that a block is about 300,000 of them.
BLOCK_BYTES = 8 * 1024 * 1024
LONGEST_LINE = 64 * 1024 * 1024


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


def lines(table: TableFile) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes without line end) of each line that is not blank."""
    for first, block in blocks(table):
        for number, line in enumerate(block.split(b"\n")[:-1], start=first):
            if line.strip():
                yield number, line.rstrip(b"\r")


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
