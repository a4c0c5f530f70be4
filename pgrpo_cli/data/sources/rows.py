"""A row as it is read, what is wrong with it, and the record that is made of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pgrpo_cli.data.records import Message, RejectedRow, SourceRecord

ROW_EXCERPT = 500
ROLES = ("system", "user", "assistant", "tool")
MAX_GROUP_LENGTH = 200


class RowProblem(Exception):
    """Why a row is rejected: `reason` is the rule (few, counted), `detail` what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class RawRow:
    """A row of a table: its values by column (JSON values), or the problem that it has.

    `line` counts from 1: the line of a text file where the row begins, the row's number elsewhere. `text` is
    how the row stands in the file, where it is text.
    """

    file: str
    line: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: RowProblem | None = None
    text: str | bytes | None = None

    def rejected(self, problem: RowProblem, preference_group: str | None = None) -> RejectedRow:
        """The row as it is reported."""
        return RejectedRow(
            problem.reason, problem.detail, self.file, self.line, preference_group, self._excerpt()
        )

    def _excerpt(self) -> str:
        if isinstance(self.text, bytes):
            return self.text[:ROW_EXCERPT].decode("utf-8", errors="backslashreplace")
        if self.text is not None:
            return self.text[:ROW_EXCERPT].encode("utf-8", errors="backslashreplace").decode()
        return json.dumps(self.values, default=str)[:ROW_EXCERPT]


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of one line; NaN and infinities, which are no JSON, become null. Raises RowProblem."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowProblem(
            "not UTF-8", f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        ) from error
    try:
        row = json.loads(text, parse_constant=lambda constant: None, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise RowProblem("not JSON", f"{error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise RowProblem("not JSON", str(error)) from error
    if not isinstance(row, dict):
        raise RowProblem("not a JSON object", f"found {shown(row)}")
    return row


def record_of(
    row: RawRow,
    messages: Sequence[Message],
    preference_group: str | None,
    columns: dict[str, Any],
    *,
    user_id: str | None = None,
    time: float | None = None,
) -> SourceRecord:
    """The record; its id is a hash of its content, so it survives reordering. Raises RowProblem."""
    try:
        content = json.dumps([preference_group, list(messages), columns], sort_keys=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise RowProblem("columns cannot be stored", str(error)) from error
    prompt_id = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    return SourceRecord(
        prompt_id, tuple(messages), preference_group, columns, user_id, time, row.file, row.line
    )


def preference_group_of(value: Any, column: str) -> str:
    """The name of a preference group. Raises RowProblem."""
    if value is None:
        raise RowProblem("no preference group", f"column {column!r} is null")
    # Ratings and cluster numbers are natural group ids; true and 1.5 are more likely a wrong column.
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RowProblem("preference group is no text", f"column {column!r} is {shown(value)}")
    value = storable(value.strip(), "preference group")
    if not value:
        raise RowProblem("no preference group", f"column {column!r} is blank")
    if not value.isprintable() or len(value) > MAX_GROUP_LENGTH:
        rule = f"a printable name of at most {MAX_GROUP_LENGTH} characters is needed"
        raise RowProblem("preference group is no name", f"column {column!r} is {shown(value)}; {rule}")
    return value


def message_of(message: Any, index: int) -> Message:
    """A message that can stand in a prompt. Raises RowProblem."""
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise RowProblem("message is no {role, content}", f"message {index} is {shown(message)}")
    role = message["role"]
    if role not in ROLES:
        raise RowProblem("unknown role", f"message {index} has role {shown(role)}; known: {', '.join(ROLES)}")
    if not isinstance(message["content"], str):
        raise RowProblem("prompt is no text", f"message {index} has content {shown(message['content'])}")
    return {"role": role, "content": prompt_text(message["content"], f"message {index}")}


def prompt_text(text: str, what: str) -> str:
    """Text that says something. Raises RowProblem; `what` names it there."""
    if not text.strip():
        raise RowProblem("empty prompt", f"the {what} is blank")
    return storable(text, what)


def storable(text: str, what: str) -> str:
    """Text that UTF-8 can hold. Raises RowProblem."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem("not Unicode text", f"the {what} holds half a surrogate pair") from error
    return text


def shown(value: Any) -> str:
    """The value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
