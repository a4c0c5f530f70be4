"""From the rows of a table to what a source gives: records, rejected rows, held-out texts kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from pgrpo_cli.data.records import RejectedRow, SourceData, SourceFile, SourceRecord, text_key
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.sources import ColumnMapping
from pgrpo_cli.registry import nearest

from .context import ReadContext
from .mapping import RowMapper
from .rows import ROW_EXCERPT, RawRow

MAX_COLUMNS_SHOWN = 30

Maker = Callable[["Table"], Iterator[SourceRecord | RejectedRow]]
"""Makes records of the rows of a table, any number of each, and says which rows it cannot use."""


@dataclass(frozen=True)
class Table:
    """Rows to be read once. `label` names them in messages.

    `files`, and `notes` for the user about how they were read, are complete when the rows have been read.
    """

    label: str
    rows: Iterable[RawRow]
    files: list[SourceFile]
    notes: list[str] = field(default_factory=list)


def read_tables(train: Table, held_out: Table | None, make: Maker) -> SourceData:
    """What the tables hold; a training text that is held out, too, is rejected."""
    rows: Counter[str] = Counter()
    records, rejected = _made(train, make, rows)
    if held_out is None:
        notes = tuple(train.notes)
        return SourceData(tuple(records), None, tuple(rejected), tuple(train.files), notes=notes, rows=rows)
    eval_records, eval_rejected = _made(held_out, make, rows)
    eval_texts = {text_key(record) for record in eval_records}
    kept = [record for record in records if text_key(record) not in eval_texts]
    leaked = [_leaked(record) for record in records if text_key(record) in eval_texts]
    files = train.files + [file for file in held_out.files if file not in train.files]
    rejected += eval_rejected + leaked
    notes = tuple(dict.fromkeys([*train.notes, *held_out.notes]))
    return SourceData(tuple(kept), tuple(eval_records), tuple(rejected), tuple(files), notes=notes, rows=rows)


def read_mapped(
    section: ColumnMapping, context: ReadContext, train: Table, held_out: Table | None
) -> SourceData:
    """What tables hold whose columns the recipe maps. Raises DataError where all rows lack one of them."""
    mapper = RowMapper(section, needs_group=context.groups_from_rows)

    def make(table: Table) -> Iterator[SourceRecord | RejectedRow]:
        columns: dict[str, None] = {}
        for row in table.rows:
            columns.update(dict.fromkeys(row.values))
            try:
                if row.problem is not None:
                    raise row.problem
                yield mapper.record(row)
            except RowProblem as problem:
                yield row.rejected(problem, mapper.group_named_in(row))
        table.notes.extend(mapper.forms)
        if columns:
            _require_columns(section, table.label, list(columns), needs_group=context.groups_from_rows)

    return read_tables(train, held_out, make)


def _made(table: Table, make: Maker, rows: Counter[str]) -> tuple[list[SourceRecord], list[RejectedRow]]:
    """What `make` makes of the table; its rows are counted by file in `rows`."""
    records: list[SourceRecord] = []
    rejected: list[RejectedRow] = []

    def counted() -> Iterator[RawRow]:
        for row in table.rows:
            rows[row.file] += 1
            yield row

    for result in make(replace(table, rows=counted())):
        if isinstance(result, SourceRecord):
            records.append(result)
        else:
            rejected.append(result)
    return records, rejected


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


def _leaked(record: SourceRecord) -> RejectedRow:
    text = record.messages[-1]["content"][:ROW_EXCERPT]
    reason = "text is held out for evaluation too"
    return RejectedRow(
        reason,
        "the same text is held out",
        record.file,
        record.line,
        record.preference_group,
        text,
        left_out=True,
    )
