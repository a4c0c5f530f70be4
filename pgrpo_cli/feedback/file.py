"""feedback.jsonl and taste.jsonl: one record per line, only ever appended.

Both files have the same form and may be mixed. What a file holds may come from a stranger: a line that breaks
a rule is skipped, and a note names the file, the line and the rule.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from pgrpo_cli.errors import DataError, PathError, PgrpoError
from pgrpo_cli.paths import shown

from .records import RECORD, Pick, Placed, Rating, Record, Undo, rule_broken, shortened

FEEDBACK = "feedback.jsonl"
"""The file of a run that ratings are appended to."""
TASTE = "taste.jsonl"
"""The file of a run that picks are appended to, and where they place users."""
LONGEST_LINE = 1 << 24
"""Bytes of a line."""
SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class Problem:
    """A line that is not used: the rule that it breaks (or `not a record`) and what was found."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Feedback:
    """What a file holds, in its order, without picks that were taken back. Where somebody has rated an answer
    several times, it has the last rating.

    `notes` are sentences for the user: they name the problems, and a last line that a kill cut short.
    """

    ratings: tuple[Rating, ...] = ()
    picks: tuple[Pick, ...] = ()
    placed: tuple[Placed, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def append(path: Path, record: Record) -> None:
    """Add one record, and return when the disk has it. Several programs may write to the same file.

    Raises DataError for a record that could not be read again, PathError where `path` is no regular file,
    PgrpoError where the disk refuses.
    """
    line = record.model_dump_json().encode() + b"\n"
    if len(line) > LONGEST_LINE:
        raise DataError(
            f"the {record.kind} cannot be recorded: it has {len(line):,} bytes, at most {LONGEST_LINE:,}",
            remedy="Begin a new conversation.",
        )
    try:
        # A link in a stranger's run directory could lead to any file of the user's; a pipe would block.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o666)
        try:
            _write(descriptor, line, path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _not_writable(path, error) from error


def read_feedback(path: Path) -> Feedback:
    """All ratings and picks of a file. Raises DataError where it cannot be read."""
    found = _read(path)
    return _feedback(path, found, _last_of_each(found.ratings))


def read_several(paths: Iterable[Path]) -> dict[Path, Feedback]:
    """What each file holds, without what another one takes back: a copy may be older than the undo of a pick,
    or than the last rating of an answer. A record of two files stands in both. Raises DataError.
    """
    files = {path: _read(path) for path in paths}
    undone = {id for found in files.values() for id in found.undone}
    ratings = {rating.id: rating for found in files.values() for rating in found.ratings}
    moments: dict[str, float] = {}
    for found in files.values():
        latest = -math.inf
        for rating in found.ratings:
            # Within a file its order decides, also if the clock was set back.
            latest = max(latest, rating.seconds)
            moments[rating.id] = max(latest, moments.get(rating.id, latest))
    last = {rating.id for rating in _last_of_each(sorted(ratings.values(), key=lambda one: moments[one.id]))}
    return {
        path: _feedback(path, found, (rating for rating in found.ratings if rating.id in last), undone)
        for path, found in files.items()
    }


@dataclass(frozen=True)
class _Contents:
    """The records of a file by their ids, without picks that were taken back; `undone` are the ids of those.

    `cut` is the number of a last line that a kill cut short.
    """

    records: dict[str, Record] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)

    @property
    def ratings(self) -> list[Rating]:
        return [record for record in self.records.values() if isinstance(record, Rating)]


def _read(path: Path) -> _Contents:
    found = _Contents()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{shown(path)} is no regular file", remedy="Name a file of feedback.")
        with open(path, "rb") as file:
            for number, line, ended in _lines(file):
                problem = _take(line, number, found)
                if problem is not None and not ended and len(line) <= LONGEST_LINE:
                    found.cut.append(number)
                elif problem is not None:
                    found.problems.append(problem)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read: {error.strerror}",
            remedy="Check the path. `pgrpo taste` and `pgrpo chat` write such files.",
        ) from error
    return found


