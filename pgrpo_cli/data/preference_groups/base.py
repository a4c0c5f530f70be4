"""What gives preference groups: a function from a record to a name, perhaps fitted to the training half."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pgrpo_cli.data.records import PromptRecord, UserProfile
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError
from pgrpo_cli.names import nearest

MAX_COLUMNS_SHOWN = 30


GroupOf = Callable[[PromptRecord], str]
"""The preference group of a record. Raises RowProblem."""


@dataclass(frozen=True)
class AssignContext:
    """What an assigner's factory may depend on besides its own section.

    `source` is the source's type; `allow_code` permits code that the recipe names to run.
    """

    recipe_dir: Path
    seed: int = 0
    source: str = "jsonl"
    profiles: Mapping[str, UserProfile] = field(default_factory=dict)
    allow_code: bool = False


@dataclass(frozen=True)
class Fitted:
    """How to assign. `findings` are for the manifest, `stored` serves to assign users later."""

    group_of: GroupOf
    findings: Mapping[str, Any] | None = None
    stored: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()


class Assigner(Protocol):
    """Built from a section of `data.preference_groups`.

    `after_split`: fitted to the training half alone, so the data are split before they have groups.
    """

    @property
    def after_split(self) -> bool: ...

    def fit(self, records: Sequence[PromptRecord], held_out: Sequence[PromptRecord] = ()) -> Fitted:
        """`records`: all of them, or with `after_split` the training half. Raises DataError.

        Nothing is fitted to `held_out`; all that a held-out user asks says where this user belongs.
        """
        ...


@dataclass(frozen=True)
class RowAssigner:
    """Looks at one record at a time. `check` sees all of them first and may raise DataError."""

    group_of: GroupOf
    check: Callable[[Sequence[PromptRecord]], None] = lambda records: None

    after_split = False

    def fit(self, records: Sequence[PromptRecord], held_out: Sequence[PromptRecord] = ()) -> Fitted:
        self.check(records)
        return Fitted(self.group_of)


def require_columns(records: Sequence[PromptRecord], names: Iterable[str], key: str) -> None:
    """Raises DataError for a column that no record has; `key` is where in the recipe it is named."""
    if not records:
        return
    found = list(dict.fromkeys(name for record in records for name in record.values))
    for name in names:
        if name in found:
            continue
        near = nearest(name, found)
        columns = ", ".join(map(repr, found[:MAX_COLUMNS_SHOWN])) or "none"
        raise DataError(
            f"{key} names the column {name!r}, which no row has; columns found: {columns}"
            + (f"; the nearest is {near!r}" if near else ""),
            remedy=f"Correct {key}" + (f", perhaps to {near!r}." if near else "."),
        )


def require_users(records: Sequence[PromptRecord], section_type: str) -> None:
    """Raises DataError where no record at all has a user."""
    if records and all(record.user_id is None for record in records):
        raise DataError(
            f"data.preference_groups of type {section_type!r} goes by users, and no row says whose it is",
            remedy="Set data.source.user_column to the column with the user's id, or choose another type.",
        )


def user_of(record: PromptRecord) -> str:
    """The record's user. Raises RowProblem."""
    if record.user_id is None:
        raise RowProblem("no user", "the row does not say whose prompt it is")
    return record.user_id
