"""Every option and argument that names a path takes it in one way, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from pgrpo_cli.cli.app import app
from tests.support.training import pgrpo, write_tiny

COMMANDS = [
    ("validate", "BAD"),
    ("prepare", "BAD"),
    ("prepare", "RECIPE", "--run-dir", "BAD"),
    ("train", "BAD"),
    ("train", "RECIPE", "--run-dir", "BAD"),
    ("groups", "BAD"),
    ("eval", "BAD"),
    ("eval", "RECIPE", "--run-dir", "BAD"),
    ("compare", "BAD", "BAD"),
    ("compare", "a", "b", "--html", "BAD"),
    ("sweep", "BAD", "--seeds", "2"),
    ("sweep", "RECIPE", "--seeds", "2", "--runs-dir", "BAD"),
    ("doctor", "BAD"),
    ("plan", "BAD"),
    ("plan", "RECIPE", "--run-dir", "BAD"),
    ("recipes", "copy", "quickstart", "BAD"),
    ("rewards", "try", "BAD"),
    ("rewards", "try", "RECIPE", "--file", "BAD"),
    ("rewards", "try", "RECIPE", "--run-dir", "BAD"),
    ("chat", "BAD"),
    ("taste", "BAD", "--user", "ana"),
    ("taste", "RECIPE", "--user", "ana", "--prompts", "BAD"),
    ("taste", "RECIPE", "--user", "ana", "--answers", "BAD"),
    ("taste", "RECIPE", "--user", "ana", "--output", "BAD"),
    ("taste", "RECIPE", "--user", "ana", "--run-dir", "BAD"),
    ("export", "BAD", "--to", "adapter"),
    ("export", "RECIPE", "--to", "adapter", "--output", "BAD"),
    ("export", "RECIPE", "--to", "adapter", "--llama-cpp", "BAD"),
    ("serve", "BAD"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_path_that_can_be_none_is_refused_by_name(words: tuple[str, ...], tmp_path: Path) -> None:
    values = {"RECIPE": write_tiny(tmp_path), "BAD": "~nosuchuser/x"}
    result = pgrpo(*(values.get(word, word) for word in words))
    assert result.exit_code == 2
    before = words[words.index("BAD") - 1]
    assert result.stderr.startswith(f"error: {before}: " if before.startswith("--") else "error: ")
    assert result.stderr.count("\n") == 2
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("bad", ["a\0b", "x" * 300, "\udcff", ""])
def test_whatever_is_wrong_with_it_ends_in_a_message(bad: str) -> None:
    result = pgrpo("groups", bad)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: RUN: ")


def test_no_parameter_that_takes_a_path_is_missing_above() -> None:
    def paths(command: object, words: tuple[str, ...]) -> set[tuple[str, ...]]:
        below = getattr(command, "commands", {}).items()
        found = {entry for name, child in below for entry in paths(child, (*words, name))}
        for parameter in getattr(command, "params", ()):
            if "path" in str(getattr(parameter, "type", parameter)).lower() or parameter.name in NAMES:
                found.add((*words, parameter.name))
        return found

    assert paths(get_command(app), ()) == PARAMETERS


NAMES = {
    "recipe",
    "run",
    "runs",
    "run_dir",
    "runs_dir",
    "html",
    "file",
    "target",
    "destination",
    "output",
    "prompts",
    "llama_cpp",
}
PARAMETERS = {
    ("validate", "recipe"), ("prepare", "recipe"), ("prepare", "run_dir"), ("train", "recipe"),
    ("train", "run_dir"), ("groups", "run"), ("eval", "target"), ("eval", "run_dir"), ("compare", "runs"),
    ("compare", "html"), ("sweep", "recipe"), ("sweep", "runs_dir"), ("doctor", "run"), ("plan", "recipe"),
    ("plan", "run_dir"), ("recipes", "copy", "destination"), ("rewards", "try", "recipe"),
    ("rewards", "try", "file"), ("rewards", "try", "run_dir"), ("chat", "run"), ("taste", "target"),
    ("taste", "prompts"), ("taste", "output"), ("taste", "run_dir"), ("export", "run"), ("export", "output"),
    ("export", "llama_cpp"), ("serve", "run"),
}  # fmt: skip


def test_a_tilde_behind_an_equals_sign_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    recipe = write_tiny(tmp_path)
    result = pgrpo("prepare", recipe, "--run-dir=~/run")
    assert result.exit_code == 0, result.stderr
    assert (home / "run" / "data" / "manifest.json").is_file()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.symlink_to("nowhere"), "runs is a link to nowhere, which is not there"),
        (lambda path: path.touch(), "runs is a file"),
    ],
)
def test_a_place_that_cannot_hold_runs_is_refused_before_any_work(
    make: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    make(tmp_path / "runs")  # type: ignore[operator]
    for command in ("prepare", "train"):
        result = pgrpo(command, "tiny.yaml")
        assert result.exit_code == 2
        assert why in result.stderr
