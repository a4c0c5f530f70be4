"""A checkpoint that is being read is not dropped meanwhile: a shared lock on its checksums holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .checksums import CHECKSUMS


def hold(folder: Path) -> BinaryIO | None:
    """A file that holds the folder while it is open; None where that is not to be had.

    It is not where the folder goes, or lacks its checksums, and on disks without locks.
    """
    try:
        file = (folder / CHECKSUMS).open("rb")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Renamed between the two, it would be the lock of what is deleted now.
        if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / CHECKSUMS)):
            return file
    except OSError:
        pass
    file.close()
    return None


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Within the block nobody can hold the folder, unless somebody does so already: whether that is so."""
    try:
        file = (folder / CHECKSUMS).open("rb")
    except OSError:
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            # A disk without locks, on which nobody holds anything.
            pass
        yield True
