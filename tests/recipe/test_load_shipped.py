"""Every recipe that ships is valid and says what it is for."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.load import load_recipe, purpose, shipped_recipe, shipped_recipes
from pgrpo_cli.recipe.rewards import JudgeReward
from pgrpo_cli.recipe.schema import hints

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.y*ml"))


def test_there_are_recipes_and_all_of_them_ship() -> None:
    assert {path.stem for path in RECIPES} == set(shipped_recipes())
    assert len(RECIPES) == len(shipped_recipes())
    assert {"quickstart", "smoke", "personas-7", "qwen3-8b-personas"} <= set(shipped_recipes())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert hints(recipe) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_says_purpose_hardware_time_and_a_command_that_is_valid(path: Path) -> None:
    header = [line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
    assert purpose(path).endswith(".")
    assert {"# Hardware:", "# Time:", "# Expect:"} <= {line[: line.find(":") + 1] for line in header}
    (command,) = [line for line in header if "pgrpo train" in line]
    overrides = [after for word, after in pairwise(command.split()) if word == "--set"]
    assert overrides
    assert load_recipe(path, overrides) != load_recipe(path)


def test_the_judge_in_the_comments_of_house_styles_can_be_taken_over(tmp_path: Path) -> None:
    path = shipped_recipe("house-styles")
    head, mark, tail = path.read_text().partition("  # - type: judge\n")
    example, gap, rest = (mark + tail).partition("\n\n")
    assert (mark, gap) == ("  # - type: judge\n", "\n\n")
    copy = tmp_path / path.name
    copy.write_text(head + example.replace("  # ", "  ") + gap + rest)
    recipe, before = load_recipe(copy), load_recipe(path)
    assert recipe.rewards[:-1] == before.rewards
    judge = recipe.rewards[-1]
    assert isinstance(judge, JudgeReward)
    assert hints(recipe) == []
    rows = (path.parent / "house-styles" / "requests.jsonl").read_text().splitlines()
    assert set(judge.preference_group_rubrics) == {json.loads(row)["preference_group"] for row in rows}


def test_examples_are_listed_after_the_others() -> None:
    folders = [path.parent.name for path in shipped_recipes().values()]
    assert set(folders) == {"recipes", "examples"}
    assert folders == sorted(folders, reverse=True)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"Did you mean smoke\? There are: .*quickstart"):
        shipped_recipe("smok")
    assert shipped_recipe("smoke.yaml") == shipped_recipe("smoke")
