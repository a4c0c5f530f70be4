"""The table of completions: read by Arrow and pandas as any Arrow file, and equal to the result's rows."""

from __future__ import annotations

import math
from pathlib import Path

import pandas
import pyarrow as pa
import pytest

from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.state.results import table_path, write_table
from pgrpo_cli.stats.result_types import EvalResult
from tests.support.results import result_of

BASE = {"calm": {"a": [0.0, 0.2], "b": [0.3, 0.3]}, "loud": {"x": [0.5, 0.5]}}
TUNED = {"calm": {"a": [0.4, 0.4], "b": [0.2, math.nan]}, "loud": {"x": [0.5, 0.6]}}


def made() -> EvalResult:
    """Twelve completions, one without a reward, one without a part; the user of prompt `a` is known."""
    result = result_of(BASE, TUNED)
    rows = [row.model_copy(update={"parts": {**row.parts, "judge": 1.0}}) for row in result.rows[:-1]]
    return result.model_copy(update={"rows": [*rows, result.rows[-1]], "users": {"a": "ann"}})


def written(folder: Path) -> Path:
    path = folder / "eval" / "step-000024.json"
    write_table(made(), path)
    return table_path(path)


def test_pandas_reads_a_row_a_completion(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert path == tmp_path / "eval" / "step-000024.arrow"
    frame = pandas.read_feather(path)
    assert list(frame.columns) == [
        "which", "preference_group", "prompt_id", "user_id", "completion_index", "text", "reward", "kl",
        "length", "finished", "part.judge", "part.style",
    ]  # fmt: skip
    assert len(frame) == 12
    # calm: 0, 0.2, 0.3, 0.3 of the base model; 0.4, 0.4, 0.2 and one unknown of the tuned one.
    means = frame.groupby(["which", "preference_group"]).reward.mean()
    assert means["base", "calm"] == pytest.approx(0.2)
    assert means["tuned", "calm"] == pytest.approx(1 / 3)
    assert frame.text[0] == "base answer 0 to a" and frame.length[0] == 8 and frame.finished.all()


def test_what_is_unknown_is_null(tmp_path: Path) -> None:
    with pa.ipc.open_file(written(tmp_path)) as file:
        table = file.read_all()
    nulls = {name: table[name].null_count for name in table.column_names}
    # Of 12: one reward, which is a part too; KL of the 6 of the base model; the users of all but a's 4.
    assert {name: count for name, count in nulls.items() if count} == {
        "reward": 1, "part.style": 1, "part.judge": 1, "kl": 6, "user_id": 8,
    }  # fmt: skip
    assert table["user_id"].to_pylist()[:3] == ["ann", "ann", None]


def test_equal_evaluations_are_equal_bytes(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()
    assert list(one.parent.iterdir()) == [one]


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"step-000024\.arrow could not be written: No space left"):
        written(tmp_path)
    assert list((tmp_path / "eval").iterdir()) == []
