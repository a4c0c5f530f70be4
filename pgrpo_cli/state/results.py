"""Evaluation results on disk: eval/step-000024.json, versioned, whole or absent.

Its completions are repeated in a table for pandas, polars and the like, eval/step-000024.arrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pgrpo_cli.data.strict_json import parse_json
from pgrpo_cli.errors import EvalError, EvalFileError
from pgrpo_cli.paths import try_to_write
from pgrpo_cli.recipe.evaluation import EvalSection
from pgrpo_cli.stats.result_types import EVAL_VERSION, EvalResult, Matrix

from .files import atomic_write, explained
from .run import RunDirectory

if TYPE_CHECKING:
    import pyarrow as pa

_AGAIN = "Remove it, or evaluate again with `pgrpo eval ... --fresh`."


def result_path(run: RunDirectory, step: int) -> Path:
    """Where the evaluation of the adapter after `step` is kept."""
    return run.eval_dir / f"step-{step:06d}.json"


def require_writable(run: RunDirectory) -> None:
    """Raise CheckpointError if an evaluation could not be saved. Called before it starts, since it may take
    hours.
    """
    with explained(str(run.eval_dir)):
        for folder in (run.path, run.eval_dir):
            if folder.is_dir():
                try_to_write(folder)


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
    """One evaluation. Raises EvalFileError if the file is missing, damaged, or of another version."""
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise EvalFileError(
            f"{path}: there is no such evaluation", remedy="Run `pgrpo eval` first."
        ) from error
    except OSError as error:
        raise EvalFileError(f"{path} cannot be read: {error}", remedy=_AGAIN) from error
    try:
        content = parse_json(text)
        version = content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise EvalFileError(f"{path} is damaged: it holds no evaluation", remedy=_AGAIN) from error
    if version != EVAL_VERSION:
        raise EvalFileError(
            f"{path} has version {version!r} and this pgrpo reads version {EVAL_VERSION}",
            remedy="Use the pgrpo that wrote it, or evaluate again with `pgrpo eval ... --fresh`.",
        )
    try:
        result = EvalResult.model_validate(content)
    except ValidationError as error:
        raise EvalFileError(f"{path} is damaged: {_first(error)}", remedy=_AGAIN) from error
    contradiction = _contradiction(result)
    if contradiction is not None:
        raise EvalFileError(f"{path} is damaged: {contradiction}", remedy=_AGAIN)
    return result


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def _contradiction(result: EvalResult) -> str | None:
    """What in an evaluation does not go with the rest of it, which its readers take for granted. It may be a
    stranger's: settings have the bounds that they have in a recipe.
    """
    groups = set(result.groups)
    if not groups:
        return "groups: there are none"
    for field, names in (
        ("details", set(result.details)),
        ("kept.groups", set(result.kept.groups)),
        ("rows", {row.preference_group for row in result.rows}),
    ):
        if names != groups:
            return f"{field}: other preference groups than in groups"
    if not groups <= result.weights.keys():
        return "weights: not all preference groups of groups"
    if {row.prompt_id for row in result.rows} != set(result.prompts):
        return "rows: other prompts than in prompts"
    if not all(isinstance(result.recipe.get(section, {}), dict) for section in ("eval", "model")):
        return "recipe: its sections are none"
    if not isinstance(result.recipe.get("seed", 0), int):
        return "recipe.seed: it is no number"
    if "id" not in result.model:
        return "model.id: it is missing"
    if result.judged is not None and "model" not in result.judged.judge:
        return "judged.judge.model: it is missing"
    if result.matrix is not None and not _is_square(result.matrix):
        return "matrix: its rows and columns are not its preference groups"
    settings = {"bootstrap_samples": result.bootstrap_samples, "confidence": result.confidence}
    sampling = {key: result.sampling.get(key) for key in ("num_completions", "temperature")}
    for values, place in ((settings, ""), (sampling, "sampling.")):
        try:
            EvalSection.model_validate(values, strict=True)
        except ValidationError as error:
            return f"{place}{_first(error)}"
    return None


def _is_square(matrix: Matrix) -> bool:
    columns = (*matrix.base, *matrix.tuned, matrix.centers, matrix.scales)
    size = len(matrix.preference_groups)
    return len(matrix.base) == len(matrix.tuned) == size and all(len(column) == size for column in columns)


def table_path(result_path: Path) -> Path:
    """Where the table of the evaluation in `result_path` is."""
    return result_path.with_suffix(".arrow")


def write_table(result: EvalResult, result_path: Path) -> None:
    """Write the table atomically, an Arrow IPC file. The same evaluation gives the same bytes.

    Raises CheckpointError where the disk refuses it.
    """
    import pyarrow as pa

    path, table = table_path(result_path), rows_table(result)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, sink.getvalue().to_pybytes())


def rows_table(result: EvalResult) -> pa.Table:
    """One row per completion. Unknown values are null. Parts of the reward are columns `part.<name>`."""
    import pyarrow as pa

    rows, text = result.rows, pa.string()
    columns = {
        "which": pa.array([row.which for row in rows], text),
        "preference_group": pa.array([row.preference_group for row in rows], text),
        "prompt_id": pa.array([row.prompt_id for row in rows], text),
        "user_id": pa.array([result.users.get(row.prompt_id) for row in rows], text),
        "completion_index": pa.array([row.completion_index for row in rows], pa.int32()),
        "text": pa.array([row.text for row in rows], text),
        "reward": _numbers([row.reward for row in rows]),
        "kl": _numbers([row.kl for row in rows]),
        "length": pa.array([row.length for row in rows], pa.int32()),
        "finished": pa.array([row.finished for row in rows], pa.bool_()),
    }
    for name in sorted({name for row in rows for name in row.parts}):
        columns[f"part.{name}"] = _numbers([row.parts.get(name) for row in rows])
    return pa.table(columns)


def _numbers(values: list[float] | list[float | None]) -> pa.Array:
    """NaN, which stands for an unknown number, as null."""
    import pyarrow as pa

    return pa.array(values, pa.float64(), from_pandas=True)
