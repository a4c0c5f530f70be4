"""Reads recipes, one's own and those that come with the package, applies overrides and checks them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgrpo_cli import __version__
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.names import nearest

from .check import check
from .messages import InvalidRecipe
from .overrides import apply_overrides
from .resolved import differing_keys, dump_resolved, recipe_hash, written_by
from .schema import Recipe
from .yaml_lines import Document, Origin, parse

__all__ = [
    "differing_keys",
    "dump_resolved",
    "load_recipe",
    "load_resolved",
    "made_recipe",
    "recipe_hash",
    "written_by",
]

MAX_BYTES = 1_000_000
_PACKAGE = Path(__file__).resolve().parent.parent


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    note: Callable[[str], object] | None = None,
    *,
    paths: bool = False,
) -> Recipe:
    """The recipe at `path` with `overrides` (KEY=VALUE) applied in order.

    `note` is told what of the file does not count, once the recipe is known to be valid. With `paths`, a path
    of an unknown user or variable is a mistake too. Raises RecipeError: InvalidRecipe, whose `problems` holds
    every mistake, if the file can be read at all.
    """
    return _checked(read_document(Path(path)), overrides, note, Path(path).parent if paths else None)


def made_recipe(
    source: Recipe | Mapping[str, Any],
    overrides: Sequence[str] = (),
    note: Callable[[str], object] | None = None,
) -> Recipe:
    """The recipe that a mapping of its sections, or another recipe, describes, with `overrides` applied.

    Raises RecipeError as `load_recipe`.
    """
    content = source.model_dump(mode="json") if isinstance(source, Recipe) else dict(source)
    label = "the recipe"
    try:
        # A recipe contains only values that JSON has, and paths.
        data = json.loads(json.dumps(content, default=os.fspath))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{label} holds more than plain data: {error}",
            remedy="Its values are mappings, lists, text, numbers, True, False and None.",
        ) from error
    return _checked(Document(label, data, {(): Origin(label)}), overrides, note)


def _checked(
    document: Document,
    overrides: Sequence[str],
    note: Callable[[str], object] | None,
    paths_from: Path | None = None,
) -> Recipe:
    apply_overrides(document, overrides, Recipe)
    recipe = _with_short_warm_up(check(document, paths_from), document.notes)
    if note is not None:
        for text in document.notes:
            note(text)
    return recipe


def _with_short_warm_up(recipe: Recipe, notes: list[str]) -> Recipe:
    """Cut a warm-up that is longer than the run, such as a short trial, to the number of steps."""
    train = recipe.train
    if train.warmup_steps <= train.steps:
        return recipe
    notes.append(
        f"train.warmup_steps is cut from {train.warmup_steps} to train.steps ({train.steps}): "
        "the learning rate reaches its peak in the last step"
    )
    train = train.model_copy(update={"warmup_steps": train.steps})
    return recipe.model_copy(update={"train": train})


def load_resolved(
    path: str | Path, overrides: Sequence[str] = (), note: Callable[[str], object] | None = None
) -> Recipe:
    """The resolved recipe of a run, as `dump_resolved` wrote it, with `overrides` applied.

    A key that is newer than the run has the value with which the run continues unchanged. Raises RecipeError,
    which names the version that wrote the file if it is another one.
    """
    document, writer = read_document(Path(path)), written_by(Path(path))
    if writer is not None:
        _add_newer_keys(document)
    try:
        return _checked(document, overrides, note)
    except InvalidRecipe as error:
        if writer is None or writer == __version__:
            raise
        remedy = (
            f"pgrpo {writer} wrote this file and this is pgrpo {__version__}: use that version for this run."
        )
        raise InvalidRecipe(str(path), error.problems, remedy=remedy) from error


def _add_newer_keys(document: Document) -> None:
    """A run that began before there was `advantage.clip` clips no advantages."""
    section = document.data.get("advantage") if isinstance(document.data, dict) else None
    if isinstance(section, dict):
        section.setdefault("clip", None)


def read_document(path: Path) -> Document:
    """The YAML at `path`, unchecked against the schema. Raises RecipeError if it cannot be read."""
    label = str(path)
    if path.is_dir():
        raise RecipeError(f"{label}: is a directory; a recipe is a YAML file", remedy=_recipes_in(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise RecipeError(f"{label}: there is no such file", remedy=_near_file(path)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(
            f"{label}: cannot be read: {reason}", remedy="Check the path and its permissions."
        ) from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"{label}: larger than {MAX_BYTES} bytes", remedy="A recipe is a short YAML file; is this one?"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"{label}:{line}: found the byte 0x{raw[error.start]:02x}; a recipe is UTF-8 text"
        raise RecipeError(message, remedy="Save the file as UTF-8.") from error
    return parse(text, label, lambda line: f"{label}:{line}")


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return (
            f"{path.parent} is no directory either. `pgrpo recipes` lists the recipes that come with pgrpo."
        )
    near = nearest(path.stem, (entry.stem for entry in _yaml_files(path.parent)))
    if near:
        return f"Did you mean {next(entry for entry in _yaml_files(path.parent) if entry.stem == near)}?"
    return "`pgrpo recipes` lists the recipes that come with pgrpo; `pgrpo recipes copy NAME` copies one."


def _recipes_in(path: Path) -> str | None:
    names = [entry.name for entry in _yaml_files(path)]
    return f"It holds {', '.join(names)}." if names else None


def _yaml_files(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return []


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
