"""Kill -9 between any two file operations: the run goes on and ends as one that was left alone."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.processes import KillPoint, Process
from tests.support.training import TINY, outcome, pgrpo, write_tiny

# Each is hit by a process that goes on where the one before was killed; checkpoints fall on even steps.
KILL_POINTS = [
    KillPoint("open", "metrics.jsonl", 2),
    KillPoint("open", ".step-000002.tmp", 2),
    KillPoint("os.rename", ".step-000002.tmp"),
    KillPoint("open", "metrics.jsonl", 3),
    KillPoint("os.rename", "checkpoints/step-000002"),
    KillPoint("shutil.rmtree", ".step-000004.old"),
    KillPoint("open", ".adapter.tmp", 2),
    KillPoint("os.rename", ".adapter.tmp"),
]


def train(recipe: Path, run: Path) -> list[object]:
    return ["train", recipe, "--run-dir", run]


def test_killed_between_file_operations(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path, train={**TINY["train"], "steps": 8, "keep_checkpoints": 2})
    assert pgrpo(*train(recipe, tmp_path / "whole")).exit_code == 0
    for number, point in enumerate(KILL_POINTS):
        process = Process(tmp_path / f"process-{number}", *train(recipe, tmp_path / "run"), kill_at=point)
        assert process.wait() == -signal.SIGKILL, (point, process.stdout, process.stderr)
    assert pgrpo(*train(recipe, tmp_path / "run")).stdout.startswith("resumed from step 8\n")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_torture_killed_at_every_file_operation(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path, train={**TINY["train"], "steps": 4, "save_every": 1, "keep_checkpoints": 2})
    assert pgrpo(*train(recipe, tmp_path / "whole")).exit_code == 0
    whole, number = outcome(tmp_path / "whole"), 0
    while True:
        number += 1
        run = tmp_path / f"run-{number}"
        process = Process(tmp_path / "process", *train(recipe, run), kill_at=KillPoint(number=number))
        if process.wait() == 0:
            break
        assert pgrpo(*train(recipe, run)).exit_code == 0
        assert outcome(run) == whole, f"killed at file operation {number}"
    print(f"\nkilled at each of {number - 1} file operations")  # noqa: T201
    assert number > 50
