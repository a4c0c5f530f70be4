"""Views of a run: the same from its files as step by step, and no larger for a longer run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgrpo_cli.diagnosis.view import RECENT_STEPS, WINDOW_STEPS, RunView
from pgrpo_cli.errors import RunError
from pgrpo_cli.state import run_view
from pgrpo_cli.state.history_store import read_groups, read_latest
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.run_view import RunReader, view_of
from tests.support.history import read_completions
from tests.support.made_runs import STEPS, G, Made, P, make, recipe_of
from tests.support.training import files_in


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make(tmp_path_factory.mktemp("made") / "run")


def test_a_view_is_what_the_stores_hold(run: RunDirectory) -> None:
    before = sorted(files_in(run.path))
    view = view_of(run)
    rows = [row for row in read_completions(run.history_path) if row["step"] > STEPS - WINDOW_STEPS]
    found = view.completions
    assert len(found) == len(rows) == WINDOW_STEPS * P * G
    names = [found.preference_groups[index] for index in found.preference_group_N]
    for columns, key in (
        (found.step_N, "step"),
        (found.prompt_N, "prompt"),
        (names, "preference_group"),
        (found.reward_N, "reward"),
        (found.length_N, "length"),
        (found.texts_N, "text"),
    ):
        assert list(columns) == [row[key] for row in rows], key
    for part, values_N in found.parts.items():
        assert values_N.tolist() == [row["parts"][part] for row in rows]
    assert {name: (past.n, past.mean, past.std) for name, past in view.histories.items()} == {
        row.preference_group: (row.n, row.mean, row.std) for row in read_groups(run.history_path)
    }
    assert view.metrics.step_L.tolist() == list(range(1, STEPS + 1))
    assert (view.step, view.training_prompts.counts) == (STEPS, {"calm": 150, "loud": 150})
    # To read beside a writer SQLite makes two files; nothing else changes.
    assert sorted(set(files_in(run.path)) - {"history.sqlite-shm", "history.sqlite-wal"}) == before


def test_generation_groups_by_hand(tmp_path: Path) -> None:
    run = make(tmp_path / "run", Made(), steps=2)
    view = view_of(run)
    rows = read_completions(run.history_path)
    found = view.completions.generation_groups
    for p in range(2 * P):
        own = rows[p * G : (p + 1) * G]
        rewards = [row["reward"] for row in own]
        assert (found.step_P[p], found.size_P[p], found.counted_P[p]) == (own[0]["step"], G, G)
        assert (found.low_P[p], found.high_P[p]) == (min(rewards), max(rewards))
        assert found.mean_P[p] == pytest.approx(np.mean(rewards))
        assert found.distinct_P[p] == len({row["text"] for row in own})


def test_a_reader_that_is_told_reads_metrics_once_and_keeps_the_first_and_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_view, "MOST_LINES", 20)
    reads: list[Path] = []
    real = run_view.read_metrics
    monkeypatch.setattr(run_view, "read_metrics", lambda path: (reads.append(path), real(path))[1])
    readers: list[RunReader] = []
    views: list[RunView] = []

    def look(run: RunDirectory, record: dict[str, Any]) -> None:
        if record["step"] == 3:
            readers.append(RunReader(run, run.recipe()))
        for reader in readers:
            reader.tell(record)
            views.append(reader.view())

    run = make(tmp_path / "run", on_step=look)
    assert len(reads) == 1
    kept = [*range(1, RECENT_STEPS + 1), *range(STEPS - 20 + RECENT_STEPS + 1, STEPS + 1)]
    assert views[-1].metrics.step_L.tolist() == kept
    assert [view.step for view in views] == list(range(3, STEPS + 1))
    assert view_of(run).metrics.lines == views[-1].metrics.lines


@pytest.mark.parametrize(("prompts", "steps"), [(8, WINDOW_STEPS), (100, 20), (10_000, RECENT_STEPS)])
def test_large_steps_make_a_shorter_window(prompts: int, steps: int, tmp_path: Path) -> None:
    """20,000 completions are 20 steps of 100 prompts with 10 each; a few steps there are always."""
    values = {"train__prompts_per_step": prompts, "rollout__num_generations": 10}
    assert RunReader(RunDirectory(tmp_path), recipe_of(Made(recipe=values)))._steps == steps


def test_the_latest_steps_only(run: RunDirectory) -> None:
    completions, groups = read_latest(run.history_path, 3)
    assert {row.step for row in completions} == {STEPS - 2, STEPS - 1, STEPS}
    assert [row.preference_group for row in groups] == ["calm", "loud"]


def test_the_first_steps_are_read_once_there_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    real = run_view.read_first
    monkeypatch.setattr(run_view, "read_first", lambda path, n: (reads.append(n), real(path, n))[1])
    steps: dict[int, set[int]] = {}
    readers: list[RunReader] = []

    def look(run: RunDirectory, record: dict[str, Any]) -> None:
        readers[:] = readers or [RunReader(run, run.recipe())]
        steps[record["step"]] = set(readers[0].view().first_completions.step_N.tolist())

    run = make(tmp_path / "run", on_step=look)
    first = set(range(1, RECENT_STEPS + 1))
    assert steps == {step: first if step >= 2 * RECENT_STEPS else set() for step in range(1, STEPS + 1)}
    assert reads == [RECENT_STEPS]
    assert set(view_of(run).first_completions.step_N.tolist()) == first


@pytest.mark.parametrize("manifest", ["", "[]", '{"preference_groups": {"a": {}}}', None])
def test_without_a_manifest_nothing_is_known_of_the_data(manifest: str | None, tmp_path: Path) -> None:
    run = make(tmp_path / "run", steps=1)
    (run.data / "manifest.json").unlink()
    if manifest is not None:
        (run.data / "manifest.json").write_text(manifest)
    assert view_of(run).training_prompts.counts == {}


def test_a_run_that_has_lost_its_metrics_can_be_looked_at(tmp_path: Path) -> None:
    run = make(tmp_path / "run", steps=2)
    run.metrics_path.unlink()
    view = view_of(run)
    assert (view.step, len(view.metrics.lines)) == (2, 0)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        view_of(RunDirectory(tmp_path))
    run = make(tmp_path / "run", steps=1)
    run.history_path.unlink()
    with pytest.raises(RunError, match="does not exist"):
        view_of(run)
