"""What a run recorded while it trained, read from its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

from pgrpo_cli.state.curve import append_record, curve_path, curve_record
from pgrpo_cli.state.history_store import HistoryStore, ScoredCompletion
from pgrpo_cli.state.progress import read_progress
from pgrpo_cli.state.run import RunDirectory
from tests.support.results import rows_of


def test_a_run_without_files_recorded_nothing(tmp_path: Path) -> None:
    progress = read_progress(RunDirectory(tmp_path))
    assert (list(progress.points), progress.held_out, progress.seconds) == ([], {}, {})
    assert math.isnan(progress.seconds_until(1))


def test_rewards_seconds_and_the_held_out_curve(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with HistoryStore(run.history_path) as store:
        for step, reward in ((1, 0.25), (2, 0.75)):
            row = ScoredCompletion(step, 0, 0, "p", "calm", reward, "{}", 0.0, 4, "text")
            store.record_step([row], [])
    lines = [{"step": 1, "seconds": {"total": 2.5}}, {"step": 2, "seconds": {"total": 1.5}}, {"step": 3}]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "sec')
    rows = rows_of("tuned", {"calm": {"a": [0.25, 0.75]}, "loud": {"b": [1.0], "c": [0.5]}})
    append_record(run, curve_record(2, rows))
    with curve_path(run).open("a") as file:
        file.write('{"step": 4, "gro')
    progress = read_progress(run)
    assert progress.points == [(1, "calm", 0.25, 1), (2, "calm", 0.75, 1)]
    # calm 0.5, loud 0.75: the macro mean counts each once.
    assert progress.held_out == {2: {"calm": 0.5, "loud": 0.75, None: 0.625}}
    assert progress.prompts == {2: {"calm": {"a": 0.5}, "loud": {"b": 1.0, "c": 0.5}}}
    assert progress.seconds_until(2) == 4.0
    assert math.isnan(progress.seconds_until(3))
