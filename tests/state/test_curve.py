"""What a run recorded while it trained; lines of another shape end the held-out curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.state.curve import (
    append_record,
    curve_path,
    curve_record,
    read_curve,
    read_prompts,
    training_record,
)
from pgrpo_cli.state.history_store import HistoryStore, ScoredCompletion
from pgrpo_cli.state.run import RunDirectory
from tests.support.results import rows_of

LINE = {"macro": 0.5, "groups": {"a": {"n": 2, "mean": 0.5, "prompts": {"p": 0.5}}}}


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"groups": None}, {"groups": {"a": 3}}, {"groups": {"a": {"n": 2}}},
        {"groups": {"a": {"n": 2.5, "mean": 1}}}, {"groups": {"a": {"n": 2, "mean": None}}},
        {"groups": {"a": {"n": 2, "mean": 1, "prompts": 3}}}, {"groups": {"a": {"n": 2, "mean": "high"}}},
        {"groups": {"a": {"n": 0, "mean": 1}}}, {"groups": {}, "macro": {}},
        {"groups": {"a": {"n": 2, "mean": 1, "prompts": {"p": None}}}},
        {"groups": {"a": {"n": 2, "mean": 1, "prompts": {"p": {}}}}},
    ],
)  # fmt: skip
def test_a_line_of_another_shape_ends_the_curve(wrong: dict[str, Any], tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    append_record(run, {"step": 1, **LINE})
    with (tmp_path / "eval" / "curve.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, **wrong}) + "\n")
    append_record(run, {"step": 3, **LINE})
    assert read_curve(run) == [(1, "a", 0.5, 2)]
    assert read_prompts(run) == {1: {"a": {"p": 0.5}}}


def test_a_run_without_files_recorded_nothing(tmp_path: Path) -> None:
    progress = training_record(RunDirectory(tmp_path))
    assert (list(progress.points), progress.held_out, progress.seconds) == ([], {}, {})
    assert math.isnan(progress.seconds_until(1))


def test_rewards_seconds_and_the_held_out_curve(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with HistoryStore(run.history_path) as store:
        for step, reward in ((1, 0.25), (2, 0.75)):
            row = ScoredCompletion(step, 0, 0, "p", "calm", reward, "{}", 0.0, 4, "text")
            store.record_step([row], [])
    lines = [
        {"step": 1, "seconds": {"total": 2.5}},
        {"step": 2, "seconds": {"total": 61.5, "evaluation": 60.0}},
        {"step": 3},
    ]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "sec')
    rows = rows_of("tuned", {"calm": {"a": [0.25, 0.75]}, "loud": {"b": [1.0], "c": [0.5]}})
    append_record(run, curve_record(2, rows))
    with curve_path(run).open("a") as file:
        file.write('{"step": 4, "gro')
    progress = training_record(run)
    assert progress.points == [(1, "calm", 0.25, 1), (2, "calm", 0.75, 1)]
    assert progress.held_out == {2: {"calm": 0.5, "loud": 0.75}}
    assert progress.prompts == {2: {"calm": {"a": 0.5}, "loud": {"b": 1.0, "c": 0.5}}}
    assert progress.seconds_until(2) == 4.0
    assert math.isnan(progress.seconds_until(3))
