"""feedback.jsonl and taste.jsonl: what people said of answers, one JSON object per line, only ever appended.

Both files have the same form and may be mixed. What a file holds may come from a stranger: a line that breaks
a rule is skipped, and a note names the file, the line and the rule.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from .errors import DataError, PathError, PgrpoError
from .paths import shown

FEEDBACK = "feedback.jsonl"
"""The file of a run that ratings are appended to."""
TASTE = "taste.jsonl"
"""The file of a run that picks are appended to, and where they place users."""
LONGEST_LINE = 1 << 24
"""Bytes of a line."""
SHOWN_PROBLEMS = 5
_LONGEST_NAME = 200
_NO_TEXT = re.compile("[\ud800-\udfff]")

Message = dict[str, str]
"""A role (system, user, assistant or tool) and its content."""


def now() -> str:
    """The time, in UTC and whole seconds, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_id() -> str:
    """An id that no other record has."""
    return uuid.uuid4().hex


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_time(text: str) -> str:
    try:
        _moment(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("an ISO 8601 date is needed") from error
    return text


def _is_printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("a text that can be printed, and is not blank, is needed")
    return text


def decoded(text: str) -> str:
    """`text` with U+FFFD for each byte of a command line or a terminal that could not be decoded."""
    return _NO_TEXT.sub("\ufffd", text)


def _decodable(value: object) -> object:
    # Such a byte costs that character, and not the record.
    return decoded(value) if isinstance(value, str) else value


def _are_messages(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    for index, message in enumerate(messages):
        if message.keys() != {"role", "content"} or message["role"] not in _ROLES:
            raise ValueError(f"message {index} is no {{role, content}}; roles: {', '.join(_ROLES)}")
    if messages[-1]["role"] not in ("user", "tool"):
        raise ValueError(f"the last message is the {messages[-1]['role']}'s, so there is nothing to answer")
    return messages


_ROLES = ("system", "user", "assistant", "tool")
Name = Annotated[str, Field(max_length=_LONGEST_NAME), AfterValidator(_is_printable)]
Text = Annotated[str, Field(max_length=1_000_000), BeforeValidator(_decodable)]
Messages = Annotated[
    tuple[dict[str, Text], ...], Field(min_length=1, max_length=1_000), AfterValidator(_are_messages)
]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Record(BaseModel):
    """What every record has. `line`: where it stands in the file that it was read from, 0 for a new one."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: Literal[1] = 1
    id: Name = Field(default_factory=new_id)
    time: Annotated[str, Field(max_length=40), AfterValidator(_is_time)] = Field(default_factory=now)
    line: int = Field(0, exclude=True)

    @property
    def seconds(self) -> float:
        """The time in seconds since 1970."""
        return _moment(self.time).timestamp()


class _Opinion(_Record):
    """`messages`: all that stood before the answer, the system's included. `run`: the model's, by name."""

    user: Name | None = None
    preference_group: Name | None = None
    messages: Messages
    run: Name | None = None


class Rating(_Opinion):
    """What somebody thinks of one answer.

    `rating` is 1 (liked), -1 (disliked) or None; `edited` is the answer that the user wanted instead.
    """

    kind: Literal["rating"] = "rating"
    answer: Text
    rating: Literal[1, -1] | None = None
    edited: Text | None = None
    model: Name | None = None
    step: Whole | None = None
    seed: Whole | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Rating:
        if self.rating is None and self.edited is None:
            raise ValueError("rating and edited are both null, so that it says nothing")
        return self


class Pick(_Opinion):
    """Which of two answers somebody likes better: `1` and `2` are the first and the second shown, `=` a tie.

    `models`, `steps` and `seeds` are those of the two answers, in the same order. `instructions`: what was
    added to the question to get them; it is no part of `messages`.
    """

    kind: Literal["pick"] = "pick"
    prompt_id: Name | None = None
    answers: tuple[Text, Text]
    pick: Literal["1", "2", "="]
    models: tuple[Name | None, Name | None] = (None, None)
    steps: tuple[Whole | None, Whole | None] = (None, None)
    seeds: tuple[Whole | None, Whole | None] = (None, None)
    instructions: tuple[Text | None, Text | None] = (None, None)

    @model_validator(mode="after")
    def _is_somebodys(self) -> Pick:
        if self.user is None and self.preference_group is None:
            raise ValueError("user and preference_group are both null, so that it is nobody's")
        return self

    @property
    def first_share(self) -> float:
        """What the first answer won: 1, 0, or a half of a tie."""
        return {"1": 1.0, "2": 0.0, "=": 0.5}[self.pick]

    @property
    def picked(self) -> str | None:
        """The answer that was liked better."""
        return None if self.pick == "=" else self.answers[int(self.pick) - 1]

    @property
    def refused(self) -> str | None:
        """The other one."""
        return None if self.pick == "=" else self.answers[2 - int(self.pick)]


class Undo(_Record):
    """Takes an earlier pick back. `undone` is its id."""

    kind: Literal["undo"] = "undo"
    undone: Name


class Placed(_Record):
    """Where a user's picks place them: the probability of each preference group, and of none of them."""

    kind: Literal["placed"] = "placed"
    user: Name
    probabilities: Annotated[dict[Name, Annotated[float, Field(ge=0, le=1)]], Field(max_length=10_000)]
    nobody: Annotated[float, Field(ge=0, le=1)]

    @property
    def group(self) -> str | None:
        """The preference group that is likelier than everything else together."""
        return next((group for group, share in self.probabilities.items() if share > 0.5), None)


Record = Rating | Pick | Undo | Placed
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


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


def checked_name(text: str, where: str) -> str:
    """`text` as the name of a user or a preference group in a record. Raises DataError; `where` names it."""
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        raise DataError(f"{where}: {_short(text)}: {_said(error)}", remedy="Choose another name.") from error


def recorded_name(text: str) -> str:
    """The name of a file or folder as records have it: escapes for what cannot be printed, and cut short."""
    return shown(text)[:_LONGEST_NAME].strip() or "unnamed"


@contextmanager
def recordable() -> Iterator[None]:
    """Raise DataError for a record that is made within the block and breaks a rule."""
    try:
        yield
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        raise DataError(f"it cannot be recorded: {place}: {_said(error)}") from error


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
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    cut: list[str] = []
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{shown(path)} is no regular file", remedy="Name a file of feedback.")
        with open(path, "rb") as file:
            for number, line, ended in _lines(file):
                problem = _take(line, number, records)
                if problem is not None and not ended and len(line) <= LONGEST_LINE:
                    cut.append(f"{shown(path)}:{number}: the last line is cut short; it is skipped.")
                elif problem is not None:
                    problems.append(problem)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read: {error.strerror}",
            remedy="Check the path. `pgrpo taste` and `pgrpo chat` write such files.",
        ) from error
    notes = [f"{shown(path)}:{p.line}: {p.reason} ({p.detail}); it is skipped." for p in problems]
    if (more := len(notes) - SHOWN_PROBLEMS) > 0:
        notes[SHOWN_PROBLEMS:] = [f"{shown(path)}: {more} more broken lines are skipped."]
    return Feedback(
        _last_of_each(record for record in records.values() if isinstance(record, Rating)),
        tuple(record for record in records.values() if isinstance(record, Pick)),
        tuple(record for record in records.values() if isinstance(record, Placed)),
        tuple(problems),
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


def _take(line: bytes, number: int, records: dict[str, Record]) -> Problem | None:
    """Enter the record of a line, or take back what it undoes; returns the rule that the line breaks."""
    if len(line) > LONGEST_LINE:
        return Problem(number, "line too long", f"it has more than {LONGEST_LINE:,} bytes")
    try:
        record = _RECORD.validate_json(line).model_copy(update={"line": number})
    except ValidationError as error:
        return _problem(error, number)
    if isinstance(record, Undo):
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
    found = f", found {_short(first['input'])}" if place else ""
    return Problem(number, "not a record", f"{place + ': ' if place else ''}{_said(error)}{found}")


def _said(error: ValidationError) -> str:
    return error.errors(include_url=False, include_context=False)[0]["msg"].removeprefix("Value error, ")[
        :200
    ]


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


def _short(value: object) -> str:
    try:
        text = ascii(value)
    except ValueError:
        # Python writes no number of more than some thousand digits.
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
