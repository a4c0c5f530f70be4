"""From the rows of a table to what a source gives: records, rejected rows, held-out texts kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from pgrpo_cli.data.records import PromptRecord, RejectedRow, SourceData, SourceFile, without_held_out
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError
from pgrpo_cli.names import nearest
from pgrpo_cli.recipe.sources import ColumnMapping

from .context import ReadContext
from .mapping import RowMapper
from .rows import RawRow

MAX_COLUMNS_SHOWN = 30
MANY = 10_000
MOST = 0.5
"""A table of which so many rows, and more than this share of all, are broken is not read to its end."""

Maker = Callable[["SourceTable"], Iterator[PromptRecord | RejectedRow]]
"""Makes records of the rows of a table, any number of each, and says which rows it cannot use."""


@dataclass(frozen=True)
class SourceTable:
    """Rows to be read once. `label` names them in messages.

    `files`, and `notes` for the user about how they were read, are complete when the rows have been read.
    """

    label: str
    rows: Iterable[RawRow]
    files: list[SourceFile]
    notes: list[str] = field(default_factory=list)


def read_tables(
    train: SourceTable, held_out: SourceTable | None, make: Maker, context: ReadContext
) -> SourceData:
    """What the tables hold; a training text that is held out, too, is left out."""
    reading = _Reading(make, context)
    records, rejected = reading.made(train)
    held: list[PromptRecord] | None = None
    if held_out is not None:
        held, more = reading.made(held_out)
        records, leaks = without_held_out(records, held)
        rejected += more + leaks
    tables = [table for table in (train, held_out) if table is not None]
    return SourceData(
        tuple(records),
        None if held is None else tuple(held),
        tuple(rejected),
        tuple(dict.fromkeys(file for table in tables for file in table.files)),
        notes=tuple(dict.fromkeys(note for table in tables for note in table.notes)),
        rows=reading.rows,
        given_up=reading.given_up,
    )


def read_mapped(
    section: ColumnMapping, context: ReadContext, train: SourceTable, held_out: SourceTable | None
) -> SourceData:
    """What tables hold whose columns the recipe maps. Raises DataError where all rows lack one of them."""
    mapper = RowMapper(section, needs_group=context.groups_from_rows)

    def make(table: SourceTable) -> Iterator[PromptRecord | RejectedRow]:
        columns: dict[str, None] = {}
        rows = iter(table.rows)
        while some := list(islice(rows, mapper.rows_at_once)):
            whole = [row for row in some if row.problem is None]
            texts = iter(mapper.texts(whole))
            for row in some:
                columns.update(dict.fromkeys(row.values))
                try:
                    if row.problem is not None:
                        raise row.problem
                    yield mapper.record(row, next(texts))
                except RowProblem as problem:
                    yield row.rejected(problem, mapper.group_named_in(row))
        table.notes.extend(mapper.forms)
        if columns:
            _require_columns(section, table.label, list(columns), needs_group=context.groups_from_rows)

    return read_tables(train, held_out, make, context)


class _Reading:
    """Reads tables one after the other, and counts their rows by file."""

    def __init__(self, make: Maker, context: ReadContext) -> None:
        self._make = make
        self._share = max(MOST, context.max_rejected_share)
        self._broken = 0
        self.rows: Counter[str] = Counter()
        self.given_up = False

    def made(self, table: SourceTable) -> tuple[list[PromptRecord], list[RejectedRow]]:
        """What the maker makes of the table."""
        records: list[PromptRecord] = []
        rejected: list[RejectedRow] = []
        for result in self._make(replace(table, rows=self._counted(table.rows))):
            if isinstance(result, PromptRecord):
                records.append(result)
            else:
                rejected.append(result)
                self._broken += not result.left_out
        return records, rejected

    def _counted(self, rows: Iterable[RawRow]) -> Iterator[RawRow]:
        for row in rows:
            if self._broken >= MANY and self._broken > self._share * self.rows.total():
                self.given_up = True
                return
            self.rows[row.file] += 1
            yield row


def _require_columns(section: ColumnMapping, label: str, found: list[str], *, needs_group: bool) -> None:
    needed: list[tuple[str, list[str]]] = []
    if needs_group:
        needed.append(("preference_group_column", [section.preference_group_column]))
    if section.template is None:
        needed.append(("prompt_column", [section.prompt_column, *section.messages_columns]))
    for setting in ("user_column", "time_column", "reference_column"):
        name = getattr(section, setting)
        if name is not None:
            needed.append((setting, [name]))
    for setting, names in needed:
        if any(name in found for name in names):
            continue
        near = nearest(names[0], found)
        wanted = " or ".join(map(repr, names[:2]))
        raise DataError(
            f"no row of {label} has the column {wanted}; "
            f"columns found: {', '.join(map(repr, found[:MAX_COLUMNS_SHOWN]))}"
            + (f"; the nearest is {near!r}" if near else ""),
            remedy=f"Set data.source.{setting} to the right one" + (f", perhaps {near!r}." if near else "."),
        )
