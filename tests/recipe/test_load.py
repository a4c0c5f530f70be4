"""Loading: what a file must be, and every mistake of one recipe in one report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.load import MAX_BYTES, load_recipe, load_resolved
from pgrpo_cli.recipe.messages import InvalidRecipe
from tests.support.recipes import (
    MINIMAL,
    TEN_MISTAKES,
    TEN_PROBLEMS,
    changed,
    load_data,
    load_text,
    problems_of,
)


def test_ten_mistakes_are_ten_problems(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load_text(tmp_path, TEN_MISTAKES)
    report = str(caught.value).replace(f"{tmp_path}/", "")
    assert report == "recipe.yaml has 10 problems\n" + re.sub("(?m)^", "  ", TEN_PROBLEMS).rstrip()


def test_the_ten_mistakes_put_right_are_a_recipe(tmp_path: Path) -> None:
    text = TEN_MISTAKES
    for wrong, right in [
        ("modle", "model"),
        ("jsnl", "jsonl"),
        ("min: 30", "min: 3"),
        ("[a-z", "[a-z]"),
        ("[no]", "['no']"),
        ("num_generations: 1", "num_generations: 2"),
        ("  scale: batch\n", ""),
        ("  steps: 4\n", ""),
        ("fast", "1e-3"),
        ("optimizer: adamw", "optimizer: {type: adamw}"),
    ]:
        assert text.count(wrong) == 1
        text = text.replace(wrong, right)
    recipe = load_text(tmp_path, text.replace("  - type: keyword", "  - name: words\n    type: keyword"))
    assert recipe.train.learning_rate == 0.001


def test_the_minimal_recipe_takes_every_default(tmp_path: Path) -> None:
    recipe = load_data(tmp_path, MINIMAL)
    assert recipe.advantage.estimator == "pgrpo"
    assert recipe.rewards[0].label == "personas"


@pytest.mark.parametrize("key", ["name", "model", "data", "rewards"])
def test_a_missing_key_says_what_it_is_for(tmp_path: Path, key: str) -> None:
    recipe = {name: value for name, value in MINIMAL.items() if name != key}
    (problem,) = problems_of(tmp_path, recipe)
    assert problem.path == (key,)
    assert problem.where.endswith("recipe.yaml:1")
    assert problem.text.startswith("missing; required: ")


@pytest.mark.parametrize(
    ("recipe", "path", "text"),
    [
        # A misspelled key is one problem, not also a missing one.
        (changed(data={"sorce": {"type": "personas"}}), "data.sorce", "did you mean 'source'?"),
        # What a misspelled key holds is not checked: the guess may be wrong.
        (changed(train={"lerning_rate": "fast"}), "train.lerning_rate", "did you mean 'learning_rate'?"),
        (
            changed(train={"stepz": 3, "steps": 4}),
            "train.stepz",
            "no such key in train; did you mean 'steps'?",
        ),
        (changed(learning_rate=1.0), "learning_rate", "did you mean 'train.learning_rate'?"),
        (changed(epsilon=1.0), "epsilon", "did you mean 'advantage.epsilon' or 'train.optimizer.epsilon'?"),
        (changed(log={"zzz": 1}), "log.zzz", "the keys here are trackers, project"),
        (changed(data={"source": {"tpye": "personas"}}), "data.source", "did you mean 'type' by 'tpye'?"),
        (changed(data={"source": {"prompts": 9}}), "data.source", "missing the key 'type'"),
        (
            changed(data={"source": {"type": 3}}),
            "data.source.type",
            "found 3; must be one of 'personas', 'jsonl'",
        ),
        (changed(data={"source": "personas"}), "data.source", "write {type: personas}"),
        (changed(history={"kind": "em"}), "history.kind", "must be a mapping with the key 'type'"),
        (changed(loss={"aggregation": "token-mean"}), "loss.aggregation", "did you mean 'token_mean'?"),
        (
            changed(model__quantization={"type": "nf4", "double": 1}),
            "model.quantization.double",
            "true or false",
        ),
        (
            changed(model__quantization={"type": "none", "double": True}),
            "model.quantization.double",
            "no such key in model.quantization with type 'none'; 'nf4' has it",
        ),
        (
            changed(history={"kind": {"type": "window", "decay": 0.9}}),
            "history.kind.decay",
            "no such key in history.kind with type 'window'; 'ema' has it",
        ),
        (changed(rewards=[]), "rewards", "found an empty list; must not be empty"),
        (changed(rewards={"type": "personas"}), "rewards", "a list of mappings, each with the key 'type'"),
        (changed(rewards=["personas"]), "rewards.0", "write {type: personas}"),
        (changed(seed=True), "seed", "found true; must be a whole number"),
        (changed(seed="3"), "seed", "must be a whole number; remove the quotes"),
        (changed(seed=3.0), "seed", "found 3.0; must be a whole number"),
        (changed(seed=2**31), "seed", "must be less than 2147483648"),
        (changed(name=3), "name", "YAML takes 3 for a number: write '3' with the quotes"),
        (changed(name="my run"), "name", "try 'my-run'"),
        (changed(name=None), "name", "found null; must be text; give it a value"),
        (
            changed(train=None),
            "train",
            "must be a mapping; leave it out to get the default, or give it a value",
        ),
        (changed(loss={"beta": float("nan")}), "loss.beta", "must be a finite number"),
        (changed(adapter={"target_modules": 3}), "adapter.target_modules", "must be text or a list of texts"),
        (changed(adapter={"target_modules": ["a", 3]}), "adapter.target_modules.1", "found 3; must be text"),
        (
            changed(rewards=[{"type": "keyword", "keywords": [""]}]),
            "rewards.0.keywords.0",
            "must not be empty",
        ),
        (changed(log={"trackers": ["wandbb"]}), "log.trackers.0", "did you mean 'wandb'?"),
    ],
)
def test_one_mistake_is_one_problem(tmp_path: Path, recipe: dict[str, object], path: str, text: str) -> None:
    problems = problems_of(tmp_path, recipe)
    found = {".".join(map(str, problem.path)): problem.text for problem in problems}
    assert text in found[path]
    assert set(found) == {path}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"sorce": {"type": "personas", "prompts": 1}}, "data.sorce"),
        ({"source": {"type": "persona", "prompts": 1}}, "data.source.type"),
        ({"source": {"tpye": "personas", "prompts": 1}}, "data.source"),
    ],
)
def test_what_is_below_a_misspelled_name_is_checked(
    tmp_path: Path, data: dict[str, object], path: str
) -> None:
    paths = [".".join(map(str, problem.path)) for problem in problems_of(tmp_path, changed(data=data))]
    assert len(paths) == 2
    assert path in paths
    assert any(found.endswith("rce.prompts") for found in paths)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ":1: the file is empty"),
        (b"# nothing but a comment\n", ":1: the file is empty"),
        (b"- a\n- b\n", ":1: found a list; a recipe is a mapping of sections"),
        (b"hello\n", ':1: found "hello"; a recipe is a mapping'),
        (b"name: a\nx: \xff\n", ":2: found the byte 0xff; a recipe is UTF-8 text"),
        (b"name: a\n\tx: 1\n", ":2: not valid YAML"),
        (b"#" * (MAX_BYTES + 1), "larger than 1000000 bytes"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        load_text(tmp_path, content)
    assert caught.value.exit_code == 2


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert load_text(tmp_path, b"\xef\xbb\xbf" + yaml.safe_dump(MINIMAL).encode()).name == "minimal"


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "smoke.yaml").touch()
    with pytest.raises(RecipeError, match=r"no such file\n  Did you mean .*smoke\.yaml\?"):
        load_recipe(tmp_path / "smok.yaml")
    with pytest.raises(RecipeError, match="is no directory either"):
        load_recipe(tmp_path / "gone" / "smoke.yaml")


def test_a_directory_lists_its_recipes(tmp_path: Path) -> None:
    (tmp_path / "smoke.yaml").touch()
    with pytest.raises(RecipeError, match=r"is a directory; a recipe is a YAML file\n  It holds smoke\.yaml"):
        load_recipe(tmp_path)


def test_an_unreadable_path_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="cannot be read: Not a directory"):
        load_recipe(tmp_path / "file" / "recipe.yaml")
    with pytest.raises(RecipeError, match="cannot be read: embedded null byte"):
        load_recipe("a\0b")


def test_a_resolved_recipe_of_another_version_names_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# Resolved recipe, every default explicit, written by pgrpo 9.9.9.\nname: a\n")
    with pytest.raises(InvalidRecipe, match=r"pgrpo 9\.9\.9 wrote this file and this is pgrpo"):
        load_resolved(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    ["type", "name", "model", "steps", "kind", "random", "weight", "options", "x"]
) | st.text(max_size=4)
TREES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS | SCALARS, below, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100)
@given(value=TREES, key=st.sampled_from([*MINIMAL, "train", "history", "adapter", "log", "loss", "eval"]))
def test_any_tree_in_any_section_is_a_recipe_or_a_recipe_error(
    tmp_path: Path, value: object, key: str
) -> None:
    text = yaml.safe_dump({**MINIMAL, key: value}, allow_unicode=True)
    try:
        load_text(tmp_path, text.encode("utf-8", "surrogatepass"))
    except RecipeError as error:
        assert str(error)


FRAGMENTS = st.lists(
    st.sampled_from(
        ["a", "1e3", ": ", "- ", "\n", "  ", "\t", "[", "]", "{", "}", "&x", "*x", "!!", "!", "'", '"', "\\"]
    )
    | st.sampled_from(
        ["|", ">", "? ", "%", "---", "...", "#", "<<", "\\U00110000", "\\ud800", "\x00", "\u2028", "no"]
    )
    | st.text(max_size=3),
    max_size=25,
).map("".join)


@settings(max_examples=200)
@given(text=FRAGMENTS)
def test_any_text_is_a_recipe_or_a_recipe_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_text(tmp_path, text.encode("utf-8", "surrogatepass"))


@settings(max_examples=100)
@given(content=st.binary(max_size=40))
def test_any_bytes_are_a_recipe_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RecipeError):
        load_text(tmp_path, content)


@pytest.mark.parametrize("delimiter", ["'\\t'", "\\t", '"\\t"', "tab"])
def test_a_tab_is_written_as_it_is_shown(tmp_path: Path, delimiter: str) -> None:
    text = "name: a\nmodel: {id: random}\nrewards: [{type: length, max: 5}]\n"
    text += f"data: {{source: {{type: csv, path: x, delimiter: {delimiter}}}}}"
    assert load_text(tmp_path, text).data.source.delimiter == "\t"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "hint"),
    [("True", "; remove the quotes"), ("false", "; remove the quotes"), (1, ""), (0, ""), ("some", "")],
)
def test_the_matrix_takes_no_other_words(tmp_path: Path, value: Any, hint: str) -> None:
    (problem,) = problems_of(tmp_path, changed(eval__matrix=value))
    assert problem.text.endswith(f"; must be true or false or 'auto'{hint}")
    for taken in (True, False, "auto"):
        assert load_data(tmp_path, changed(eval__matrix=taken)).eval.matrix is taken


def test_names_of_intervals_are_spelt_as_the_data_are(tmp_path: Path) -> None:
    def bins(*names: str) -> dict[str, Any]:
        groups = {"type": "bins", "column": "a", "edges": [1], "names": list(names)}
        source = {"type": "jsonl", "path": "x"}
        rewards = [{"type": "length", "max": 5}]
        return changed(data={"source": source, "preference_groups": groups}, rewards=rewards)

    found = load_data(tmp_path, bins("cafe\u0301", "x")).data.preference_groups
    assert found.names == ("caf\u00e9", "x")  # type: ignore[union-attr]
    (problem,) = problems_of(tmp_path, bins("cafe\u0301", "caf\u00e9"))
    assert "must differ from each other" in problem.text


JUDGE = {"type": "judge", "base_url": "http://localhost/v1", "model": "m"}
TWO = "; must be two numbers, the lowest and the highest score, such as [1, 10]"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (changed(rewards=[{**JUDGE, "scale": [1, 2, 3]}]), f"rewards.0.scale: found a list{TWO}"),
        (changed(rewards=[{**JUDGE, "scale": [1]}]), f"rewards.0.scale: found a list{TWO}"),
        (
            "name: a\n---\nname: b\n",
            "not valid YAML: found a second document; a recipe is one document: remove the line ---",
        ),
        (changed(train={1: 2}), 'train: found the key "1"; a key must be text; quote it if it is meant'),
        (
            changed(log={"trackers": {1: 2}}),
            'log.trackers: found the key "1"; a key must be text; quote it if it is meant',
        ),
        (
            changed(train={"batch_size": 3}),
            "train.batch_size: found 3; there is no such key in train; "
            "did you mean 'train.prompts_per_step' or 'train.tokens_per_micro_batch'?",
        ),
        (
            changed(train={"per_device_train_batch_size": 3}),
            "train.per_device_train_batch_size: found 3; there is no such key in train; "
            "did you mean 'train.prompts_per_step' or 'train.tokens_per_micro_batch'?",
        ),
    ],
)
def test_a_mistake_is_told_once_and_in_a_sentence(
    tmp_path: Path, recipe: dict[str, Any] | str, said: str
) -> None:
    (problem,) = problems_of(tmp_path, recipe)
    assert str(problem).partition(": ")[2] == said
