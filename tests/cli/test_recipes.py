"""`validate`, `schema` and `recipes` from the outside: exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from pgrpo_cli import __version__
from pgrpo_cli.cli.app import app
from tests.support.recipes import MINIMAL, changed

ROOT = Path(__file__).parents[2]


def pgrpo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_version() -> None:
    result = pgrpo("--version")
    assert (result.exit_code, result.stdout) == (0, f"pgrpo {__version__}\n")


def test_a_valid_recipe(recipe: Path) -> None:
    result = pgrpo("validate", recipe)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{recipe} is valid\n", "")


def test_an_invalid_recipe_is_exit_code_2_and_every_problem_on_standard_error(recipe: Path) -> None:
    recipe.write_text(yaml.safe_dump(changed(seed=-1, steps=3)))
    result = pgrpo("validate", recipe, "--set", "loss.beta=-1")
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert lines[0] == f"error: {recipe} has 3 problems"
    assert lines[1].startswith(f"  {recipe}:9: seed: found -1")
    assert lines[2].startswith(f"  {recipe}:10: steps: found 3")
    assert lines[3] == "  --set loss.beta=-1: loss.beta: found -1; must be 0 or more"


def test_problems_are_printed_as_they_are_on_one_line_each(recipe: Path) -> None:
    # Square brackets are markup to rich, and its default width is 80.
    recipe.write_text(
        yaml.safe_dump(changed(rewards=[{"type": "regex", "pattern": "[red]" + "x" * 200 + "["}]))
    )
    lines = pgrpo("validate", recipe).stderr.splitlines()
    assert len(lines) == 2
    assert 'found "[red]xxx' in lines[1]


def test_overrides_apply_before_validation(recipe: Path) -> None:
    result = pgrpo("validate", recipe, "--resolved", "--set", "train.steps=3", "--set", "name=other")
    resolved = yaml.safe_load(result.stdout)
    assert (resolved["train"]["steps"], resolved["name"]) == (3, "other")


def test_hints_go_to_standard_error(recipe: Path) -> None:
    result = pgrpo("validate", recipe, "--set", "rewards.0={type: length, max: 3}")
    assert result.exit_code == 0
    assert result.stderr.startswith("hint: data.source is 'personas'")


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_what_of_the_recipe_does_not_count_goes_to_standard_error(recipe: Path, command: str) -> None:
    result = pgrpo(command, recipe, "--set", "train.warmup_steps=3", "--set", "train.steps=2")
    assert result.exit_code == 0
    assert "train.warmup_steps is cut from 3 to train.steps (2): " in result.stderr
    assert "is cut from" not in result.stdout


def test_paths_are_looked_at(recipe: Path) -> None:
    result = pgrpo("validate", recipe, "--set", "model.id=~nosuchuser/model")
    assert result.exit_code == 2
    assert "model.id: found" in result.stderr and "there is no user 'nosuchuser'" in result.stderr


def test_schema_is_json_alone() -> None:
    result = pgrpo("schema")
    assert json.loads(result.stdout)["title"] == "pgrpo recipe"
    assert result.stderr == ""


def test_the_reference_is_markdown() -> None:
    assert pgrpo("schema", "--markdown").stdout.startswith("# Recipe reference\n")


@pytest.mark.parametrize("arguments", [("recipes",), ("recipes", "list")])
def test_recipes_are_listed_with_their_purpose(arguments: tuple[str, ...]) -> None:
    lines = pgrpo(*arguments).stdout.splitlines()
    names = [line.split()[0] for line in lines]
    examples = {path.stem for path in (ROOT / "recipes" / "examples").iterdir()}
    first = [name for name in names if name not in examples]
    assert names == sorted(first) + sorted(examples)
    assert any(line.startswith("smoke ") and "random two-layer model" in line for line in lines)


def test_a_copied_recipe_is_valid(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    result = pgrpo("recipes", "copy", "smoke", target)
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert pgrpo("validate", target).exit_code == 0


def test_the_command_to_go_on_with_can_be_pasted(tmp_path: Path) -> None:
    target = tmp_path / "my recipe;.yaml"
    result = pgrpo("recipes", "copy", "smoke", target)
    command = next(line for line in result.stderr.splitlines() if line.startswith("Next: "))
    assert shlex.split(command.removeprefix("Next: ")) == ["pgrpo", "train", str(target)]


def test_copying_into_a_folder_keeps_the_name(tmp_path: Path) -> None:
    pgrpo("recipes", "copy", "smoke", tmp_path)
    assert (tmp_path / "smoke.yaml").is_file()


def test_sample_data_come_along_and_never_overwrite(tmp_path: Path) -> None:
    result = pgrpo("recipes", "copy", "thumbs", tmp_path / "mine.yaml")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'mine.yaml'}\n")
    rows = tmp_path / "thumbs" / "answers.jsonl"
    assert f"sample data: {tmp_path / 'thumbs'}" in result.stderr
    rows.write_text("mine")
    result = pgrpo("recipes", "copy", "thumbs", tmp_path / "again.yaml")
    assert (result.exit_code, "stays as it is" in result.stderr, rows.read_text()) == (0, True, "mine")
    pgrpo("recipes", "copy", "smoke", tmp_path)
    assert not (tmp_path / "smoke").exists()


def test_copying_refuses_to_overwrite(recipe: Path) -> None:
    result = pgrpo("recipes", "copy", "smoke", recipe)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert yaml.safe_load(recipe.read_text()) == MINIMAL


def test_copying_into_a_missing_folder_or_an_unknown_name_says_what_to_do(tmp_path: Path) -> None:
    result = pgrpo("recipes", "copy", "smoke", tmp_path / "gone" / "mine.yaml")
    assert (result.exit_code, "Make " in result.stderr) == (2, True)
    result = pgrpo("recipes", "copy", "smok")
    assert (result.exit_code, "Did you mean smoke?" in result.stderr) == (2, True)
