"""Arrow tables as rows of JSON values, a batch at a time: Parquet files, and what `datasets` gives."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import shown

from .rows import RawRow
from .sniff import refuse_unless_parquet

BATCH_ROWS = 256
"""Rows of a batch: what is in memory of a table at a time."""
READ_BYTES = 1 << 20
"""Bytes of a column that are read at a time."""


def parquet_rows(path: Path, name: str, notes: list[str]) -> Iterator[RawRow]:
    """The rows of a Parquet file; there is nothing to note. Raises DataError where it is damaged or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_unless_parquet(path, name)
    first = 1
    try:
        # Buffered ahead, which is the default, the whole file would end up in memory.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
            columns = json_columns(file.schema_arrow, shown(path))
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield from batch_rows(batch, name, first)
                first += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        where = f" after row {first - 1}" if first > 1 else ""
        raise DataError(
            f"{shown(path)} cannot be read as Parquet{where}: {_first_line(error)}",
            remedy="Check that the file is complete and that you may read it, or set data.source.type to its "
            "format.",
        ) from error


def json_columns(schema: Any, label: str) -> list[str]:
    """The columns of a table that JSON can hold. Raises DataError if a name occurs twice."""
    doubles = [name for name, count in Counter(schema.names).items() if count > 1]
    if doubles:
        raise DataError(
            f"{label} names columns twice: {', '.join(map(repr, doubles))}",
            remedy="Give every column a name of its own.",
        )
    return [field.name for field in schema if _has_json_form(field.type)]


def batch_rows(batch: Any, name: str, first: int) -> Iterator[RawRow]:
    """The rows of a record batch, numbered from `first`."""
    names = batch.schema.names
    try:
        columns = [column.to_pylist() for column in batch.columns]
    # Text that is no UTF-8, dates that Python has not: only the rows that hold them are lost.
    except (ValueError, OverflowError):
        columns = None
    for index in range(batch.num_rows):
        try:
            if columns is None:
                cells = [column[index].as_py() for column in batch.columns]
            else:
                cells = [column[index] for column in columns]
            values = {column: json_value(cell) for column, cell in zip(names, cells, strict=True)}
            yield RawRow(name, first + index, values)
        except (ValueError, OverflowError) as error:
            problem = RowProblem("value that cannot be read", _first_line(error))
            yield RawRow(name, first + index, problem=problem, text="")
        except RowProblem as problem:
            yield RawRow(name, first + index, problem=problem, text="")


def json_value(value: Any) -> Any:
    """`value` as JSON has it: dates as ISO 8601 text, NaN and infinities as null. Raises RowProblem."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return json_value(float(value))
    if isinstance(value, UUID):
        return str(value)
    raise RowProblem("columns cannot be stored", f"a {type(value).__name__} has no form in JSON")


def _has_json_form(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind) or types.is_run_end_encoded(kind) or hasattr(kind, "value_type"):
        return _has_json_form(kind.value_type)
    if types.is_map(kind):
        return _has_json_form(kind.key_type) and _has_json_form(kind.item_type)
    if types.is_struct(kind):
        return all(_has_json_form(field.type) for field in kind)
    if hasattr(kind, "storage_type"):
        return _has_json_form(kind.storage_type)
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return not (types.is_union(kind) or any(test(kind) for test in binary))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
