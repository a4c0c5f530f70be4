"""`validate`, `schema` and `recipes`: recipes before anything runs."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from pgrpo_cli.errors import RecipeError

from .common import (
    RecipeArgument,
    SetOption,
    path_argument,
)
from .terminal import emit, note


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(validate)
    app.command()(schema)
    recipes = typer.Typer(
        invoke_without_command=True, help="List the recipes that come with pgrpo, or copy one."
    )
    recipes.callback()(_list_by_default)
    recipes.command("list")(list_recipes)
    recipes.command("copy")(copy_recipe)
    app.add_typer(recipes, name="recipes")


def validate(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the resolved recipe, every default explicit.")
    ] = False,
) -> None:
    """Check a recipe and report everything that is wrong with it."""
    from pgrpo_cli.recipe.load import dump_resolved, load_recipe
    from pgrpo_cli.recipe.schema import hints

    loaded = load_recipe(recipe, overrides or (), note, paths=True)
    for hint in hints(loaded):
        note(f"hint: {hint}")
    emit(dump_resolved(loaded) if resolved else f"{recipe} is valid")


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference for readers instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of recipes, for completion and checks in editors."""
    from pgrpo_cli.recipe.reference import json_schema_text, markdown_reference

    emit(markdown_reference() if markdown else json_schema_text())


def _list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_recipes()


def list_recipes() -> None:
    """List the recipes that come with pgrpo."""
    from pgrpo_cli.recipe.load import purpose, shipped_recipes

    recipes = shipped_recipes()
    width = max(map(len, recipes), default=0)
    emit("\n".join(f"{name:<{width}}  {purpose(path)}" for name, path in recipes.items()))
    note("Copy one with `pgrpo recipes copy NAME`.")


def copy_recipe(
    name: Annotated[str, typer.Argument(help="A name from `pgrpo recipes`.", show_default=False)],
    destination: Annotated[
        Path | None,
        path_argument("DESTINATION", "File or folder to copy to. Default: NAME.yaml here."),
    ] = None,
) -> None:
    """Copy a recipe that comes with pgrpo, and its sample data if it has some, to change them."""
    from pgrpo_cli.recipe.load import sample_data, shipped_recipe

    source = shipped_recipe(name)
    target = destination or Path(source.name)
    if target.is_dir():
        target = target / source.name
    try:
        with target.open("xb") as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)
    except FileExistsError as error:
        raise RecipeError(
            f"{target}: exists already", remedy="Name another file, or remove that one."
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecipeError(
            f"{target}: there is no such folder", remedy=f"Make {target.parent} first."
        ) from error
    emit(f"{target}")
    if (data := sample_data(source)) is not None:
        _copy_data(data, target.parent / data.name)
    note(f"Next: {shlex.join(['pgrpo', 'train', str(target)])}")


def _copy_data(source: Path, target: Path) -> None:
    """Beside the recipe, where its relative paths look for them; what is there already stays."""
    try:
        shutil.copytree(source, target)
    except FileExistsError:
        note(f"{target} exists already and stays as it is; the recipe reads from it")
    else:
        note(f"sample data: {target}")
