"""Whose a directory is: a run's by its marker or its files; anything else, and any link in it, is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pgrpo_cli.errors import RunError
from pgrpo_cli.recipe.load import dump_resolved
from pgrpo_cli.state.files import atomic_write
from pgrpo_cli.state.ownership import MARKER, examine, is_run, take
from pgrpo_cli.state.run import RunDirectory, claim, locked, run_if_any
from tests.support.runs import add_checkpoint, make_run, recipe_of
from tests.support.training import files_in


def test_a_new_or_empty_directory_becomes_a_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "deep/new", "empty"):
        take(tmp_path / name)
        assert files_in(tmp_path / name).keys() == {MARKER}
        examine(tmp_path / name)
        take(tmp_path / name)


def test_a_marker_that_a_kill_left_empty_is_one(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    take(tmp_path)
    assert files_in(tmp_path) == {MARKER: b""}


def test_a_lock_the_answers_of_a_judge_and_picks_may_be_there_before(tmp_path: Path) -> None:
    for name in (".lock", "judge.sqlite", "judge.sqlite-wal", "taste.jsonl"):
        (tmp_path / name).touch()
    take(tmp_path)
    assert is_run(tmp_path)


@pytest.mark.parametrize(
    "name", ["data/mine.jsonl", ".data-next/x", ".data-previous/x", ".adapter.tmp/x", "notes.txt"]
)
def test_anything_else_is_refused_with_what_stands_there_and_kept(name: str, tmp_path: Path) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = files_in(tmp_path)
    run, recipe = RunDirectory(tmp_path), recipe_of()
    for attempt in (
        lambda: take(tmp_path),
        lambda: claim(run, recipe, tmp_path),
        lambda: locked(run).__enter__(),
    ):
        with pytest.raises(RunError, match=f"not a run's directory: it holds {name.partition('/')[0]}"):
            attempt()
    assert files_in(tmp_path) == before
    assert run_if_any(tmp_path) is None


def test_a_copy_of_a_resolved_recipe_makes_no_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_resolved(recipe_of()))
    (tmp_path / "data").mkdir()
    with pytest.raises(RunError, match=r"holds data, recipe\.yaml"):
        take(tmp_path)
    with pytest.raises(RunError, match="is not a run: pgrpo did not make it"):
        examine(tmp_path)


def test_many_names_are_not_all_told(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"f{number}").touch()
    with pytest.raises(RunError, match="holds f0, f1, f2, f3, f4 and 2 more;"):
        take(tmp_path)


@pytest.mark.parametrize("place", ["/", "~"])
def test_no_run_lies_in_the_root_or_at_home_however_empty(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / MARKER).touch()
    with pytest.raises(RunError, match="is no place for a run"):
        take(Path(os.path.expanduser(place)))


def test_an_older_run_and_a_copy_without_hidden_files_go_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe_of())
    (run.path / MARKER).unlink()
    examine(run.path)
    take(run.path)
    assert (run.path / MARKER).is_file()


@pytest.mark.parametrize("left", ["origin.json", "history.sqlite", "metrics.jsonl", "checkpoints"])
def test_one_file_of_a_run_beside_its_recipe_is_enough(left: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe_of())
    add_checkpoint(run, 2, "x")
    for name in ("history.sqlite", "metrics.jsonl"):
        (run.path / name).touch()
    for entry in run.path.iterdir():
        if entry.name not in (left, "recipe.yaml"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert is_run(run.path)


def test_a_renamed_and_a_copied_run_are_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe_of())
    shutil.copytree(run.path, tmp_path / "copy")
    run.path.rename(tmp_path / "renamed")
    for name in ("copy", "renamed"):
        examine(tmp_path / name)
        claim(RunDirectory(tmp_path / name), recipe_of(), tmp_path)


NAMES = [
    ".lock", ".pgrpo-run", "recipe.yaml", "origin.json", "paths.json", "findings.json", "metrics.jsonl",
    "history.sqlite", "history.sqlite-wal", "history.sqlite-shm", "judge.sqlite", "report.html",
    "compare.html", "data", "data/train", "data/manifest.json", ".data-next", ".data-previous",
    "checkpoints", "checkpoints/step-000002", "checkpoints/.step-000002.tmp",
    "checkpoints/step-000002/trainer.json", "adapter", ".adapter.tmp", "adapter/adapter_model.safetensors",
    "eval", "eval/step-000002.json", "eval/curve.jsonl", "profile",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_a_run_is_refused_by_name_and_followed_by_nobody(
    name: str, dangling: bool, tmp_path: Path
) -> None:
    run, recipe = make_run(tmp_path / "run", recipe_of()), recipe_of()
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_text("precious")
    place = run.path / name
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(outside)
    for attempt in (
        lambda: examine(run.path),
        lambda: take(run.path),
        lambda: claim(run, recipe, tmp_path),
        lambda: locked(run).__enter__(),
    ):
        with pytest.raises(RunError, match=f"{name} is a link to .*outside; a run's files"):
            attempt()
    assert place.is_symlink()
    assert outside.exists() != dangling
    assert dangling or outside.read_text() == "precious"


def test_the_directory_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe_of())
    (tmp_path / "link").symlink_to(run.path)
    take(tmp_path / "link")
    examine(tmp_path / "link")
    with locked(RunDirectory(tmp_path / "link")):
        pass


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "history.sqlite", "recipe.yaml", "findings.json", "origin.json"]
)
def test_a_folder_where_a_file_is_due_is_refused(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe_of())
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).mkdir()
    with pytest.raises(RunError, match=f"{name} is a folder; a run has a file of that name"):
        examine(run.path)


@pytest.mark.parametrize("name", ["data", "checkpoints", "adapter", "eval"])
def test_a_file_where_a_folder_is_due_is_refused(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe_of())
    shutil.rmtree(run.path / name, ignore_errors=True)
    (run.path / name).touch()
    with pytest.raises(RunError, match=f"{name} is a file; a run has a folder of that name"):
        examine(run.path)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe_of())
    os.mkfifo(run.path / "metrics.jsonl")
    with pytest.raises(RunError, match="is neither a file nor a folder"):
        examine(run.path)


def test_the_lock_empties_no_file(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / ".lock").write_text("mine")
    with locked(run):
        assert (tmp_path / ".lock").read_text() == "mine"


def test_a_file_is_written_through_no_planted_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside").write_text("precious")
    with monkeypatch.context() as guessed:
        guessed.setattr("secrets.token_hex", lambda length: "guessed")
        (tmp_path / ".x.json.guessed.tmp").symlink_to(tmp_path / "outside")
        with pytest.raises(FileExistsError):
            atomic_write(tmp_path / "x.json", "new")
    (tmp_path / "x.json").symlink_to(tmp_path / "outside")
    atomic_write(tmp_path / "x.json", "new")
    assert (tmp_path / "outside").read_text() == "precious"
    assert (tmp_path / "x.json").read_text() == "new"
    assert not (tmp_path / "x.json").is_symlink()
