"""Damaged files and disks that refuse: a message with a remedy, and nothing lost that was saved."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.cli.display import LineDisplay
from tests.support.processes import Process
from tests.support.training import TINY, files_in, metrics, outcome, pgrpo, steps_in, tables, write_tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a run `whole` that ended, and `run`: the same, killed before its adapter was in place."""
    folder = tmp_path_factory.mktemp("finished")
    assert pgrpo("train", write_tiny(folder), "--run-dir", folder / "whole").exit_code == 0
    shutil.copytree(folder / "whole", folder / "run")
    shutil.rmtree(folder / "run" / "adapter")
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def go_on(folder: Path) -> Any:
    return pgrpo("train", folder / "tiny.yaml", "--run-dir", folder / "run")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte in the adapter": lambda p: flip_a_byte(p / "adapter_model.safetensors"),
    "a cut optimizer state": lambda p: cut(p / "optimizer.safetensors"),
    "no history": lambda p: (p / "history.json").unlink(),
    "a flipped byte in the history": lambda p: flip_a_byte(p / "history.safetensors"),
    "no checksums": lambda p: (p / "checksums.json").unlink(),
    "cut checksums": lambda p: cut(p / "checksums.json"),
    "empty checksums": lambda p: (p / "checksums.json").write_text("{}"),
    "checksums of another shape": lambda p: (p / "checksums.json").write_text("[1]"),
    "no file at all": lambda p: [file.unlink() for file in p.iterdir()],
    "another step's": lambda p: (shutil.rmtree(p), shutil.copytree(p.with_name("step-000004"), p)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    folder: Path, damage: Callable[[Path], object]
) -> None:
    newest = folder / "run" / "checkpoints" / "step-000006"
    damage(newest)
    result = go_on(folder)
    assert result.exit_code == 0, result.stderr
    assert f"warning: checkpoint {newest} is damaged (" in result.stderr
    assert "falling back to the one before" in result.stderr
    assert result.stdout.startswith("resumed from step 4\n")
    assert newest.with_name("step-000006.damaged-1").is_dir()
    shutil.rmtree(newest.with_name("step-000006.damaged-1"))
    assert outcome(folder / "run") == outcome(folder / "whole")


def test_damaged_checkpoints_do_not_push_out_whole_ones(folder: Path) -> None:
    checkpoints = folder / "run" / "checkpoints"
    for name in ("step-000004", "step-000006"):
        cut(checkpoints / name / "history.json")
    result = go_on(folder)
    assert result.stdout.startswith("resumed from step 2\n")
    assert result.stderr.count("falling back") == 2
    whole = ["step-000002", "step-000004", "step-000006"]
    assert steps_in(folder / "run") == sorted([*whole, "step-000004.damaged-1", "step-000006.damaged-1"])


def test_no_whole_checkpoint_is_an_error_that_changes_nothing(folder: Path) -> None:
    for path in (folder / "run" / "checkpoints").iterdir():
        cut(path / "adapter_model.safetensors")
    before = files_in(folder / "run")
    result = go_on(folder)
    assert result.exit_code == 1
    assert "no usable checkpoint" in result.stderr
    assert all(
        f"step-00000{n} is damaged (adapter_model.safetensors has changed)" in result.stderr
        for n in (2, 4, 6)
    )
    assert "--fresh" in result.stderr
    assert files_in(folder / "run") == before


