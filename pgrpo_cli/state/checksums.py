"""checksums.json: the SHA-256 of the files in its folder, by which damage and changes are detected.

A lock on this file protects a checkpoint from being deleted while it is read.
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
from pgrpo_cli.rewards.python_file import imported_files

from .files import write_json

CHECKSUMS = "checksums.json"
ENGINE = "trl"
"""The folder in a checkpoint for the files of TRL, whose names are not ours to choose."""
# The files of a checkpoint or an adapter. Other names in a checksums.json are refused, since a stranger's
# file could otherwise make us read any path.
OURS = re.compile(
    r"(adapter_model|optimizer|(part_)?history)\.safetensors"
    r"|(adapter_config|(part_)?history|trainer|checksums)\.json|chat_template\.jinja"
    rf"|{ENGINE}(/\.?\w[\w.-]*)+"
)


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in `folder` except the model card, which users may change."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in files]
    sums = {name: sha256(folder / name) for name in names if name != "README.md"}
    write_json(folder / CHECKSUMS, sums)


def damage(folder: Path, needed: Iterable[str]) -> str | None:
    """What is wrong with a folder that must contain `needed`, as part of a sentence; None if nothing is."""
    try:
        sums = read_json(folder / CHECKSUMS)
        if not isinstance(sums, dict):
            return f"{CHECKSUMS} is unreadable: it is not a JSON object"
        for name in sums:
            if not OURS.fullmatch(name):
                return f"{CHECKSUMS} names {name!r}, which is not a file of a checkpoint"
        for name, expected in {**dict.fromkeys(needed), **sums}.items():
            if sha256(folder / name) != expected:
                return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS} is unreadable: {error}"
    return None


def sha256_of_code(path: Path) -> str:
    """The SHA-256 of a Python file together with the modules that it imports from its folder."""
    files = imported_files(path)
    if len(files) == 1:
        return sha256(path)
    lines = (f"{file.relative_to(path.parent).as_posix()} {sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hold(folder: Path) -> BinaryIO | None:
    """Lock the folder for reading. The lock is held while the returned file is open.

    None if the folder is being deleted, has no checksums, or is on a file system without locks.
    """
    try:
        file = (folder / CHECKSUMS).open("rb")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # If the folder was renamed after it was opened, the lock would protect a folder that is being
        # deleted.
        if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / CHECKSUMS)):
            return file
    except OSError:
        pass
    file.close()
    return None


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Yield whether no process holds the folder. If so, none can hold it within the block."""
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
            # On a file system without locks no process can hold it.
            pass
        yield True
