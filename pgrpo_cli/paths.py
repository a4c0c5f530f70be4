"""Paths that an option or a recipe names: expanded, checked, tried for writing before hours are spent.

`~`, `~user`, `$NAME` and `${NAME}` are expanded, as a shell does; a relative path starts at a given folder.
A hub id is no path: nothing in it is expanded, since it is sent to the hub (`path_or_id`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path, PurePosixPath

from .errors import PathError

LONGEST_NAME = 255
"""Bytes that a name of a file or folder may have; what is in use limits them to this."""

_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([^{}]*)\})")
_OTHER = "Name another one."
_WHY = {
    errno.ELOOP: ("its links lead in a circle", "Remove the links, or name another path."),
    errno.ENAMETOOLONG: ("it is too long for this file system", "Name a shorter one."),
    errno.EACCES: ("it cannot be looked at: permission denied", "Check the permissions of its folders."),
}


def path_of(text: str | os.PathLike[str], where: str, start: Path = Path()) -> Path:
    """The path that `text` names, which need not be there; a relative one starts at `start`.

    `where`: the option or key, for messages. Raises PathError where it can be none: an unknown user or
    variable, a character or length that no name has, a file where a folder should be, links in a circle.
    """
    path = start / expanded(text, where, start)
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(path, where, error) from error
    try:
        os.path.realpath(path).encode()
    except UnicodeEncodeError as error:
        raise PathError(
            f"{where}: {shown(path)}: it lies in a folder, or is a link to one, whose name is not UTF-8",
            remedy="Rename that, or name another path.",
        ) from error
    except FileNotFoundError as error:
        raise PathError(
            f"{where}: {shown(path)}: the working directory is gone", remedy="Change to one that is there."
        ) from error
    return path


def path_or_id(text: str, where: str, start: Path = Path()) -> Path | None:
    """The path that `text` names, as `path_of`; None where it can only be a hub's id, to be used as it is.

    It is a path where something lies there, and where it begins with `.`, `/` or `~` or has a `$`. Raises
    PathError.
    """
    if text.startswith((".", "/", "~")) or "$" in text:
        return path_of(text, where, start)
    refuse_characters(text, where)
    path = start / text
    return path_of(text, where, start) if os.path.lexists(path) else None


def expanded(text: str | os.PathLike[str], where: str, start: Path = Path()) -> str:
    """`text`, which may be a pattern, with `~` and variables expanded; a file whose name has a `$` is itself.

    Raises PathError for an unknown user or variable, and a character or length that no name has.
    """
    text = os.fspath(text)
    refuse_characters(text, where)
    found = os.path.expanduser(text)
    if found.startswith("~"):
        user = found.partition("/")[0]
        raise PathError(
            f"{where}: {shown(text)}: there is no user {shown(user[1:])!r}, or none with a home directory",
            remedy=f"Write ./{shown(user)} for a file or folder of that name here.",
        )
    if "$" in found and not os.path.lexists(start / found):
        found = _VARIABLE.sub(lambda match: _value(match[1] or match[2] or "", text, where), found)
    refuse_characters(found, where)
    return found


def below(text: str, folder: Path, where: str) -> Path:
    """The file below `folder` that a recipe says to write. Nothing is expanded, and no link is followed.

    Raises PathError where it would lie elsewhere.
    """
    refuse_characters(text, where)
    parts = PurePosixPath(text).parts
    if not parts or text.startswith(("/", "~")) or ".." in parts:
        raise PathError(
            f"{where}: {shown(text)}: a recipe writes below the run directory only",
            remedy="Name a file relative to the run directory, without `..`.",
        )
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise PathError(
                f"{where}: {shown(path)} is a link; a recipe writes through none",
                remedy="Remove the link, or name another file.",
            )
    return path


def made_folder(path: Path, where: str) -> Path:
    """`path`, made with its parents where it is missing, and tried for writing.

    Raises PathError where it cannot be a folder, OSError where the disk refuses.
    """
    place = next((place for place in (path, *path.parents) if os.path.lexists(place)), Path())
    if not place.exists():
        raise PathError(
            f"{where}: {shown(place)} is a link to {shown(os.readlink(place))}, which is not there",
            remedy="Make that folder, or remove the link.",
        )
    if not place.is_dir():
        raise PathError(f"{where}: {shown(place)} is a file", remedy="Name a folder.")
    path.mkdir(parents=True, exist_ok=True)
    try_to_write(path)
    return path


def try_to_write(folder: Path) -> None:
    """Raises OSError, with the folder's name, where nothing can be written into it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def shown(path: str | os.PathLike[str]) -> str:
    """A path as a message shows it: what cannot be printed as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(path))


def _value(name: str, text: str, where: str) -> str:
    if name not in os.environ:
        raise PathError(
            f"{where}: {shown(text)}: the environment variable {shown(name) or '${}'} is not set",
            remedy="Set it, or write the path without it.",
        )
    return os.environ[name]


def refuse_characters(text: str, where: str) -> None:
    """Raises PathError for a text that names nothing on any disk."""
    if not text.strip():
        raise PathError(f"{where}: is empty; it must name a path", remedy="Write `.` for the folder itself.")
    if "\0" in text:
        raise PathError(f"{where}: {shown(text)}: a path holds no NUL character", remedy=_OTHER)
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise PathError(
            f"{where}: {shown(text)}: the name is not UTF-8, which files of a run could not repeat",
            remedy="Rename it, or name another path.",
        ) from error
    if longest := next((name for name in encoded.split(b"/") if len(name) > LONGEST_NAME), None):
        raise PathError(
            f"{where}: a name in it has {len(longest)} bytes; one has at most {LONGEST_NAME}: "
            f"{shown(longest[:40].decode(errors='ignore'))}...",
            remedy="Name a shorter one.",
        )


def _unusable(path: Path, where: str, error: OSError) -> PathError:
    if error.errno == errno.ENOTDIR:
        file = next((place for place in path.parents if place.exists() and not place.is_dir()), path.parent)
        return PathError(
            f"{where}: {shown(path)}: {shown(file)} is a file, so nothing lies below it", remedy=_OTHER
        )
    why, remedy = _WHY.get(error.errno or 0, (error.strerror or str(error), _OTHER))
    return PathError(f"{where}: {shown(path)}: {why}", remedy=remedy)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