def wreck_page(store: Path) -> None:
    """Overwrite a page in the middle, the header left as it is."""
    content = bytearray(store.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    store.write_bytes(content)


@pytest.mark.parametrize(
    "wreck", [lambda p: p.write_bytes(b"garbage" * 1000), wreck_page], ids=["all", "page"]
)
def test_a_damaged_store_is_made_anew_once_it_is_moved_away(
    folder: Path, wreck: Callable[[Path], object]
) -> None:
    store = folder / "run" / "history.sqlite"
    wreck(store)
    shutil.rmtree(folder / "run" / "checkpoints" / "step-000006")
    refusal = go_on(folder)
    assert refusal.exit_code == 1
    assert "history.sqlite cannot be used: " in refusal.stderr
    assert "Move it away and run again" in refusal.stderr
    store.rename(folder / "moved away")
    result = go_on(folder)
    assert result.exit_code == 0, result.stderr
    lost = "the record of the completions of 4 steps from 1 to 4 is lost"
    assert f"history.sqlite is missing; {lost}" in result.stderr
    found, whole = tables(store), tables(folder / "whole" / "history.sqlite")
    assert found["preference_groups"] == whole["preference_groups"]
    assert found["completions"] == [row for row in whole["completions"] if row[0] > 4]
    assert files_in(folder / "run" / "adapter") == files_in(folder / "whole" / "adapter")


def test_lost_records_are_told_and_do_not_stop_the_run(folder: Path) -> None:
    log = folder / "run" / "metrics.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]))
    result = go_on(folder)
    assert result.exit_code == 0, result.stderr
    assert "metrics.jsonl is not complete; the record of the metrics of step 6 is lost" in result.stderr
    assert "history.sqlite" not in result.stderr


@pytest.mark.parametrize("left", [-20, -1], ids=["within the line", "but for its end"])
def test_a_metrics_line_cut_by_a_kill(folder: Path, left: int) -> None:
    log = folder / "run" / "metrics.jsonl"
    shutil.rmtree(folder / "run" / "checkpoints" / "step-000006")
    log.write_bytes(log.read_bytes()[:left])
    result = go_on(folder)
    assert (result.exit_code, "warning" in result.stderr) == (0, False)
    assert outcome(folder / "run") == outcome(folder / "whole")


def test_a_name_cut_within_a_character(folder: Path) -> None:
    log = folder / "run" / "metrics.jsonl"
    content = log.read_bytes()
    log.write_bytes(content[: content.rindex("é".encode()) + 1])
    assert go_on(folder).exit_code == 0
    lines = metrics(folder / "run")
    assert lines == metrics(folder / "whole")[: len(lines)]


def test_damaged_data_are_made_anew_by_prepare(folder: Path) -> None:
    flip_a_byte(next((folder / "run" / "data" / "train").glob("*.arrow")))
    assert go_on(folder).exit_code == 2
    assert pgrpo("prepare", folder / "tiny.yaml", "--run-dir", folder / "run").exit_code == 0
    assert go_on(folder).exit_code == 0
    assert outcome(folder / "run") == outcome(folder / "whole")


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    real = LineDisplay.on_step

    def on_step(self: LineDisplay, record: Any, groups: Any) -> None:
        real(self, record, groups)
        if record["step"] == step:
            action()

    monkeypatch.setattr(LineDisplay, "on_step", on_step)


def refused(result: Any, what: str, why: str) -> None:
    assert result.exit_code == 1
    assert what in result.stderr
    assert why in result.stderr
    assert "Everything saved before is intact." in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_under_the_metrics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder / "other"
    log = run / "metrics.jsonl"
    with monkeypatch.context() as patched:
        at_step(patched, 3, lambda: (log.rename(folder / "kept"), log.symlink_to("/dev/full")))
        result = pgrpo("train", folder / "tiny.yaml", "--run-dir", run)
    refused(result, "metrics.jsonl could not be written", "No space left on device")
    log.unlink()
    (folder / "kept").rename(log)
    again = pgrpo("train", folder / "tiny.yaml", "--run-dir", run)
    assert again.stdout.startswith("resumed from step 2\n")
    assert outcome(run) == outcome(folder / "whole")


# A rank of 64 makes an adapter of about 100 KB; the store's shared memory alone takes 32 KB.
@pytest.mark.parametrize(("largest", "file"), [(20_000, "history.sqlite"), (80_000, "step-000001")])
def test_a_limit_on_file_sizes(tmp_path: Path, largest: int, file: str) -> None:
    recipe = write_tiny(tmp_path, adapter={"r": 64}, train={**TINY["train"], "steps": 2, "save_every": 1})
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert pgrpo("prepare", recipe, "--run-dir", run).exit_code == 0
    process = Process(tmp_path / "process", "train", recipe, "--run-dir", run, largest_file=largest)
    assert process.wait() == 1
    assert f"{file} could not be written: " in process.stderr
    assert "Everything saved before is intact. " in process.stderr
    assert "aise the limit on file sizes (ulimit -f)" in process.stderr
    assert "Traceback" not in process.stderr
    assert pgrpo("train", recipe, "--run-dir", run).exit_code == 0
    assert pgrpo("train", recipe, "--run-dir", whole).exit_code == 0
    assert outcome(run) == outcome(whole)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A file system of its own at `path`."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a file system")
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("room", range(8, 200, 24))
def test_a_disk_that_fills_up(folder: Path, room: int) -> None:
    with small_disk(folder / "disk", "1m"):
        run = folder / "disk" / "run"
        shutil.copytree(folder / "run", run)
        for step in (4, 6):
            shutil.rmtree(run / "checkpoints" / f"step-00000{step}")
        free = os.statvfs(run).f_bavail * os.statvfs(run).f_frsize
        ballast = folder / "disk" / "ballast"
        ballast.write_bytes(b"\0" * (free - room * 1024))
        saved = files_in(run / "checkpoints")
        result = pgrpo("train", folder / "tiny.yaml", "--run-dir", run)
        if result.exit_code != 0:
            refused(result, "could not be written", "Free some space")
            assert files_in(run / "checkpoints").items() >= saved.items()
            ballast.unlink()
            again = pgrpo("train", folder / "tiny.yaml", "--run-dir", run)
            assert again.exit_code == 0, again.stderr
        assert outcome(run) == outcome(folder / "whole")


@contextmanager
def unable_to_write(folder: Path) -> Iterator[None]:
    """Everything below `folder` is readable only, for root too."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    # Root writes where it likes; as somebody else it does not.
    for parent in (*folder.parents,):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o055)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_run_that_cannot_be_written(folder: Path) -> None:
    with unable_to_write(folder / "run"):
        groups = pgrpo("groups", folder / "run", "--json")
        result = go_on(folder)
    assert groups.exit_code == 0, groups.stderr
    refused(result, "could not be written", "Permission denied")
    assert "Make the directory writable" in result.stderr
    assert go_on(folder).exit_code == 0
    assert outcome(folder / "run") == outcome(folder / "whole")


def test_a_finished_run_that_cannot_be_written_still_says_that_it_is_finished(folder: Path) -> None:
    with unable_to_write(folder / "whole"):
        result = pgrpo("train", folder / "tiny.yaml", "--run-dir", folder / "whole")
    assert (result.exit_code, "is finished" in result.stdout) == (0, True)


def test_a_store_that_another_program_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgrpo_cli.state.history_store._PATIENCE_SECONDS", 0.1)
    holder = sqlite3.connect(folder / "run" / "history.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    result = go_on(folder)
    holder.close()
    refused(result, "history.sqlite could not be written", "locked")
    assert "Close the program that holds it" in result.stderr
    assert go_on(folder).exit_code == 0
