"""What people said of answers: ratings, picks, and where picks place a user.

A record may come from a stranger: pydantic checks every part of it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal

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

from pgrpo_cli.errors import DataError
from pgrpo_cli.names import composed
from pgrpo_cli.paths import shown

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
Name = Annotated[
    str, Field(max_length=_LONGEST_NAME), AfterValidator(_is_printable), AfterValidator(composed)
]
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
    """`messages`: what stood before the answer, the system's included, without what conditioning adds.
    `run`: the model's, by name.
    """

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
RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def checked_name(text: str, where: str) -> str:
    """`text` as the name of a user or a preference group in a record. Raises DataError; `where` names it."""
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        raise DataError(
            f"{where}: {shortened(text)}: {rule_broken(error)}", remedy="Choose another name."
        ) from error


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
        raise DataError(f"it cannot be recorded: {place}: {rule_broken(error)}") from error


def rule_broken(error: ValidationError) -> str:
    """The rule that the first mistake breaks, as a sentence for the user."""
    return error.errors(include_url=False, include_context=False)[0]["msg"].removeprefix("Value error, ")[
        :200
    ]


def shortened(value: object) -> str:
    """A value that was found, printable and at most 60 characters long."""
    try:
        text = ascii(value)
    except ValueError:
        # Python writes no number of more than some thousand digits.
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
