"""What a verb works on: a recipe in one of its forms, or a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RunError
from pgrpo_cli.paths import path_of
from pgrpo_cli.recipe.load import load_recipe, load_resolved, made_recipe
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.ownership import is_run
from pgrpo_cli.state.run import RunDirectory, run_at

StrPath = str | os.PathLike[str]
RecipeOrRun = StrPath | Mapping[str, Any] | Recipe
"""The path of a recipe or of a run directory, or a recipe as a mapping or as an object."""


def resolve(
    source: RecipeOrRun,
    run_dir: StrPath | None,
    overrides: Sequence[str],
    on_message: Callable[[str], object],
    *,
    must_exist: bool = False,
) -> tuple[RunDirectory, Recipe, Path]:
    """The run, its recipe with the overrides, and the folder where the recipe's relative paths start.

    A recipe's run is in `run_dir`, else where `default_run_dir` says; `must_exist`: a run has to be there.
    A text as `overrides` is one override.
    Raises RecipeError where the recipe cannot be read, RunError where there is no run to be found.
    """
    place = None if run_dir is None else Path(run_dir)
    if isinstance(overrides, str):
        overrides = (overrides,)
    if isinstance(source, Recipe | Mapping):
        recipe, folder = made_recipe(source, overrides, on_message), Path()
    else:
        path = Path(source)
        if path.is_dir() and (must_exist or is_run(path)):
            if place is not None and place != path:
                raise RunError(
                    f"{path} is a directory and --run-dir names {place}: which one?",
                    remedy="Name the run once; with --run-dir, give the recipe.",
                )
            run = run_at(path)
            # Raises RunError with a remedy if the directory is no run.
            run.recipe()
            return run, load_resolved(run.recipe_path, overrides, on_message), run.recipe_dir
        recipe, folder = load_recipe(path, overrides, on_message), path.parent
    place = place or default_run_dir(recipe)
    return run_at(place) if must_exist else RunDirectory(place), recipe, folder


def default_run_dir(recipe: Recipe) -> Path:
    """Where a run lands unless a place is named."""
    return path_of(f"runs/{recipe.name}", "name")
