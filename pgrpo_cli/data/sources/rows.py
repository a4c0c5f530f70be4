"""A row as it is read, what is wrong with it, and the record that is made of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pgrpo_cli.data.records import Message, RejectedRow, SourceRecord
from pgrpo_cli.data.row_problem import LeftOut, RowProblem, shown, storable

ROW_EXCERPT = 500
ROLES = ("system", "user", "assistant", "tool")


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
            problem.reason,
            problem.detail,
            self.file,
            self.line,
            preference_group,
            self._excerpt(),
            left_out=isinstance(problem, LeftOut),
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


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
