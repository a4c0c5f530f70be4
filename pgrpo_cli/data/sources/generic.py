"""The readers of tables whose columns the recipe maps: JSON lines, CSV, Parquet, data sets of the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

from pgrpo_cli.data.records import SourceData, SourceFile
from pgrpo_cli.recipe.sources import CsvSource, DatasetsSource, FilesSource, JsonlSource, ParquetSource

from .arrow_table import parquet_rows
from .context import ReadContext
from .csv_table import csv_rows
from .files import file_name, hashed, matching_files
from .hub import DatasetName, dataset_rows, with_digest
from .jsonl import jsonl_rows
from .rows import RawRow
from .tables import SourceTable, read_mapped

FileReader = Callable[[Path, str, list[str]], Iterator[RawRow]]
"""Takes the path of a file, its name in messages, and a list that it adds sentences for the user to."""


def read_jsonl(section: JsonlSource, context: ReadContext) -> SourceData:
    """All rows of the files that `path` (and `eval_path`) name, in file and line order.

    Raises DataError where no file matches, one cannot be read, or all rows lack a column that is needed.
    """
    columns = {section.prompt_column, *section.messages_columns}
    reader = partial(jsonl_rows, encoding=section.encoding, columns=columns)
    return _read_files(section, context, reader)


def read_csv(section: CsvSource, context: ReadContext) -> SourceData:
    """As `read_jsonl`, of CSV files."""
    reader = partial(
        csv_rows,
        delimiter=section.delimiter,
        encoding=section.encoding,
        json_columns=section.messages_columns,
        text_columns={section.prompt_column, section.reference_column},
    )
    return _read_files(section, context, reader)


def read_parquet(section: ParquetSource, context: ReadContext) -> SourceData:
    """As `read_jsonl`, of Parquet files."""
    return _read_files(section, context, parquet_rows)


def read_datasets(section: DatasetsSource, context: ReadContext) -> SourceData:
    """All rows of the split (and of `eval_split`). Raises DataError where they cannot be had."""
    train = _split_table(section, section.split, context)
    held_out = None
    if section.eval_split is not None:
        held_out = _split_table(section, section.eval_split, context)
    return read_mapped(section, context, train, held_out)


def files_table(
    field: str, pattern: str, context: ReadContext, reader: FileReader, limit: int | None
) -> SourceTable:
    """The first `limit` rows of the files that `data.source.FIELD` names. Raises DataError."""
    paths = matching_files(field, pattern, context.recipe_dir)
    return table_of(f"data.source.{field} {pattern!r}", paths, context, reader, limit)


def table_of(
    label: str, paths: Sequence[Path], context: ReadContext, reader: FileReader, limit: int | None
) -> SourceTable:
    """The first `limit` rows of these files."""
    notes: list[str] = []
    rows = chain.from_iterable(reader(path, file_name(path, context.recipe_dir), notes) for path in paths)
    return SourceTable(label, islice(rows, limit), hashed(paths, context.recipe_dir), notes)


def dataset_table(wanted: DatasetName, context: ReadContext, limit: int | None) -> SourceTable:
    """The first `limit` rows of a data set."""
    files: list[SourceFile] = []
    rows = islice(dataset_rows(wanted, context.recipe_dir), limit)
    return SourceTable(f"data set {wanted.label!r}", with_digest(rows, wanted.label, files), files)


def _read_files(
    section: JsonlSource | CsvSource | ParquetSource, context: ReadContext, reader: FileReader
) -> SourceData:
    assert isinstance(section, FilesSource)
    train = files_table("path", section.path, context, reader, section.limit)
    held_out = None
    if section.eval_path is not None:
        held_out = files_table("eval_path", section.eval_path, context, reader, section.limit)
    return read_mapped(section, context, train, held_out)


def _split_table(section: DatasetsSource, split: str, context: ReadContext) -> SourceTable:
    wanted = DatasetName(section.path, split, section.name, section.revision, section.streaming)
    return dataset_table(wanted, context, section.limit)
