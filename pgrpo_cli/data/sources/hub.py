"""Data sets by the `datasets` library: of the Hugging Face Hub, or of a folder that `save_to_disk` wrote."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_cli.data.records import SourceFile
from pgrpo_cli.errors import DataError, PathError
from pgrpo_cli.paths import path_or_id

from .arrow_table import BATCH_ROWS, batch_rows, json_columns
from .rows import RawRow

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Readers of plain tables (`cache`: of what they read before). Others unpack what a stranger made of
# archives, sound or images.
PLAIN_READERS = ("arrow", "cache", "csv", "json", "parquet", "text")


@dataclass(frozen=True)
class DatasetName:
    """What tells a data set: the path or hub id, and what the hub knows besides it."""

    path: str
    split: str = "train"
    name: str | None = None
    revision: str | None = None
    streaming: bool = False

    @property
    def label(self) -> str:
        """The data set in messages and in the manifest."""
        parts = [self.path, self.name, self.split]
        return ":".join(part for part in parts if part) + (f"@{self.revision}" if self.revision else "")


def dataset_rows(wanted: DatasetName, recipe_dir: Path) -> Iterator[RawRow]:
    """The rows of one split, in its order. Raises DataError where it cannot be had."""
    with _loading(wanted):
        folder = path_or_id(wanted.path, "data.source.path", recipe_dir)
        is_folder = folder is not None and folder.is_dir()
        dataset = _saved(str(folder), wanted) if is_folder else _of_the_hub(wanted)
        first = 1
        for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
            plain = table.select(json_columns(table.schema, wanted.label))
            for batch in plain.to_batches():
                yield from batch_rows(batch, wanted.label, first)
                first += batch.num_rows


def is_saved(folder: str) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("state.json", "dataset_dict.json"))


def with_digest(rows: Iterable[RawRow], name: str, files: list[SourceFile]) -> Iterator[RawRow]:
    """The rows; at their end `files` gets the SHA-256 of what they held, for want of a file."""
    digest = hashlib.sha256()
    for row in rows:
        problem = str(row.problem) if row.problem else None
        digest.update(json.dumps([row.values, problem], sort_keys=True).encode() + b"\n")
        yield row
    files.append(SourceFile(name, digest.hexdigest()))


def _saved(folder: str, wanted: DatasetName) -> Any:
    import datasets

    if not is_saved(folder):
        raise DataError(
            f"data.source.path: {folder} is a folder that save_to_disk did not write",
            remedy="For a folder of files set data.source.type to jsonl, csv or parquet, and path to them.",
        )
    dataset = datasets.load_from_disk(folder)
    if not isinstance(dataset, datasets.DatasetDict):
        if wanted.split not in ("train", str(dataset.split)):
            raise _no_split(wanted, [str(dataset.split or "train")])
        return dataset
    if wanted.split not in dataset:
        raise _no_split(wanted, list(dataset))
    return dataset[wanted.split]


def _of_the_hub(wanted: DatasetName) -> Any:
    import datasets

    if os.path.exists(wanted.path):
        raise DataError(
            f"{wanted.path!r} is a file or folder of the working directory, which would hide the hub's",
            remedy="Start pgrpo in another directory; a folder is looked for beside the recipe.",
        )
    if not HUB_ID.fullmatch(wanted.path):
        raise DataError(
            f"data.source.path: no folder {wanted.path!r} beside the recipe, and no id of the hub",
            remedy="Name a folder that save_to_disk wrote, or OWNER/NAME of the hub.",
        )
    builder = datasets.load_dataset_builder(wanted.path, wanted.name, revision=wanted.revision)
    reader = type(builder).__module__.rpartition(".")[2]
    if reader not in PLAIN_READERS:
        raise DataError(
            f"data set {wanted.path!r} is read by {reader!r}, which is more than tables of text",
            remedy=f"Use one of {', '.join(PLAIN_READERS)}, or convert it to Parquet.",
        )
    known = list(builder.info.splits or {})
    if known and wanted.split not in known:
        raise _no_split(wanted, known)
    return datasets.load_dataset(
        wanted.path,
        wanted.name,
        split=wanted.split,
        revision=wanted.revision,
        streaming=wanted.streaming,
    )


def _no_split(wanted: DatasetName, known: list[str]) -> DataError:
    return DataError(
        f"data set {wanted.path!r} has no split {wanted.split!r}; it has {', '.join(map(repr, known))}",
        remedy="Set data.source.split and eval_split to splits that it has.",
    )


@contextmanager
def _loading(wanted: DatasetName) -> Iterator[None]:
    """Turns what goes wrong with a data set, be it library, network or disk, into a DataError."""
    try:
        yield
    except (DataError, PathError):
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        raise DataError(
            f"data set {wanted.label!r} cannot be read: {type(error).__name__}: {lines[0]}",
            remedy="HF_HUB_OFFLINE is set and the data set not in the cache: unset it, or download it first."
            if offline
            else "Check the id, name, split and revision, and that you are on line; a gated data set needs "
            "`hf auth login`.",
        ) from error
