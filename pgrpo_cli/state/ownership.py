"""Whether a directory is a run's. Nothing is replaced or deleted in other directories, or through links.

The directory of a run contains a marker file. Runs that are older than the marker, or that were copied
without hidden files, are recognised by the first line of their recipe.yaml and by other files that only a run
has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pgrpo_cli.errors import RunError
from pgrpo_cli.feedback.file import FEEDBACK, TASTE
from pgrpo_cli.paths import made_folder, shown
from pgrpo_cli.recipe.load import written_by

from .files import explained

MARKER = ".pgrpo-run"
LOCK = ".lock"
_TEXT = "This directory is a run of pgrpo, which replaces and removes its own files in it.\n"
_FOLDERS = frozenset({"adapter", "checkpoints", "data", "eval", "export", "profile", "tensorboard"})
_FILES = frozenset(
    {MARKER, LOCK, "recipe.yaml", "origin.json", "paths.json", "findings.json", "metrics.jsonl"}
    | {f"{name}.sqlite{log}" for name in ("history", "judge") for log in ("", "-wal", "-shm")}
    | {"fingerprint.json", "report.html", "compare.html", "rejected.jsonl", "traceback.txt"}
)
# A user may bring the answers of a judge; picks are made before a run is trained on them; a process that was
# killed early leaves no more than its lock.
_BEFORE_A_RUN = frozenset({LOCK, FEEDBACK, TASTE, *(f"judge.sqlite{log}" for log in ("", "-wal", "-shm"))})
_SHOWN = 5


def examine(path: Path) -> None:
    """Raises RunError unless `path` is the directory of a run in which no entry leads elsewhere."""
    if not path.is_dir():
        raise RunError(
            f"{shown(path)}: there is no such run", remedy="Train it first: `pgrpo train RECIPE` makes runs."
        )
    if not is_run(path):
        found = "pgrpo did not make it" if (path / "recipe.yaml").exists() else "it has no recipe.yaml"
        raise RunError(
            f"{shown(path)} is not a run: {found}",
            remedy="Name a directory that `pgrpo prepare` or `pgrpo train` made.",
        )
    _refuse_other_entries(path)


def take(path: Path) -> None:
    """Make the directory of a run, or make sure that it is one; it can be written, and holds the marker.

    Raises RunError for a directory that holds anything else, CheckpointError where the disk refuses.
    """
    if path.is_dir():
        _refuse_foreign(path)
        _refuse_other_entries(path)
    with explained(str(path)):
        made_folder(path, "run directory")
    # At once in its place: a kill in between must not leave a directory that is neither empty nor a run's.
    with explained(str(path / MARKER)), suppress(FileExistsError), (path / MARKER).open("x") as file:
        file.write(_TEXT)


def is_run(path: Path) -> bool:
    """Whether this program made the directory."""
    if (path / MARKER).is_file():
        return True
    recipe = path / "recipe.yaml"
    if not recipe.is_file() or written_by(recipe) is None:
        return False
    # A user may have a copy of a resolved recipe: one file more is asked for.
    return any((path / name).is_file() for name in ("origin.json", "history.sqlite", "metrics.jsonl")) or any(
        path.glob("checkpoints/step-*/checksums.json")
    )


def _refuse_foreign(path: Path) -> None:
    """Raises RunError for a directory that is neither a run's nor empty, or that never is to be one."""
    remedy = "Give --run-dir a directory of its own, a new or an empty one."
    place = path.resolve()
    if place in (place.parent, Path(os.path.expanduser("~")).resolve()):
        raise RunError(f"{shown(place)} is no place for a run", remedy=remedy)
    if not is_run(path) and not _BEFORE_A_RUN.issuperset(os.listdir(path)):
        raise RunError(
            f"{shown(path)} is not a run's directory: it holds {_holds(path)}; a run replaces and removes "
            "files in its own",
            remedy=remedy,
        )


def _refuse_other_entries(path: Path) -> None:
    """Raises RunError for a link, device or pipe below `path`, and for a folder where a file should be."""
    for entry in _entries(path):
        place = shown(entry.path)
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise RunError(
                f"{place} is a link to {shown(os.readlink(entry.path))}; a run's files are read and written "
                "through no link below its directory",
                remedy="Put the file or folder itself there, or remove the link. The directory as a whole "
                "may be reached by one.",
            )
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise RunError(f"{place} is neither a file nor a folder", remedy="Remove it.")
        at_top = os.path.dirname(entry.path) == os.fspath(path)
        if at_top and entry.name in (_FILES if stat.S_ISDIR(mode) else _FOLDERS):
            found, due = ("folder", "file") if stat.S_ISDIR(mode) else ("file", "folder")
            raise RunError(
                f"{place} is a {found}; a run has a {due} of that name", remedy="Move it away, or rename it."
            )


def _entries(path: Path) -> Iterator[os.DirEntry[str]]:
    """All below `path`; what vanishes meanwhile, because the run trains, is left out."""
    folders = [os.fspath(path)]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield entry
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)


def _holds(path: Path) -> str:
    names = sorted(os.listdir(path))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown(name) for name in names[:_SHOWN]) + more if names else "nothing"
