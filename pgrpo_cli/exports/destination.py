"""The folder of an export: written beside its place, and renamed when all of it is there and checked."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.errors import ExportError
from pgrpo_cli.paths import made_folder, shown
from pgrpo_cli.state.files import explained, put_in_place, sync_directory, sync_tree

RECORD = "export.json"
"""The record of an export, by which its folder is known."""
MADE_BY = "pgrpo export"
_LOCK = ".pgrpo-export"
_SHOWN = 3
_LONGEST = 200


def refuse_foreign(folder: Path) -> None:
    """Raise ExportError if something at `folder` would be lost: another folder, or files put beside one.

    The same holds for the place beside it, where the export is written first.
    """
    if folder.name in ("", ".."):
        raise ExportError(
            f"--output: {shown(folder)} is no name of a folder; an export replaces its folder as a whole",
            remedy=f"Name a folder in it, such as {shown(folder / 'exported')}.",
            exit_code=2,
        )
    if len(os.fsencode(folder.name)) > _LONGEST:
        raise ExportError(
            f"--output: the folder's name has {len(os.fsencode(folder.name))} bytes; at most {_LONGEST} are "
            "allowed, since the export is written under a longer name first",
            remedy="Shorten it.",
            exit_code=2,
        )
    temporary = _temporary(folder)
    if os.path.lexists(temporary) and not _is_left(temporary):
        raise ExportError(
            f"{shown(temporary)} is in the way: the export is written there first",
            remedy="Move it away, or name another folder.",
            exit_code=2,
        )
    if not os.path.lexists(folder):
        return
    remedy = "Give --output a new or an empty folder."
    if folder.is_symlink() or not folder.is_dir():
        raise ExportError(f"--output: {shown(folder)} is no folder", remedy=remedy, exit_code=2)
    foreign = _foreign(folder)
    if foreign:
        names = ", ".join(shown(name) for name in foreign[:_SHOWN])
        more = f" and {len(foreign) - _SHOWN} more" if foreign[_SHOWN:] else ""
        raise ExportError(
            f"--output: {shown(folder)} holds what no export wrote: {names}{more}; an export replaces its "
            "folder as a whole",
            remedy=remedy,
            exit_code=2,
        )


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.export")


def _is_left(temporary: Path) -> bool:
    """Whether an export that was killed left this folder; at the very end it has its record and no lock."""
    if temporary.is_symlink() or not temporary.is_dir():
        return False
    return (temporary / _LOCK).is_file() or not _foreign(temporary)


def _foreign(folder: Path) -> list[str]:
    """The files in an export's folder that no export wrote."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return sorted(present - _listed(folder))


def _listed(folder: Path) -> set[str]:
    """The files that the record of an earlier export lists; empty where there is none."""
    try:
        record = read_json(folder / RECORD)
        if record["made_by"] == MADE_BY:
            # The lock may be back after a power cut.
            return {RECORD, _LOCK, *map(str, record["files"])}
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return set()


@contextmanager
def destination(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place at the end of the block, unless that is left by an
    exception: then nothing of it stays.

    Raises ExportError where `folder` is not an export's or another process writes it, CheckpointError where
    the disk refuses.
    """
    refuse_foreign(folder)
    temporary = _temporary(folder)
    with explained(str(folder)):
        made_folder(folder.parent, "--output")
        lock = _begun(temporary)
        try:
            yield temporary
            _readable(temporary)
            sync_tree(temporary)
            # It may have been written meanwhile.
            refuse_foreign(folder)
            # As late as can be: what is left is known by it.
            (temporary / _LOCK).unlink()
            replaced = put_in_place(temporary, folder)
            sync_directory(folder.parent)
            if replaced is not None:
                shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)


def _begun(temporary: Path) -> int:
    """The new folder's lock. What a killed export left is removed."""
    if temporary.exists():
        lock = _locked(temporary)
        shutil.rmtree(temporary)
        os.close(lock)
    temporary.mkdir()
    try:
        return _locked(temporary)
    except OSError:
        temporary.rmdir()
        raise


def _locked(temporary: Path) -> int:
    lock = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ExportError(
            f"another export writes to {shown(temporary)}", remedy="Wait for it, or name another folder."
        ) from error
    except OSError:
        # A file system without locks, on which no other export can be noticed.
        pass
    return lock


def _readable(folder: Path) -> None:
    """Let others read the files, as the umask says: safetensors lets only their owner read its own."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
