"""Disks that refuse: a message with a remedy, and a run that goes on once there is room."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.cli.display import LineDisplay
from tests.support.disks import enlarge, small_disk, unable_to_write
from tests.support.processes import Process
from tests.support.training import SMOKE, TINY, files_in, go_on, outcome, pgrpo, trained, write_tiny


def refused(result: Any, what: str, why: str) -> None:
    assert result.exit_code == 1
    assert what in result.stderr
    assert why in result.stderr
    assert "Everything saved before is intact." in result.stderr
    assert "Traceback" not in result.stderr


def ends_as_if_nothing_had_happened(folder: Path) -> None:
    result = go_on(folder)
    assert result.exit_code == 0, result.stderr
    assert outcome(folder / "run") == outcome(folder / "whole")


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Do something when a step's line is due."""
    real = LineDisplay.on_step

    def on_step(self: LineDisplay, record: Any, groups: Any) -> None:
        real(self, record, groups)
        if record["step"] == step:
            action()

    monkeypatch.setattr(LineDisplay, "on_step", on_step)


def test_a_full_disk_under_the_metrics(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = begun / "run" / "metrics.jsonl"
    with monkeypatch.context() as patched:
        at_step(patched, 5, lambda: (log.rename(begun / "kept"), log.symlink_to("/dev/full")))
        result = go_on(begun)
    refused(result, "metrics.jsonl could not be written", "No space left on device")
    log.unlink()
    (begun / "kept").rename(log)
    again = go_on(begun)
    assert again.stdout.startswith("resumed from step 4\n")
    assert outcome(begun / "run") == outcome(begun / "whole")


def limited(folder: Path, recipe: Path, run: Path, largest: int) -> Process:
    """The end of a process that may write no file larger than `largest` bytes."""
    process = Process(folder / "process", "train", recipe, "--run-dir", run, largest_file=largest)
    assert process.wait() == 1
    assert " could not be written: " in process.stderr
    assert "Everything saved before is intact. " in process.stderr
    assert "ree some space or raise the limit on file sizes (ulimit -f)" in process.stderr
    assert "Traceback" not in process.stderr
    return process


# A rank of 64 makes an adapter of about 100 KB; the store's shared memory alone takes 32 KB.
@pytest.mark.parametrize(("largest", "file"), [(20_000, "history.sqlite"), (80_000, "step-000001")])
def test_a_limit_on_file_sizes(tmp_path: Path, largest: int, file: str) -> None:
    recipe = write_tiny(tmp_path, adapter={"r": 64}, train={**TINY["train"], "steps": 2, "save_every": 1})
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert pgrpo("prepare", recipe, "--run-dir", run).exit_code == 0
    assert f"{file} could not be written" in limited(tmp_path, recipe, run, largest).stderr
    trained(recipe, run)
    trained(recipe, whole)
    assert outcome(run) == outcome(whole)


def test_a_limit_on_file_sizes_of_a_run_that_has_begun(begun: Path) -> None:
    limited(begun, begun / "tiny.yaml", begun / "run", 3000)
    ends_as_if_nothing_had_happened(begun)


@pytest.mark.parametrize("room", range(8, 200, 24))
def test_a_run_that_goes_on_with_little_room(begun: Path, room: int) -> None:
    with small_disk(begun / "disk", 1024) as disk:
        run = Path(shutil.copytree(begun / "run", disk / "run"))
        free = os.statvfs(run).f_bavail * os.statvfs(run).f_frsize
        ballast = disk / "ballast"
        ballast.write_bytes(b"\0" * (free - room * 1024))
        saved = files_in(run / "checkpoints")
        result = pgrpo("train", begun / "tiny.yaml", "--run-dir", run)
        if result.exit_code != 0:
            refused(result, "could not be written", "Free some space")
            assert files_in(run / "checkpoints").items() >= saved.items()
            ballast.unlink()
            trained(begun / "tiny.yaml", run)
        assert outcome(run) == outcome(begun / "whole")


def test_a_disk_that_is_full_again_and_again(tmp_path: Path) -> None:
    trained(SMOKE, tmp_path / "whole")
    refusals: list[str] = []
    # From a disk that has no room for the recipe to one that has it for all, by less than a checkpoint each.
    with small_disk(tmp_path / "disk", 4) as disk:
        for kilobytes in range(4, 2048, 64):
            enlarge(disk, kilobytes)
            process = Process(tmp_path / "process", "train", SMOKE, "--run-dir", disk / "run")
            if process.wait() == 0:
                break
            assert process.wait() == 1
            assert "Traceback" not in process.stderr
            problem, remedy = process.stderr.splitlines()[-2:]
            assert problem.startswith("error: ")
            assert remedy.startswith(("  Everything saved before is intact. Free some space", "  Make room"))
            refusals.append(problem)
        assert outcome(disk / "run") == outcome(tmp_path / "whole")
    assert "recipe.yaml could not be written: No space left on device" in refusals[0]
    for what in ("the prepared data cannot be written", "history.sqlite could not be", "error: checkpoint "):
        assert any(what in refusal for refusal in refusals), what


def test_a_run_that_cannot_be_written(begun: Path) -> None:
    with unable_to_write(begun / "run"):
        groups = pgrpo("groups", begun / "run", "--json")
        result = go_on(begun)
    assert groups.exit_code == 0, groups.stderr
    refused(result, "could not be written", "Permission denied")
    assert "Make the directory writable" in result.stderr
    ends_as_if_nothing_had_happened(begun)


def test_a_finished_run_that_cannot_be_written_still_says_that_it_is_finished(folder: Path) -> None:
    with unable_to_write(folder / "whole"):
        result = pgrpo("train", folder / "tiny.yaml", "--run-dir", folder / "whole")
    assert (result.exit_code, "is finished" in result.stdout) == (0, True)


def test_a_store_that_another_program_holds(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgrpo_cli.state.history_store._PATIENCE_SECONDS", 0.1)
    holder = sqlite3.connect(begun / "run" / "history.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    result = go_on(begun)
    holder.close()
    refused(result, "history.sqlite could not be written", "locked")
    assert "Close the program that holds it" in result.stderr
    ends_as_if_nothing_had_happened(begun)
