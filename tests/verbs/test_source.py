"""A verb takes a recipe by its path, as a mapping or as an object, or a run by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli import Callbacks, train
from pgrpo_cli.errors import Interrupted, RecipeError, RunError, RunWarning
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.verbs.source import resolve
from tests.support.loop import Watcher
from tests.support.runs import make_run, recipe_of
from tests.support.training import TINY, outcome, write_tiny

SHORT = {**TINY, "train": {**TINY["train"], "steps": 3}}


def silent(text: str) -> None:
    pytest.fail(text)


def test_a_recipe_in_each_form_makes_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_tiny(tmp_path, train=SHORT["train"])
    results = [
        train(source, run_dir=tmp_path / str(number))
        for number, source in enumerate([str(path), SHORT, load_recipe(path)])
    ]
    one, *others = [outcome(result.path) for result in results]
    assert all(other == one for other in others)
    assert (results[0].steps, results[0].was_finished) == (3, False)
    assert train(results[1].path).was_finished


def test_a_run_goes_on_by_its_path(tmp_path: Path) -> None:
    whole = train(write_tiny(tmp_path), run_dir=tmp_path / "whole").path
    with pytest.raises(Interrupted):
        train(tmp_path / "tiny.yaml", run_dir=tmp_path / "run", callbacks=Watcher(stop_after=2))
    resumed: list[int] = []

    class Listener(Callbacks):
        def on_resumed(self, step: int) -> None:
            resumed.append(step)

    # The rows are beside the recipe that the run was made from.
    assert resolve(tmp_path / "run", None, (), silent)[2] == tmp_path
    found = train(tmp_path / "run", callbacks=Listener())
    assert (found.path, resumed) == (tmp_path / "run", [2])
    assert outcome(found.path) == outcome(whole)


def test_messages_are_warnings_where_nobody_listens(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path, train={**TINY["train"], "warmup_steps": 9, "steps": 1})
    with pytest.warns(RunWarning, match=r"train\.warmup_steps is cut from 9 to train\.steps \(1\)"):
        train(recipe, run_dir=tmp_path / "run")


def test_a_mapping_is_checked_as_a_file_is() -> None:
    wrong: dict[str, Any] = {**TINY, "train": {"steps": 0, "step_size": 1}}
    with pytest.raises(RecipeError) as caught:
        resolve(wrong, None, ["rollout.num_generations=1"], silent)
    first, *others = caught.value.message.splitlines()
    assert first == "the recipe has 3 problems"
    assert sorted(line.split(": ")[:2] for line in others) == [
        ["  --set rollout.num_generations=1", "rollout.num_generations"],
        ["  the recipe", "train.step_size"],
        ["  the recipe", "train.steps"],
    ]


def test_a_mapping_may_hold_paths_and_nothing_else_that_is_no_plain_data() -> None:
    source = {"type": "jsonl", "path": Path("some") / "rows.jsonl"}
    _, recipe, folder = resolve({**TINY, "data": {"source": source}}, None, (), silent)
    assert recipe.data.source.path == "some/rows.jsonl"  # type: ignore[union-attr]
    assert folder == Path()
    with pytest.raises(RecipeError, match=r"the recipe holds more than plain data: .*set"):
        resolve({**TINY, "rewards": {1}}, None, (), silent)


def test_where_a_run_lands(tmp_path: Path) -> None:
    assert resolve(TINY, None, ["name=other"], silent)[0] == RunDirectory(Path("runs/other"))
    assert resolve(TINY, str(tmp_path), (), silent)[0] == RunDirectory(tmp_path)
    run = make_run(tmp_path / "run", recipe_of())
    assert resolve(run.path, None, (), silent)[0] == run
    with pytest.raises(RunError, match="is a directory and --run-dir names"):
        resolve(run.path, tmp_path, (), silent)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    with pytest.raises(RecipeError, match=r"is a directory; a recipe is a YAML file\n  It holds tiny\.yaml"):
        resolve(tmp_path, None, (), silent)
    with pytest.raises(RunError, match="is not a run: it has no recipe"):
        resolve(tmp_path, None, (), silent, must_exist=True)


def test_a_text_is_one_override(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    text, listed = (resolve(recipe, None, given, silent)[1] for given in ("train.steps=9", ["train.steps=9"]))
    assert text == listed and text.train.steps == 9
