"""JSON lines files: an object a line, plain or gzip. A broken line costs that line only."""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgrpo_cli.data.records import RejectedRow, SourceData, SourceFile, SourceRecord, text_key
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.sources import JsonlSource
from pgrpo_cli.registry import nearest

from .context import ReadContext
from .rows import RowProblem, group_named_in, parse_line, record_from_row

ROW_EXCERPT = 500
MAX_COLUMNS_SHOWN = 30


def read_jsonl(section: JsonlSource, context: ReadContext) -> SourceData:
    """All rows of the files that `path` (and `eval_path`) name, in file and line order.

    Raises DataError where no file matches, one cannot be read, or all rows lack a column that is needed.
    """
    train, rejected, files = _read(section, "path", section.path, context)
    if section.eval_path is None:
        return SourceData(tuple(train), None, tuple(rejected), tuple(files))
    held_out, rejected_eval, eval_files = _read(section, "eval_path", section.eval_path, context)
    eval_texts = {text_key(record) for record in held_out}
    kept = [record for record in train if text_key(record) not in eval_texts]
    leaked = [_leaked(record) for record in train if text_key(record) in eval_texts]
    files += [file for file in eval_files if file not in files]
    return SourceData(tuple(kept), tuple(held_out), (*rejected, *rejected_eval, *leaked), tuple(files))


def _read(
    section: JsonlSource, field: str, pattern: str, context: ReadContext
) -> tuple[list[SourceRecord], list[RejectedRow], list[SourceFile]]:
    records: list[SourceRecord] = []
    rejected: list[RejectedRow] = []
    files: list[SourceFile] = []
    columns: dict[str, None] = {}
    for path in _matches(field, pattern, context.recipe_dir):
        name = _name(path, context.recipe_dir)
        files.append(SourceFile(name, _sha256(path)))
        for number, line in _lines(path):
            row: dict[str, Any] = {}
            try:
                row = parse_line(line)
                columns.update(dict.fromkeys(row))
                records.append(
                    record_from_row(row, section, name, number, needs_group=context.groups_from_rows)
                )
            except RowProblem as problem:
                group = group_named_in(row, section.preference_group_column)
                text = line[:ROW_EXCERPT].decode("utf-8", errors="backslashreplace")
                rejected.append(RejectedRow(problem.reason, problem.detail, name, number, group, text))
    if columns:
        _require_columns(section, field, pattern, list(columns), needs_group=context.groups_from_rows)
    return records, rejected, files


def _matches(field: str, pattern: str, recipe_dir: Path) -> list[Path]:
    full = os.path.join(recipe_dir, os.path.expanduser(pattern))
    # A file whose name holds glob characters is itself first.
    paths = [full] if os.path.isfile(full) else sorted(glob.glob(full, recursive=True))
    files = [Path(path) for path in paths if os.path.isfile(path)]
    if not files:
        raise DataError(
            f"no file matches data.source.{field}: {pattern!r} (looked for {full})",
            remedy="Correct the path or pattern; relative ones start at the recipe's folder.",
        )
    return files


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes without line end) of each line that is not blank."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            remedy="Check that the file is complete (gunzip -t tests a .gz) and that you may read it.",
        ) from error


def _require_columns(
    section: JsonlSource, field: str, pattern: str, found: list[str], *, needs_group: bool
) -> None:
    needed = [("prompt_column", [section.prompt_column, section.messages_column])]
    if needs_group:
        needed.insert(0, ("preference_group_column", [section.preference_group_column]))
    for setting, names in needed:
        if any(name in found for name in names):
            continue
        near = nearest(names[0], found)
        wanted = " or ".join(repr(name) for name in names)
        raise DataError(
            f"no row of data.source.{field} {pattern!r} has the column {wanted}; "
            f"columns found: {', '.join(map(repr, found[:MAX_COLUMNS_SHOWN]))}"
            + (f"; the nearest is {near!r}" if near else ""),
            remedy=f"Set data.source.{setting} to the right one" + (f", perhaps {near!r}." if near else "."),
        )


def _leaked(record: SourceRecord) -> RejectedRow:
    text = record.messages[-1]["content"][:ROW_EXCERPT]
    reason = "text is held out for evaluation too"
    return RejectedRow(
        reason, "the same text stands in eval_path", record.file, record.line, record.preference_group, text
    )


def _name(path: Path, recipe_dir: Path) -> str:
    """The path as it reads from the recipe's folder: the same wherever that folder lies."""
    return Path(os.path.relpath(path, recipe_dir)).as_posix()


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", remedy="Check that you may read it."
        ) from error
