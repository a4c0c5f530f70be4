"""The files that a source names: found, hashed and opened, with errors that say which file and why."""

from __future__ import annotations

import glob
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pgrpo_cli.data.records import SourceFile
from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import expanded, sha256, shown

_RECURSIVE = re.compile(r"(^|/)(?:\*\*(?:/|$))+")
GZIP = b"\x1f\x8b"


def matching_files(field: str, pattern: str, recipe_dir: Path) -> list[Path]:
    """The files that `data.source.FIELD` names, sorted. Raises DataError where there is none."""
    named = expanded(pattern, f"data.source.{field}", recipe_dir)
    full = os.path.join(recipe_dir, named)
    # A file whose name holds glob characters is itself first, and the recipe's folder may be called so.
    if os.path.isfile(full):
        paths = [full]
    else:
        paths = sorted(set(_glob(os.path.join(glob.escape(str(recipe_dir)), named))))
    files = [Path(path) for path in paths if os.path.isfile(path)]
    if not files:
        raise DataError(
            f"no file matches data.source.{field}: {pattern!r} (looked for {shown(full)})",
            remedy="Correct the path or pattern; relative ones start at the recipe's folder.",
        )
    return files


def file_name(path: Path, recipe_dir: Path) -> str:
    """The path as it reads from the recipe's folder: the same wherever that folder lies, and printable."""
    return shown(Path(os.path.relpath(path, recipe_dir)).as_posix())


def hashed(paths: Iterable[Path], recipe_dir: Path) -> list[SourceFile]:
    """Name and SHA-256 of each file, as it lies on disk. Raises DataError."""
    return [SourceFile(file_name(path, recipe_dir), _hash(path)) for path in paths]


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, gzip unpacked, whatever its name. What goes wrong with it becomes a DataError."""
    try:
        with open(path, "rb") as packed:
            gzipped = path.suffix == ".gz" or packed.read(2) == GZIP
        open_bytes: Any = gzip.open if gzipped else open
        with open_bytes(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}",
            remedy="Check that the file is complete (gunzip -t tests a .gz) and that you may read it.",
        ) from error


def _glob(pattern: str) -> Iterator[str]:
    """The paths that match. `**` stands for folders in folders, but links, which may lead in a circle."""
    match = _RECURSIVE.search(pattern)
    if match is None:
        yield from glob.iglob(pattern)
        return
    rest = pattern[match.end() :] or "*"
    for top in glob.iglob(pattern[: match.start()] or match[1] or "."):
        for folder, inside, _ in os.walk(top):
            inside[:] = [name for name in inside if not name.startswith(".")]
            yield from _glob(os.path.join(glob.escape(folder), rest))


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read: {error.strerror}", remedy="Check that you may read it."
        ) from error
