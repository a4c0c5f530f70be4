"""Going on: everything that a run has written goes back to the checkpoint, and what is lost is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgrpo_cli.state.history_store import (
    GroupRow,
    HistoryStore,
    PartRow,
    ScoredCompletion,
    read_groups,
    read_parts,
)
from pgrpo_cli.state.rewind import rewind
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.runlog import read_metrics
from tests.support.history import read_completions

THEN = GroupRow("a", 2, 0.5, 0.1, 1, 2, 2, 0.0, 0.0)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Three steps of one completion each, the last one half written to the log."""
    run = RunDirectory(tmp_path)
    with HistoryStore(run.history_path) as store:
        for step in (1, 2, 3):
            row = ScoredCompletion(step, 0, 0, "p", "a", 0.5, "{}", 0.0, 1, "text")
            store.record_step([row], [GroupRow("a", step, 0.5, 0.1, 1, step, step, 0.0, 0.0)])
    lines = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3))
    run.metrics_path.write_text(lines[:-4])
    return run


def test_records_go_back_to_the_step(run: RunDirectory) -> None:
    assert rewind(run, 2, [THEN], keep=2) == []
    assert [row["step"] for row in read_completions(run.history_path)] == [1, 2]
    assert read_groups(run.history_path) == [THEN]
    assert [record["step"] for record in read_metrics(run.metrics_path)] == [1, 2]


def test_parts_go_back_to_the_step(run: RunDirectory) -> None:
    def part(name: str, n: int) -> PartRow:
        return PartRow("a", n, 0.5, 0.1, 1, 2, 2, 0.0, 0.0, name)

    with HistoryStore(run.history_path) as store:
        store.record_step([], [], [part("early", 9), part("late", 9)])
    rewind(run, 2, [THEN], [part("early", 2)], keep=2)
    assert read_parts(run.history_path) == {"a": [part("early", 2)]}
    rewind(run, 0, [], keep=2)
    assert read_parts(run.history_path) == {}


def test_a_start_begins_with_nothing(run: RunDirectory) -> None:
    assert rewind(run, 0, [], keep=2) == []
    assert read_completions(run.history_path) == []
    assert read_groups(run.history_path) == []
    assert read_metrics(run.metrics_path) == []


def test_a_new_run_has_lost_nothing(tmp_path: Path) -> None:
    assert rewind(RunDirectory(tmp_path), 0, [], keep=2) == []


def test_each_lost_record_is_told_once(run: RunDirectory) -> None:
    run.history_path.unlink()
    assert rewind(run, 3, [THEN], keep=2) == [
        f"{run.history_path} is missing; the record of the completions of 3 steps from 1 to 3 is lost, "
        "and training continues without it",
        f"{run.metrics_path} is not complete; the record of the metrics of step 3 is lost, "
        "and training continues without it",
    ]
    assert read_groups(run.history_path) == [THEN]


def test_what_killed_processes_had_begun_goes_and_all_else_stays(run: RunDirectory) -> None:
    for name in (
        ".metrics.jsonl.12.tmp",
        ".recipe.yaml.3.tmp",
        ".origin.json.4.tmp",
        ".report.html.5.tmp",
        "my.tmp",
    ):
        (run.path / name).touch()
    rewind(run, 0, [], keep=2)
    names = {path.name for path in run.path.iterdir()}
    assert names == {"history.sqlite", "metrics.jsonl", ".report.html.5.tmp", "my.tmp"}
