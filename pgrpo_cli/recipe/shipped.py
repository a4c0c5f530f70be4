"""The recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.names import nearest

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path:
    """The folder of recipes: inside the package in a wheel, beside it in a checkout."""
    inside = _PACKAGE / "shipped_recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name to file, sorted by name, those in folders of their own (examples/) after the others."""
    paths = sorted(shipped_folder().rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.stem: path for path in paths}


def shipped_recipe(name: str) -> Path:
    """The file of the shipped recipe `name`. Raises RecipeError that lists the names."""
    recipes = shipped_recipes()
    wanted = name.removesuffix(".yaml")
    if wanted in recipes:
        return recipes[wanted]
    near = nearest(wanted, recipes)
    hint = f"Did you mean {near}? " if near else ""
    raise RecipeError(
        f"no recipe {name!r} comes with pgrpo", remedy=f"{hint}There are: {', '.join(recipes)}."
    )


def sample_data(recipe: Path) -> Path | None:
    """The folder of sample data beside a shipped recipe, which has its name; None where it has none."""
    folder = recipe.with_suffix("")
    return folder if folder.is_dir() else None


def purpose(path: Path) -> str:
    """The first line of the comment at the top of a recipe."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    return first.lstrip("# ").strip() if first.startswith("#") else ""
