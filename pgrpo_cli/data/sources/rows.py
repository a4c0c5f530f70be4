"""A row as it is read, what is wrong with it, and the record that is made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pgrpo_cli.data.records import ROW_EXCERPT, Message, PromptRecord, RejectedRow
from pgrpo_cli.data.row_problem import LeftOut, RowProblem


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
    text: str | None = None

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
        if self.text is not None:
            # A byte that is no text is kept as a surrogate.
            raw = self.text[:ROW_EXCERPT].encode("utf-8", errors="surrogateescape")
            return raw.decode("utf-8", errors="backslashreplace")
        return json.dumps(self.values, default=str)[:ROW_EXCERPT]


def record_of(
    row: RawRow,
    messages: Sequence[Message],
    preference_group: str | None,
    columns: dict[str, Any],
    *,
    user_id: str | None = None,
    time: float | None = None,
) -> PromptRecord:
    """The record; its id is a hash of its content, so it survives reordering. Raises RowProblem."""
    try:
        content = json.dumps([preference_group, list(messages), columns], sort_keys=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise RowProblem("columns cannot be stored", str(error)) from error
    prompt_id = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    return PromptRecord(
        prompt_id, tuple(messages), preference_group, columns, user_id, time, row.file, row.line
    )
