"""Turns a document into a recipe, or reports all of its problems."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .base import Section
from .explain import Explainer
from .keys import KeyCheck
from .messages import MOST_PROBLEMS, InvalidRecipe, KeyPath, Problem, show
from .moved import move_old_keys
from .path_text import unusable_paths
from .rules import violations
from .schema import Recipe
from .shape import data_path, item_of, section_of, value_at
from .yaml_lines import Document

_LINE = re.compile(r":(\d+)$")


def check(document: Document, paths_from: Path | None = None) -> Recipe:
    """The recipe that `document` describes. Raises InvalidRecipe with all of its problems at once.

    With `paths_from`, the folder where relative paths start, those that name nothing on this machine count.
    """
    if not isinstance(document.data, dict):
        text = "the file is empty" if document.data is None else f"found {show(document.data)}"
        rule = f"{text}; a recipe is a mapping of sections, such as `model:` and `rewards:`"
        raise InvalidRecipe(
            document.label, [*document.problems, Problem(document.origin(()).where, (), rule)]
        )
    move_old_keys(document)
    keys = KeyCheck(document, Recipe)
    recipe, found, invalid = _validate(keys, document)
    problems = [*document.problems, *keys.problems, *found]
    if len(problems) > MOST_PROBLEMS:
        raise InvalidRecipe(document.label, sorted(problems, key=_line))
    readable = recipe or _readable(Recipe, keys.data, (), invalid)
    unusable = unusable_paths(readable, paths_from) if paths_from is not None else ()
    for violation in chain(violations(readable, partial=recipe is None), unusable):
        written = _written(keys, violation.path)
        problems.append(Problem(document.origin(written).where, written, str(violation)))
    if problems or recipe is None:
        raise InvalidRecipe(document.label, sorted(problems, key=_line))
    return recipe


def _validate(keys: KeyCheck, document: Document) -> tuple[Recipe | None, list[Problem], set[KeyPath]]:
    """The recipe if pydantic accepts it, else its problems; and the paths of all invalid values."""
    try:
        # Recipes follow the strict rules of JSON: true and "3" are not numbers, and a list may become a
        # tuple.
        return Recipe.model_validate_json(json.dumps(keys.data), strict=True), [], set(keys.broken)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    explainer = Explainer(Recipe, keys.data, document)
    problems: dict[KeyPath, Problem] = {}
    for detail in errors:
        path, entered = data_path(Recipe, detail["loc"])
        if (
            _is_echo(detail, keys.data, path, entered)
            or path in problems
            or any(path[: len(root)] == root for root in keys.broken)
        ):
            continue
        written = _written(keys, path)
        problems[path] = Problem(
            document.origin(written).where, written, explainer.text(detail, path, written)
        )
    return None, list(problems.values()), {*keys.broken, *problems}


def _is_echo(detail: ErrorDetails, data: Any, path: KeyPath, entered: int | None) -> bool:
    """Whether another error of pydantic describes the same problem better than `detail`."""
    if len(path) == entered:
        # Text or a list of text: the branch that wants text has nothing to say about a list.
        return isinstance(value_at(data, path), list)
    # pydantic reports a list as too short if its entries are invalid.
    return detail["type"] == "too_short" and len(value_at(data, path)) >= detail["ctx"]["min_length"]


def _readable(annotation: Any, value: Any, path: KeyPath, invalid: set[KeyPath]) -> Any:
    """`value` validated, without the fields that are invalid: reading one of them is an AttributeError."""
    if not any(other[: len(path)] == path for other in invalid):
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        return adapter.validate_json(json.dumps(value), strict=True)
    section = None if path in invalid else section_of(annotation, value)
    if isinstance(value, list) and path not in invalid:
        item = item_of(annotation)
        return tuple(_readable(item, entry, (*path, index), invalid) for index, entry in enumerate(value))
    if section is None:
        return _without(Section, set(), {})
    broken = {name for name in section.model_fields if (*path, name) in invalid}
    fields = {
        name: _readable(section.model_fields[name].annotation, entry, (*path, name), invalid)
        for name, entry in value.items()
        if name not in broken
    }
    return _without(section, broken, fields)


def _without(section: type[Section], broken: set[str], fields: dict[str, Any]) -> Section:
    """A section that has no value at all for the `broken` fields, not even a default."""
    partial = section.model_construct(**fields)
    for name in broken:
        partial.__dict__.pop(name, None)
    return partial


def _written(keys: KeyCheck, path: KeyPath) -> KeyPath:
    """`path` with the spelling of the document; keys that are not in it stay as they are."""
    for length in range(len(path), -1, -1):
        if path[:length] in keys.written:
            return keys.written[path[:length]] + path[length:]
    return path


def _line(problem: Problem) -> tuple[int, int]:
    """Order of problems: by line of the file, overrides last."""
    line = None if problem.where.startswith("--set ") else _LINE.search(problem.where)
    return (0, int(line[1])) if line else (1, 0)
