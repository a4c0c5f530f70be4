"""A published set as tables: of the hub, of a folder as the hub has it, or of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pgrpo_cli.data.records import SourceData
from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import expanded, shown
from pgrpo_cli.recipe.public_sets import PublicSet, RatedSet

from ..arrow_table import parquet_rows
from ..context import ReadContext
from ..generic import FileReader, dataset_table, files_table, table_of
from ..hub import DatasetName, is_saved
from ..jsonl import jsonl_rows
from ..rows import RawRow
from ..tables import Maker, SourceTable, read_tables

FORMATS: dict[str, FileReader] = {".jsonl": jsonl_rows, ".json": jsonl_rows, ".parquet": parquet_rows}


def read_split_set(
    section: RatedSet, context: ReadContext, hub_id: str, eval_split: str | None, make: Maker
) -> SourceData:
    """Training and held-out records of a set. Raises DataError where it cannot be had."""
    train = _split_table(section, context, hub_id, "train", "path", section.path)
    if section.eval_path is not None:
        held_out: SourceTable | None = _table(section, context, "eval_path", section.eval_path)
    elif eval_split is None or (section.path is not None and not _is_folder(section.path, context)):
        held_out = None
    else:
        held_out = _split_table(section, context, hub_id, eval_split, "path", section.path)
    return read_tables(train, held_out, make, context)


def hub_table(
    section: PublicSet, context: ReadContext, hub_id: str, split: str, name: str | None, limit: int | None
) -> SourceTable:
    """The first `limit` rows of a split of the set on the hub; `name` is a configuration of it."""
    wanted = DatasetName(hub_id, split, name, section.revision, section.streaming)
    return dataset_table(wanted, context, limit)


def published_rows(path: Path, name: str, notes: list[str]) -> Iterator[RawRow]:
    """The rows of a file by its format. Raises DataError where it has none that is known."""
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    reader = FORMATS.get(suffixes[-1] if suffixes else "")
    if reader is None:
        raise DataError(
            f"{shown(path)} is of no format that a set is published in",
            remedy=f"Name files that end with {', '.join(FORMATS)}, or .gz after it.",
        )
    return reader(path, name, notes)


def _split_table(
    section: RatedSet, context: ReadContext, hub_id: str, split: str, field: str, path: str | None
) -> SourceTable:
    if path is None:
        return hub_table(section, context, hub_id, split, None, section.limit)
    if not _is_folder(path, context):
        return _table(section, context, field, path)
    if is_saved(_full(path, context)):
        return dataset_table(DatasetName(path, split), context, section.limit)
    paths = _files_of_split(path, split, context)
    return table_of(f"data.source.{field} {path!r}", paths, context, published_rows, section.limit)


def _table(section: RatedSet, context: ReadContext, field: str, pattern: str) -> SourceTable:
    return files_table(field, pattern, context, published_rows, section.limit)


def _files_of_split(path: str, split: str, context: ReadContext) -> list[Path]:
    """The split's files in a folder that is laid out as the hub's: beside a README.md, or in `data`.

    Where none is named after a split, all are the training half.
    """
    folders = [Path(_full(folder, context)) for folder in (path, os.path.join(path, "data"))]
    tables = [[file for file in sorted(folder.glob("[!.]*")) if _is_table(file)] for folder in folders]
    of_split = [[file for file in files if file.name.startswith(split)] for files in tables]
    found = next(filter(None, [*of_split, *(tables if split == "train" else [])]), None)
    if found is None:
        raise DataError(
            f"data.source.path: {_full(path, context)} holds no file of the split {split!r}",
            remedy="Name the files with path and eval_path, or set eval_split to null.",
        )
    return found


def _is_table(file: Path) -> bool:
    return file.is_file() and Path(file.name.removesuffix(".gz")).suffix in FORMATS


def _is_folder(path: str, context: ReadContext) -> bool:
    return os.path.isdir(_full(path, context))


def _full(path: str, context: ReadContext) -> str:
    return os.path.join(context.recipe_dir, expanded(path, "data.source.path", context.recipe_dir))
