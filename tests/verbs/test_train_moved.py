"""A run's directory that is moved, removed or replaced while it trains is written to no more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RunError
from pgrpo_cli.state.run import RunDirectory, claim, locked
from tests.support.loop import Watcher, go
from tests.support.runs import recipe_of
from tests.support.training import TINY, files_in, write_tiny

EVAL = {"every": 2, "num_completions": 2, "bootstrap_samples": 100, "max_prompts_per_group": 2}


class Meddler(Watcher):
    """Does something when a phase of the third step begins, or when that is done."""

    def __init__(self, when: str, deed: Callable[[], object]) -> None:
        super().__init__()
        self._when, self._deed = when, deed

    def on_phase(self, step: int, phase: str) -> None:
        super().on_phase(step, phase)
        if (step, phase) == (3, self._when):
            self._deed()

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        super().on_step(record, groups)
        if (record["step"], "done") == (3, self._when):
            self._deed()


@pytest.mark.parametrize("when", ["rollout", "save", "evaluation", "done"])
@pytest.mark.parametrize("moved", [True, False])
def test_nothing_is_written_where_it_was(tmp_path: Path, when: str, moved: bool) -> None:
    # Step 3 is evaluated, and it is the last one.
    recipe = write_tiny(tmp_path, eval={**EVAL, "every": 3}, train={**TINY["train"], "steps": 3})
    run = tmp_path / "run"

    def deed() -> object:
        return run.rename(tmp_path / "moved") if moved else shutil.rmtree(run)

    with pytest.raises(RunError, match="is no longer the directory that this command has locked"):
        go(recipe, run, watcher=Meddler(when, deed))
    assert not run.exists()


@pytest.mark.parametrize("when", ["rollout", "save", "done"])
def test_another_run_in_its_place_is_left_alone(tmp_path: Path, when: str) -> None:
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    found: list[dict[str, bytes]] = []

    def deed() -> None:
        shutil.rmtree(run)
        other = RunDirectory(run)
        with locked(other):
            claim(other, recipe_of(seed=9), tmp_path)
        found.append(files_in(run))

    with pytest.raises(RunError, match="has locked") as caught:
        go(recipe, run, watcher=Meddler(when, deed))
    assert files_in(run) == found[0] and caught.value.exit_code == 2
