"""Writing files atomically: a file is complete, or does not exist."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import CheckpointError


def atomic_write(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one rename, after the bytes have reached the disk. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # Two processes may have one number, in containers that share a volume.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # A new file: a link of that name would lead elsewhere.
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused, since JSON does not have it."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make every file below `path`, and `path` itself, durable."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_directory(path)


def aside(path: Path, why: str) -> Path:
    """Rename `path` to `<name>.<why>-<number>` with the first free number, and return the new path."""
    number = 1
    while (target := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    return path.rename(target)


def put_in_place(finished: Path, place: Path) -> Path | None:
    """Rename `finished` to `place`. What is there is set aside before, and is back where that fails.

    Returns where it is now, if there was something.
    """
    replaced = aside(place, "replaced") if place.exists() else None
    try:
        finished.rename(place)
    except BaseException:
        if replaced is not None:
            with suppress(OSError):
                replaced.rename(place)
        raise
    return replaced


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn errors of the disk while `what` is written into CheckpointError with a remedy. Others pass."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        why, remedy = refused
        raise CheckpointError(
            f"{what} could not be written: {why}",
            remedy=f"Everything saved before is intact. {remedy} and run the same command again: it "
            "continues from what is saved.",
        ) from error


_SPACE, _PERMISSIONS = "Free some space", "Make the directory writable"
_LIMIT, _LOCK = (
    "Free some space or raise the limit on file sizes (ulimit -f)",
    "Close the program that holds it",
)
_ERRNO_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _LIMIT,
    errno.EROFS: _PERMISSIONS,
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
}
# SQLite says which only in words; a file beyond the limit on file sizes is a disk I/O error to it.
_SQLITE_REMEDIES = {
    "full": _SPACE,
    "disk I/O": _LIMIT,
    "readonly": _PERMISSIONS,
    "unable to open": _PERMISSIONS,
    "locked": _LOCK,
}
# safetensors and Arrow report a failed write in the words of an error of their own.
_ERRNO_IN_WORDS = re.compile(r"\((?:os )?error (\d+)\)|\[Errno (\d+)\]")


def refusal(error: Exception) -> tuple[str, str] | None:
    """Why the disk refuses, and the remedy; None where `error` is about something else."""
    if isinstance(error, sqlite3.OperationalError):
        remedies = (remedy for words, remedy in _SQLITE_REMEDIES.items() if words in str(error))
        return next(((str(error), remedy) for remedy in remedies), None)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _ERRNO_IN_WORDS.search(str(error))):
        number = int(next(filter(None, found.groups())))
    return (os.strerror(number), _ERRNO_REMEDIES[number]) if number in _ERRNO_REMEDIES else None
