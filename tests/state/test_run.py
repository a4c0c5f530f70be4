"""A run directory belongs to one recipe and has one writer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pgrpo_cli.errors import PathError, RunError
from pgrpo_cli.state.run import RunDirectory, claim, locked, next_free
from tests.support.disks import without_locks
from tests.support.runs import recipe_of
from tests.support.training import files_in


def test_a_free_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next_free(tmp_path / "a") == tmp_path / "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
    assert next_free(tmp_path / "a") == tmp_path / "a-3"
    monkeypatch.chdir(tmp_path / "a")
    assert next_free(Path()) == tmp_path / "a-3"


def test_until_training_begins_the_recipe_may_change(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    for seed in (1, 2):
        claim(run, recipe_of(seed=seed), tmp_path)
        assert run.recipe().seed == seed
    # A run that failed in its first step, or was killed in its first checkpoint, has trained nothing.
    run.history_path.touch()
    for name in (".step-000001.tmp", "notes"):
        (run.checkpoints / name).mkdir(parents=True)
    claim(run, recipe_of(seed=3), tmp_path)
    assert not run.started


@pytest.mark.parametrize(
    "sign",
    [
        "checkpoints/step-000001/x",
        "checkpoints/step-000001.damaged-1/x",
        "adapter/adapter_config.json",
    ],
)
def test_from_then_on_it_may_not(tmp_path: Path, sign: str) -> None:
    run = RunDirectory(tmp_path / "run")
    claim(run, recipe_of(seed=1), tmp_path)
    (run.path / sign).parent.mkdir(parents=True, exist_ok=True)
    (run.path / sign).touch()
    before = files_in(run.path)
    claim(run, recipe_of(seed=1), tmp_path)
    with pytest.raises(RunError, match="seed: 1 in the run, 2 in the recipe"):
        claim(run, recipe_of(seed=2), tmp_path)
    assert files_in(run.path) == before


def test_a_recipe_that_no_run_wrote_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    with pytest.raises(RunError, match=r"it holds recipe\.yaml"):
        claim(RunDirectory(tmp_path), recipe_of(), tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == "name: mine\n"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "deep" / "run")
    with locked(run), pytest.raises(RunError, match="by another process"), locked(run):
        pass
    with locked(run):
        pass


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(PathError, match="is a file"), locked(RunDirectory(tmp_path / "run")):
        pass


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it has no recipe"):
        RunDirectory(tmp_path).recipe()


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"recipe_dir": 3}', '{"recipe_dir": "a\\u0000b"}', "["])
def test_a_damaged_origin_is_a_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "origin.json").write_text(text)
    with pytest.raises(RunError, match=r"origin\.json is damaged"):
        _ = RunDirectory(tmp_path).recipe_dir


def test_without_an_origin_paths_start_at_the_run(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).recipe_dir == tmp_path


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("fcntl.flock", without_locks(number))
    said: list[str] = []
    with locked(RunDirectory(tmp_path / "run"), said.append) as run:
        run.require_lock()
    (warning,) = said
    assert f"cannot be locked ({os.strerror(number)})" in warning and "no other process" in warning
