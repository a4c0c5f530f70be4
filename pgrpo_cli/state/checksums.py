"""checksums.json: the SHA-256 of the files beside it, by which a changed folder is told from a whole one.

A lock on it holds a checkpoint: one that is being read is not dropped meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.paths import sha256
from pgrpo_cli.rewards.neighbours import imported_files

from .files import write_json

CHECKSUMS = "checksums.json"
# What a checkpoint or an adapter holds. A list that names anything else would have us read it.
OURS = re.compile(
    r"(adapter_model|optimizer|(part_)?history)\.safetensors"
    r"|(adapter_config|(part_)?history|trainer|checksums)\.json|chat_template\.jinja"
)


def write_checksums(folder: Path) -> None:
    """Write those of all files in `folder` but a model card, which users may change."""
    sums = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != "README.md"}
    write_json(folder / CHECKSUMS, sums)


def damage(folder: Path, needed: Iterable[str]) -> str | None:
    """What is wrong with a folder that must hold `needed`, as half a sentence; None for one that is whole."""
    try:
        sums = read_json(folder / CHECKSUMS)
        if not isinstance(sums, dict):
            return f"{CHECKSUMS} is unreadable: it holds no object"
        for name in sums:
            if not OURS.fullmatch(name):
                return f"{CHECKSUMS} names {name!r}, which is no file of it"
        for name, expected in {**dict.fromkeys(needed), **sums}.items():
            if sha256(folder / name) != expected:
                return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS} is unreadable: {error}"
    return None


def sha256_of_code(path: Path) -> str:
    """Of a file of Python, with what of its folder it imports."""
    files = imported_files(path)
    if len(files) == 1:
        return sha256(path)
    told = (f"{file.relative_to(path.parent).as_posix()} {sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(told).encode()).hexdigest()


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