def _feedback(
    path: Path, found: _Contents, ratings: Iterable[Rating], undone: Collection[str] = ()
) -> Feedback:
    notes = [f"{shown(path)}:{p.line}: {p.reason} ({p.detail}); it is skipped." for p in found.problems]
    if (more := len(notes) - SHOWN_PROBLEMS) > 0:
        notes[SHOWN_PROBLEMS:] = [f"{shown(path)}: {more} more broken lines are skipped."]
    cut = [f"{shown(path)}:{number}: the last line is cut short; it is skipped." for number in found.cut]
    records = found.records.values()
    return Feedback(
        tuple(ratings),
        tuple(record for record in records if isinstance(record, Pick) and record.id not in undone),
        tuple(record for record in records if isinstance(record, Placed)),
        tuple(found.problems),
        (*notes, *cut),
    )


def _write(descriptor: int, line: bytes, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise PathError(f"{shown(path)} is no regular file", remedy="Name another one.")
    # On a file system without locks a record is still one write to the end of the file.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        # A kill has cut the last line short: the record must not become a part of it.
        line = b"\n" + line
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)
    if not size:
        # The name of a new file is durable when its folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _take(line: bytes, number: int, found: _Contents) -> Problem | None:
    """Enter the record of a line, or take back what it undoes; returns the rule that the line breaks."""
    records = found.records
    if len(line) > LONGEST_LINE:
        return Problem(number, "line too long", f"it has more than {LONGEST_LINE:,} bytes")
    try:
        record = RECORD.validate_json(line).model_copy(update={"line": number})
    except ValidationError as error:
        return _problem(error, number)
    if isinstance(record, Undo):
        found.undone.add(record.undone)
        if not isinstance(records.get(record.undone), Pick):
            return Problem(number, "undo of nothing", f"no earlier pick has the id {record.undone!r}")
        del records[record.undone]
    elif record.id in records:
        return Problem(number, "id stands twice", f"line {records[record.id].line} has {record.id!r}, too")
    else:
        records[record.id] = record
    return None


def _last_of_each(ratings: Iterable[Rating]) -> tuple[Rating, ...]:
    """The ratings without those that the same person has replaced: a Like, then a Dislike of the same answer.
    What they wanted instead stands beside their rating.
    """
    last: dict[str, Rating] = {}
    for rating in ratings:
        same = rating.model_dump_json(exclude={"id", "time", "rating", "edited"})
        # Without a user and a seed it may be another person, or another answer with the same text.
        known = rating.user is not None or rating.seed is not None
        key = f"{same} {rating.edited is None}" if known else rating.id
        last.pop(key, None)
        last[key] = rating
    return tuple(last.values())


def _problem(error: ValidationError, number: int) -> Problem:
    first = error.errors(include_url=False, include_context=False)[0]
    # The first part is the kind of the record, which is no key of it.
    place = ".".join(ascii(part).strip("'")[:40] for part in first["loc"][1:])
    found = f", found {shortened(first['input'])}" if place else ""
    return Problem(number, "not a record", f"{place + ': ' if place else ''}{rule_broken(error)}{found}")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """(number, line, whether it ends) of each line that is not blank; of a longest one the beginning."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        ended = line.endswith(b"\n")
        if not ended and len(line) > LONGEST_LINE:
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
        if line.strip():
            yield number, line, ended


def _not_writable(path: Path, error: OSError) -> PgrpoError:
    if error.errno == errno.ELOOP:
        return PathError(
            f"{shown(path)} is a link; records are written through none",
            remedy="Name the file that it leads to, or remove the link.",
        )
    return PgrpoError(
        f"{shown(path)} could not be written: {error.strerror}",
        remedy="What was recorded before is intact. Make room, or make the folder writable.",
    )
