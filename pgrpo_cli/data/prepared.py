"""Prepared data in a run directory: Arrow data sets, rejected rows, and a manifest with their hashes.

data/train/ data/eval/   datasets.save_to_disk: prompt_id, preference_group, prompt, input_ids; columns and
                         messages as JSON; user_id, where the source knows users
data/rejected.jsonl      rows that are not used, with file, line and reason
rejected.jsonl           those of data that could not be used and took no place in data/
data/preference_groups.json    the clusters, where users are clustered (preference_groups/centroids.py)
data/manifest.json       what the data were made from, and the SHA-256 of every file above
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import sha256

from .manifest import (
    CLUSTERS,
    MANIFEST,
    MANIFEST_VERSION,
    OURS,
    PREPARE_AGAIN,
    REJECTED,
    SPLITS,
    read_manifest,
    verify,
)
from .records import PreparedPrompt, RejectedRow
from .strict_json import parse_json

# Beside data/: the new data while they are written, the old ones while they are replaced.
NEXT = ".data-next"
PREVIOUS = ".data-previous"


def write_prepared(
    run_dir: Path,
    splits: Mapping[str, Sequence[PreparedPrompt]],
    rejected: Sequence[RejectedRow],
    description: Mapping[str, Any],
    clusters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write everything into `run_dir/.data-next`, flushed to disk; data/ is untouched. Returns the manifest.

    It is `description` with `version`, `files` and `data_hash`. The same arguments give the same bytes.
    """
    recover(run_dir)
    (run_dir / REJECTED).unlink(missing_ok=True)
    target = run_dir / NEXT
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for split in SPLITS:
        _save_split(target / split, splits[split])
    _write_rows(target / REJECTED, rejected)
    if clusters is not None:
        text = json.dumps(clusters) + "\n"
        (target / CLUSTERS).write_text(text, encoding="utf-8", newline="\n")
    hashes = {
        path.relative_to(target).as_posix(): sha256(path)
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }
    data_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    manifest = {"version": MANIFEST_VERSION, **description, "files": hashes, "data_hash": data_hash}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (target / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    for path in target.rglob("*"):
        _flush(path)
    _flush(target)
    return manifest


def write_rejected(run_dir: Path, rejected: Sequence[RejectedRow]) -> Path:
    """Keep the rejected rows of data that cannot be used beside data/. Returns the file's path."""
    path = run_dir / REJECTED
    run_dir.mkdir(parents=True, exist_ok=True)
    _write_rows(path, rejected)
    return path


def publish(run_dir: Path) -> None:
    """Put the written data in the place of data/. A kill in between leaves either the old or the new ones.

    Raises DataError where data/ holds what was not written here: it would be removed.
    """
    data, previous = run_dir / "data", run_dir / PREVIOUS
    if data.exists():
        try:
            _refuse_foreign(data)
        except DataError:
            discard(run_dir)
            raise
        os.rename(data, previous)
    os.rename(run_dir / NEXT, data)
    _flush(run_dir)
    shutil.rmtree(previous, ignore_errors=True)


def _refuse_foreign(data: Path) -> None:
    for path in sorted(data.rglob("*")):
        if not OURS.fullmatch(path.relative_to(data).as_posix()):
            raise DataError(
                f"{path} is not prepared data, and would be removed with the data that are to be replaced",
                remedy=f"Move it out of {data}, which belongs to the run.",
            )


def discard(run_dir: Path) -> None:
    """Forget what `write_prepared` wrote."""
    shutil.rmtree(run_dir / NEXT, ignore_errors=True)


def recover(run_dir: Path) -> None:
    """Finish or undo a replacement that was killed half-way."""
    data, previous = run_dir / "data", run_dir / PREVIOUS
    if previous.exists():
        if data.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            os.rename(previous, data)


def load_prepared(run_dir: Path, split: str) -> list[PreparedPrompt]:
    """The prompts of `train` or `eval`, in the order written. Raises DataError if missing or changed."""
    manifest = read_manifest(run_dir)
    if manifest is None:
        raise DataError(
            f"{run_dir} has no prepared data", remedy="Run `pgrpo prepare` with its recipe first."
        )
    verify(run_dir, manifest, under=f"{split}/")
    files = [run_dir / "data" / name for name in sorted(manifest["files"]) if name.startswith(f"{split}/")]
    try:
        return [prompt for file in files if file.suffix == ".arrow" for prompt in _prompts(file)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"the prepared data in {run_dir / 'data' / split} cannot be read: {error}", remedy=PREPARE_AGAIN
        ) from error


def _prompts(path: Path) -> Iterator[PreparedPrompt]:
    """The rows of an Arrow file. `datasets` would read whatever its own files beside it name."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
        for row in (row for batch in batches for row in batch.to_pylist()):
            prompt = PreparedPrompt(
                row["prompt_id"],
                row["preference_group"],
                row["prompt"],
                tuple(map(operator.index, row["input_ids"])),
                dict(parse_json(row["columns"])),
                tuple(map(dict, parse_json(row["messages"]))),
                row.get(_USERS),
            )
            if not all(
                isinstance(t, str) for t in (prompt.prompt_id, prompt.preference_group, prompt.prompt)
            ):
                raise ValueError(f"a row of {path.name} is no prompt")
            yield prompt


def _write_rows(path: Path, rejected: Sequence[RejectedRow]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rejected:
            file.write(json.dumps(vars(row), sort_keys=True) + "\n")


# A column of data whose source knows users; all others are without it.
_USERS = "user_id"


def _save_split(path: Path, prompts: Sequence[PreparedPrompt]) -> None:
    import datasets
    import pyarrow as pa

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "prompt_id": text,
            "preference_group": text,
            "prompt": text,
            "input_ids": datasets.List(datasets.Value("int32")),
            "columns": text,
            "messages": text,
        }
    )
    columns: dict[str, Any] = {
        "prompt_id": [prompt.prompt_id for prompt in prompts],
        "preference_group": [prompt.preference_group for prompt in prompts],
        "prompt": [prompt.prompt for prompt in prompts],
        "input_ids": _TokenLists(prompts),
        "columns": [json.dumps(prompt.columns, sort_keys=True) for prompt in prompts],
        "messages": [json.dumps(prompt.messages, sort_keys=True) for prompt in prompts],
    }
    if any(prompt.user_id is not None for prompt in prompts):
        features[_USERS] = text
        columns[_USERS] = [prompt.user_id for prompt in prompts]
    content = _json_sha256(columns)
    schema = features.arrow_schema
    arrays = {
        name: values.arrow() if isinstance(values, _TokenLists) else pa.array(values, schema.field(name).type)
        for name, values in columns.items()
    }
    dataset = datasets.Dataset(pa.Table.from_pydict(arrays, schema=schema))
    # The fingerprint is stored; left alone it may depend on the library's version.
    dataset._fingerprint = content[:16]
    with _quiet(datasets):
        dataset.save_to_disk(str(path))


class _TokenLists(Sequence[list[int]]):
    """The prompts' tokens: one list per prompt when read, four bytes per token when stored."""

    def __init__(self, prompts: Sequence[PreparedPrompt]) -> None:
        self._prompts = prompts

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: Any) -> Any:
        return list(self._prompts[index].input_ids)

    def arrow(self) -> Any:
        """A list array of 32-bit integers."""
        import numpy as np
        import pyarrow as pa

        lengths = np.fromiter((len(prompt.input_ids) for prompt in self._prompts), np.int64, len(self))
        offsets = np.concatenate([[0], lengths.cumsum()])
        tokens = (token for prompt in self._prompts for token in prompt.input_ids)
        values = np.fromiter(tokens, np.int32, int(offsets[-1]))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def _json_sha256(columns: Mapping[str, Sequence[Any]]) -> str:
    """The SHA-256 of `json.dumps(columns, sort_keys=True)`, which all together would be large."""
    digest = hashlib.sha256(b"{")
    for place, name in enumerate(sorted(columns)):
        digest.update(f"{', ' if place else ''}{json.dumps(name)}: [".encode())
        for index, value in enumerate(columns[name]):
            digest.update(f"{', ' if index else ''}{json.dumps(value, sort_keys=True)}".encode())
        digest.update(b"]")
    digest.update(b"}")
    return digest.hexdigest()


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bar of the library's own: only the command line prints."""
    was_disabled = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was_disabled:
            datasets.enable_progress_bars()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
