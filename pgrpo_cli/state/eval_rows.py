"""The completions of an evaluation as a table: eval/step-000024.arrow, for pandas, polars and the like.

It repeats the rows of the result file beside it, which stays what this program reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgrpo_cli.stats.result_types import EvalResult

from .files import atomic_write, explained

if TYPE_CHECKING:
    import pyarrow as pa


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
    """A row a completion; what is unknown is null. A part of the reward is the column `part.<name>`."""
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
