"""The files that a source names: found, hashed and opened, with errors that say which file and why."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pgrpo_cli.data.records import SourceFile
from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import expanded

GZIP = b"\x1f\x8b"


def matching_files(field: str, pattern: str, recipe_dir: Path) -> list[Path]:
    """The files that `data.source.FIELD` names, sorted. Raises DataError where there is none."""
    full = os.path.join(recipe_dir, expanded(pattern, f"data.source.{field}", recipe_dir))
    # A file whose name holds glob characters is itself first.
    paths = [full] if os.path.isfile(full) else sorted(glob.glob(full, recursive=True))
    files = [Path(path) for path in paths if os.path.isfile(path)]
    if not files:
        raise DataError(
            f"no file matches data.source.{field}: {pattern!r} (looked for {full})",
            remedy="Correct the path or pattern; relative ones start at the recipe's folder.",
        )
    return files


def file_name(path: Path, recipe_dir: Path) -> str:
    """The path as it reads from the recipe's folder: the same wherever that folder lies."""
    return Path(os.path.relpath(path, recipe_dir)).as_posix()


def hashed(paths: Iterable[Path], recipe_dir: Path) -> list[SourceFile]:
    """Name and SHA-256 of each file, as it lies on disk. Raises DataError."""
    return [SourceFile(file_name(path, recipe_dir), _sha256(path)) for path in paths]


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
            f"{path} cannot be read: {error}",
            remedy="Check that the file is complete (gunzip -t tests a .gz) and that you may read it.",
        ) from error


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", remedy="Check that you may read it."
        ) from error
