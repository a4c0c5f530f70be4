"""Evaluation results on disk: eval/step-000024.json, versioned, whole or absent; eval_rows.py beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from pgrpo_cli.errors import EvalError
from pgrpo_cli.report.types import EVAL_VERSION, EvalResult

from .eval_rows import write_table
from .files import atomic_write, explained
from .run import RunDirectory

_AGAIN = "Remove it, or evaluate again with `pgrpo eval ... --fresh`."


def result_path(run: RunDirectory, step: int) -> Path:
    """Where the evaluation of the adapter after `step` is kept."""
    return run.eval_dir / f"step-{step:06d}.json"


def write_result(result: EvalResult, path: Path) -> None:
    """Write one evaluation atomically, then its table of completions. Raises CheckpointError.

    The same evaluation gives the same bytes.
    """
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, result.model_dump_json(indent=1) + "\n")
    write_table(result, path)


def kept_results(run: RunDirectory) -> Iterator[EvalResult]:
    """The evaluations of a run that can be read, newest step first."""
    for path in sorted(run.eval_dir.glob("step-*.json"), reverse=True):
        with suppress(EvalError):
            yield read_result(path)


def read_result(path: Path) -> EvalResult:
    """One evaluation. Raises EvalError if the file is missing, damaged, or of another version."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise EvalError(f"{path}: there is no such evaluation", remedy="Run `pgrpo eval` first.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path} cannot be read: {error}", remedy=_AGAIN) from error
    try:
        content = json.loads(text)
        version = content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise EvalError(f"{path} is damaged: it holds no evaluation", remedy=_AGAIN) from error
    if version != EVAL_VERSION:
        raise EvalError(
            f"{path} has version {version!r} and this pgrpo reads version {EVAL_VERSION}",
            remedy="Use the pgrpo that wrote it, or evaluate again with `pgrpo eval ... --fresh`.",
        )
    try:
        return EvalResult.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise EvalError(f"{path} is damaged: {where}: {first['msg']}", remedy=_AGAIN) from error
