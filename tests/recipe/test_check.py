"""Fields first, rules on what is valid; every problem of a document in one report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.load import load_recipe
from tests.support.recipes import changed, problems_of

PERSONAS = {"type": "personas"}
LENGTH = {"type": "length", "max": 10}
PAIRS = {"base_url": "http://localhost:8000/v1", "model": "m"}


def paths_of(folder: Path, recipe: dict[str, Any]) -> set[str]:
    return {".".join(map(str, problem.path)) for problem in problems_of(folder, recipe)}


def test_rules_are_asked_of_the_sections_that_have_no_other_problem(tmp_path: Path) -> None:
    recipe = changed(
        train={"learning_rate": -1},
        # Its epsilon is wrong, so nothing is said about `renormalize` yet.
        advantage={"renormalize": True, "epsilon": -1},
        # The first reward has its own rule broken, the second and third a field.
        rewards=[{**LENGTH, "min": 11}, {"type": "length", "min": 11, "weight": "much"}, "personas"],
        history={"kind": {"type": "window", "size": 15}, "update": "after"},
        seed=-1,
        nonsense=1,
    )
    assert paths_of(tmp_path, recipe) == {
        "train.learning_rate",
        "advantage.epsilon",
        "rewards.0.min",
        "rewards.1.max",
        "rewards.1.weight",
        "rewards.2",
        "history.kind.size",
        "seed",
        "nonsense",
    }


def test_a_rule_between_sections_runs_beside_problems_of_other_sections(tmp_path: Path) -> None:
    recipe = changed(
        data={"source": {"type": "jsonl", "path": "a"}},
        rewards=[PERSONAS, PERSONAS],
        train={"steps": 0},
    )
    assert paths_of(tmp_path, recipe) == {"rewards.0.type", "rewards.1.type", "rewards.1.name", "train.steps"}


def test_misspelled_keys_at_every_depth_are_one_report(tmp_path: Path) -> None:
    recipe = changed(trian={"optimzer": {"tpye": "adamw", "beta1": 2}, "steps": 0})
    assert paths_of(tmp_path, recipe) == {
        "trian",
        "train.optimzer",
        "train.optimizer",
        "train.optimizer.beta1",
        "train.steps",
    }


@pytest.mark.parametrize(
    ("profiles", "path", "text"),
    [
        ({"calm": 3, "wild": "x"}, "data.conditioning.profiles.calm", "found 3; must be text"),
        ("atuo", "data.conditioning.profiles", "must be a mapping or 'auto'"),
    ],
)
def test_of_a_mapping_or_a_word_the_wrong_part_is_named(
    tmp_path: Path, profiles: object, path: str, text: str
) -> None:
    recipe = changed(data__conditioning={"type": "profiles", "profiles": profiles})
    (problem,) = problems_of(tmp_path, recipe)
    assert ".".join(map(str, problem.path)) == path
    assert text in problem.text


def test_a_corrected_key_keeps_its_line(tmp_path: Path) -> None:
    text = "name: a\nmodel: {id: random}\nrewards: [{type: personas}]\ndata:\n  sorce:\n    type: personas\n"
    problems = problems_of(tmp_path, text + "    prompts: 1\n")
    assert [problem.where.rpartition(":")[2] for problem in problems] == ["5", "7"]


@pytest.mark.parametrize(
    "recipe",
    [
        # Each rule reads a value that is broken: whatever it would say follows from that.
        changed(eval={"num_completions": "few", "judge": {**PAIRS, "pairs": 4}}),
        changed(advantage={"estimator": "costum", "baseline": "prompt"}),
        # That num_completions is meant is a guess.
        changed(eval={"num_completion": 2, "judge": {**PAIRS, "pairs": 3}}),
        changed(advantage={"estimator": "custom", "basline": "prompt", "scale": "none"}),
        changed(data={"source": {"type": "xml"}}, rewards=[PERSONAS]),
        changed(rewards=[{"type": "length", "min": 11, "max": "ten"}]),
        changed(rewards=[{**PERSONAS, "weight": 0}, {**LENGTH, "weight": "none"}]),
        changed(model={"id": 3, "revision": "main"}),
    ],
)
def test_a_rule_is_silent_about_what_follows_from_another_mistake(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    assert len(problems_of(tmp_path, recipe)) == 1


def test_a_key_that_is_no_text_is_a_problem_of_the_whole_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nmodel: {id: random}\n")
    with pytest.raises(RecipeError, match="has 1 problem"):
        load_recipe(path, ["\ud800="])
