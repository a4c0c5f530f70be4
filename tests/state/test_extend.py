"""A run that has begun may get other steps, and no other change; it goes on from what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.errors import RunError
from pgrpo_cli.recipe.resolved import with_aggregation
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.extend import extension_of, has_other_steps
from pgrpo_cli.state.run import RunDirectory
from tests.support.runs import add_checkpoint, make_run, recipe_of
from tests.support.training import files_in


def recipe(steps: int, schedule: str = "constant", warmup: int = 0, seed: int = 1) -> Recipe:
    train = {"steps": steps, "learning_rate": 0.5, "schedule": schedule, "warmup_steps": warmup}
    return recipe_of(train=train, seed=seed)


def finished(path: Path, made_by: Recipe) -> RunDirectory:
    run = make_run(path, made_by)
    add_checkpoint(run, made_by.train.steps, "done")
    return run


def test_steps_alone_may_change(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", recipe(6))
    assert not has_other_steps(run, recipe(6))
    assert has_other_steps(run, recipe(9))
    assert not has_other_steps(run, recipe(9, seed=2))
    assert not has_other_steps(run, recipe(9, warmup=2))
    assert not has_other_steps(RunDirectory(tmp_path / "new"), recipe(9))
    assert extension_of(run, recipe(6)) is None


def test_a_warm_up_that_was_cut_to_the_run_may_grow_with_it(tmp_path: Path) -> None:
    assert has_other_steps(finished(tmp_path / "run", recipe(6, warmup=6)), recipe(9, warmup=8))


@pytest.mark.parametrize("warmup", [0, 2, 4])
def test_a_warm_up_that_was_not_cut_may_not_change(tmp_path: Path, warmup: int) -> None:
    """One that had been cut to 4 steps was longer than 4 before."""
    run = finished(tmp_path / "run", recipe(4, warmup=4))
    assert has_other_steps(run, recipe(8, warmup=warmup)) is (warmup == 4)


def test_a_warm_up_that_was_cut_is_cut_again_for_fewer_steps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe(8, warmup=8), adapter=None)
    add_checkpoint(run, 4, "so far")
    assert has_other_steps(run, recipe(6, warmup=6))


def test_a_finished_run_goes_on_and_keeps_all_that_it_had(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", recipe(6))
    before = files_in(run.path)
    extension = extension_of(run, recipe(9))
    assert extension is not None
    assert files_in(run.path) == before
    assert extension.apply() == (
        f"{run.path} continues from step 6 to 9 instead of 6; the finished adapter stays in "
        f"{run.path / 'adapter.replaced-1'}"
    )
    assert run.recipe() == with_aggregation(recipe(9))
    assert not run.finished
    (run.path / "adapter.replaced-1").rename(run.adapter)
    after = files_in(run.path)
    assert {name for name in before if after[name] != before[name]} == {"recipe.yaml"}


def test_a_cosine_says_what_becomes_of_the_learning_rate(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", recipe(4, "cosine"))
    extension = extension_of(run, recipe(8, "cosine"))
    # Step s of T has 0.5 * 0.5 * (1 + cos(pi (s - 1) / T)): step 4 of 4 cos(3 pi / 4) = -0.7071, 0.0732;
    # step 5 of 8 cos(pi / 2) = 0, 0.25.
    assert extension is not None and extension.apply().endswith(
        ". The cosine schedule is that of 8 steps from here on: the learning rate was 0.073 in step 4 and is "
        "0.25 in step 5"
    )


@pytest.mark.parametrize(("steps", "taken"), [(5, False), (6, True), (7, True)])
def test_fewer_steps_than_are_done_are_refused(steps: int, taken: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe(20), adapter=None)
    add_checkpoint(run, 6, "so far")
    if taken:
        assert extension_of(run, recipe(steps)) is not None
    else:
        with pytest.raises(RunError, match=r"has done 6 steps, and train\.steps is 5 now"):
            extension_of(run, recipe(steps))


def test_a_finished_run_without_a_checkpoint_cannot_go_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe(6))
    before = files_in(run.path)
    with pytest.raises(RunError, match="no checkpoint to continue from"):
        extension_of(run, recipe(9))
    assert files_in(run.path) == before


def test_a_run_that_goes_on_keeps_its_compute_dtype_where_the_recipe_says_auto(tmp_path: Path) -> None:
    before = recipe_of(train={"steps": 6}, model__compute_dtype="bfloat16")
    extension = extension_of(
        finished(tmp_path / "run", before), recipe_of(train={"steps": 9}, model__compute_dtype="auto")
    )
    assert extension is not None
    extension.apply()
    assert extension.run.recipe().model.compute_dtype == "bfloat16"
