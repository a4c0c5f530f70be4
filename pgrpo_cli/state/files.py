"""Writing files that are either whole or absent."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import CheckpointError


def atomic_write(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one rename, after the bytes have reached the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically. NaN is refused: JSON has none."""
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


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn a full or read-only disk into a CheckpointError that says what could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
            errno.EFBIG,
        ):
            raise
        raise _not_written(what, error.strerror or str(error)) from error
    except sqlite3.OperationalError as error:
        if not any(word in str(error) for word in ("full", "readonly", "disk I/O")):
            raise
        raise _not_written(what, str(error)) from error
    except Exception as error:
        # safetensors reports a failed write as an error of its own that only carries the text.
        if "No space left" not in str(error):
            raise
        raise _not_written(what, "No space left on device") from error


def _not_written(what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{what} could not be written: {why}",
        remedy="Everything saved before is intact. Free some space (or fix the permissions) and run the same "
        "command again: it goes on from the last checkpoint.",
    )
