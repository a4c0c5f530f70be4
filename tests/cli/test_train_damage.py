"""Damaged files: a message with a remedy, and nothing lost that was saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pgrpo_cli.state.checksums import write_checksums
from tests.support.training import files_in, go_on, metrics, outcome, pgrpo, steps_in, tables


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
    "no state of the trainer": lambda p: (p / "trainer.json").unlink(),
    "no checksums": lambda p: (p / "checksums.json").unlink(),
    "checksums that are no JSON": lambda p: cut(p / "checksums.json"),
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


def test_a_flipped_byte_in_a_finished_adapter_is_found(folder: Path) -> None:
    run = folder / "whole"
    flip_a_byte(run / "adapter" / "adapter_model.safetensors")
    for words in (
        ("train", folder / "tiny.yaml", "--run-dir", run), ("eval", run), ("compare", run, folder / "run"),
    ):  # fmt: skip
        result = pgrpo(*words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"{run / 'adapter'} is damaged (adapter_model.safetensors has changed)" in result.stderr
    (run / "adapter").rename(folder / "away")
    again = pgrpo("train", folder / "tiny.yaml", "--run-dir", run)
    assert again.stdout.startswith("resumed from step 6\n")
    assert pgrpo("train", folder / "tiny.yaml", "--run-dir", run).exit_code == 0


def test_an_adapter_without_checksums_is_used_with_a_warning(folder: Path) -> None:
    run = folder / "whole"
    (run / "adapter" / "checksums.json").unlink()
    for words in (
        ("train", folder / "tiny.yaml", "--run-dir", run),
        ("eval", run, "--set", "eval.num_completions=1"),
    ):
        result = pgrpo(*words)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("without checksums: it cannot be verified") == 1


def test_a_checkpoint_that_holds_something_else_is_a_message(folder: Path) -> None:
    newest = folder / "run" / "checkpoints" / "step-000006"
    (newest / "trainer.json").write_text('{"step": 6, "optimizer_scalars": {"no": {"x": 1}}}')
    write_checksums_of(newest)
    result = go_on(folder)
    assert result.exit_code == 1
    assert f"checkpoint {newest} cannot be resumed from" in result.stderr
    shutil.rmtree(newest)
    assert go_on(folder).exit_code == 0


def write_checksums_of(folder: Path) -> None:
    (folder / "checksums.json").unlink()
    write_checksums(folder)


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
    refusal = go_on(folder)
    assert (refusal.exit_code, "is not what `pgrpo prepare` wrote" in refusal.stderr) == (2, True)
    assert pgrpo("prepare", folder / "tiny.yaml", "--run-dir", folder / "run").exit_code == 0
    assert go_on(folder).exit_code == 0
    assert outcome(folder / "run") == outcome(folder / "whole")
