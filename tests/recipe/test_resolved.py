"""Resolved recipes: they come back equal, say what differs, and hash by content."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli import __version__
from pgrpo_cli.recipe.load import load_recipe, load_resolved
from pgrpo_cli.recipe.resolved import (
    ABSENT,
    differing_keys,
    dump_resolved,
    recipe_hash,
    with_aggregation,
    written_by,
)
from pgrpo_cli.recipe.schema import Recipe
from tests.support.recipes import MINIMAL, changed, load_data, load_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "no",
        "1e-3",
        "1e5",
        "1:30",
        "010",
        "~",
        "null",
        "0x1F",
        ".inf",
        "2024-01-01",
        "- a",
        "a: b",
        "# x",
        "'",
        "<<",
    ]
)


def roundtrip(recipe: Recipe, folder: Path) -> Recipe:
    path = folder / "resolved.yaml"
    path.write_text(dump_resolved(recipe), encoding="utf-8")
    return load_resolved(path)


def test_a_resolved_recipe_comes_back_equal_and_complete(tmp_path: Path) -> None:
    recipe = load_data(tmp_path, changed(train={"learning_rate": 1e-5}, log={"trackers": ["wandb"]}))
    assert roundtrip(recipe, tmp_path) == with_aggregation(recipe)
    written = yaml.safe_load(dump_resolved(recipe))
    assert written["train"]["optimizer"]["epsilon"] == 1e-8
    assert written["model"]["revision"] is None
    assert set(written) == set(Recipe.model_fields)


@pytest.mark.parametrize("character", "\x85\u2028\u2029\ufeff")
def test_a_character_that_yaml_takes_for_a_line_break_comes_back(tmp_path: Path, character: str) -> None:
    text = f"a{character}b"
    recipe = Recipe.model_validate(changed(model={"id": "random", "system_prompt": text}))
    assert roundtrip(recipe, tmp_path).model.system_prompt == text


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "false", "null"])
def test_a_text_that_the_reader_could_take_for_a_boolean_comes_back(tmp_path: Path, word: str) -> None:
    spellings = ["".join(letters) for letters in product(*((c, c.upper()) for c in word))]
    options = {spelling: spelling for spelling in spellings}
    recipe = Recipe.model_validate(
        changed(rewards=[{"type": "plugin", "plugin": "p", "options": {**options, "list": spellings}}])
    )
    assert roundtrip(recipe, tmp_path) == with_aggregation(recipe)


@settings(max_examples=40)
@given(
    prompt=TEXT,
    pattern=st.sampled_from(["a", '\\d+: "x"', "'"]),
    weight=st.just(0.0) | st.floats(1e-15, 1e6) | st.floats(-1e6, -1e-15),
    option=TEXT,
)
def test_any_text_and_number_comes_back_equal(
    tmp_path: Path, prompt: str, pattern: str, weight: float, option: str
) -> None:
    recipe = Recipe.model_validate(
        changed(
            model={"id": "random", "system_prompt": prompt},
            rewards=[
                {"type": "regex", "pattern": pattern, "weight": weight},
                {"type": "plugin", "plugin": "p", "options": {option: [option, {"b": None}], "c": 1e300}},
            ],
        )
    )
    assert roundtrip(recipe, tmp_path) == with_aggregation(recipe)


def test_the_version_that_wrote_it_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_resolved(load_data(tmp_path, MINIMAL)))
    assert written_by(path) == __version__
    assert written_by(tmp_path / "recipe.yaml") is None


def test_differing_keys_name_both_values_in_the_schemas_order(tmp_path: Path) -> None:
    a = load_data(tmp_path, changed(seed=1, train={"steps": 3}))
    b = load_data(tmp_path, changed(seed=2, train={"steps": 4}, history={"kind": {"type": "ema"}}))
    assert differing_keys(a, b) == [
        ("seed", 1, 2),
        ("history.kind.type", "cumulative", "ema"),
        ("train.steps", 3, 4),
        ("history.kind.decay", ABSENT, 0.995),
    ]
    assert differing_keys(a, a) == []


def test_lists_of_unequal_length_differ_entry_by_entry(tmp_path: Path) -> None:
    a = load_data(tmp_path, changed(log={"trackers": ["wandb", "trackio"]}))
    b = load_data(tmp_path, changed(log={"trackers": ["wandb"]}))
    assert differing_keys(a, b) == [("log.trackers.1", "trackio", ABSENT)]
    c = load_data(tmp_path, MINIMAL)
    assert differing_keys(b, c) == [("log.trackers.0", "wandb", ABSENT), ("log.trackers", ABSENT, [])]


def test_the_hash_is_of_the_content_and_not_of_its_spelling(tmp_path: Path) -> None:
    text = "rewards: [{type: personas, weight: 1}]\ndata: {source: {type: personas}}\n"
    text += "model: {id: random}\nname: minimal"
    recipe = load_data(tmp_path, MINIMAL)
    assert recipe_hash(load_text(tmp_path, text)) == recipe_hash(recipe)
    assert recipe_hash(load_data(tmp_path, changed(seed=1))) != recipe_hash(recipe)
    assert len(recipe_hash(recipe)) == 64


@pytest.mark.parametrize(
    "values", [{"model": {"id": "random", "device": "cuda:1"}}, {"train": {"deterministic": True}}]
)
def test_where_and_how_a_model_computes_makes_no_other_recipe(tmp_path: Path, values: Any) -> None:
    here = load_data(tmp_path, MINIMAL)
    there = load_data(tmp_path, changed(**values))
    assert differing_keys(here, there) == []
    assert recipe_hash(here) == recipe_hash(there)


def test_a_compute_dtype_that_is_left_to_the_device_is_that_of_the_run(tmp_path: Path) -> None:
    def of(name: str) -> Recipe:
        return load_data(tmp_path, changed(model={"id": "random", "compute_dtype": name}))

    assert differing_keys(of("bfloat16"), of("auto")) == []
    assert differing_keys(of("auto"), of("bfloat16")) == [("model.compute_dtype", "auto", "bfloat16")]
    assert differing_keys(of("float16"), of("bfloat16")) == [("model.compute_dtype", "float16", "bfloat16")]


@pytest.mark.parametrize(
    ("estimator", "taken", "reason"),
    [
        ("pgrpo", "constant", "history:\n# the mean of advantages is above 0, which sequence_mean turns"),
        ("pgrpo_adaptive", "constant", "shrinkage:\n# the mean of advantages is above 0, which"),
        ("grpo", "sequence_mean", "prompt:\n# every prompt's advantages have mean 0."),
    ],
)
def test_the_aggregation_that_is_left_open_is_resolved_with_its_reason(
    tmp_path: Path, estimator: str, taken: str, reason: str
) -> None:
    def of(aggregation: str) -> Recipe:
        loss = {"aggregation": aggregation}
        return load_data(tmp_path, changed(advantage={"estimator": estimator}, loss=loss))

    text = dump_resolved(of("auto"))
    assert f"# loss.aggregation: auto stands for {taken} here. The baseline is {reason}" in text
    assert yaml.safe_load(text)["loss"]["aggregation"] == taken
    assert dump_resolved(roundtrip(of("auto"), tmp_path)) == text
    assert recipe_hash(of("auto")) == recipe_hash(of(taken)) != recipe_hash(of("token_mean"))
    assert differing_keys(of("auto"), of(taken)) == differing_keys(of(taken), of("auto")) == []
    # A run has what it began with, also from before there was `auto`.
    assert "auto stands for" not in dump_resolved(of("token_mean"))
    assert differing_keys(of("token_mean"), of("auto")) == []
    assert differing_keys(of("token_mean"), of(taken)) == [("loss.aggregation", "token_mean", taken)]


def test_a_run_from_before_advantages_were_clipped_clips_none(tmp_path: Path) -> None:
    recipe, path = load_data(tmp_path, MINIMAL), tmp_path / "old.yaml"
    old = dump_resolved(recipe).replace("  clip: 5.0\n", "")
    path.write_text(old)
    assert (recipe.advantage.clip, load_resolved(path).advantage.clip) == (5.0, None)
    # So does a command that is given the run, and may override a key.
    assert load_resolved(path, ["seed=3"]).advantage.clip is None
    assert load_resolved(path, ["advantage.clip=3"]).advantage.clip == 3.0
    assert load_resolved(tmp_path / "recipe.yaml").advantage.clip == 5.0
    # The same file as a recipe of its own: a key that a user has deleted has its default.
    assert load_recipe(path).advantage.clip == 5.0


def test_the_hash_does_not_depend_on_the_order_of_options(tmp_path: Path) -> None:
    plugin = {"type": "plugin", "plugin": "p"}
    hashes = {
        recipe_hash(load_data(tmp_path, changed(rewards=[{**plugin, "options": options}])))
        for options in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1})
    }
    assert len(hashes) == 2
