"""From a document to a recipe, or to every problem it has."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .base import Section
from .explain import explain
from .keys import KeyCheck, is_inside
from .messages import InvalidRecipe, KeyPath, Problem, show
from .rules import violations
from .schema import Recipe
from .shape import data_path, item_of
from .yaml_lines import Document

_LINE = re.compile(r":(\d+)$")


def check(document: Document) -> Recipe:
    """The recipe that `document` describes. Raises InvalidRecipe with all of its problems at once."""
    if not isinstance(document.data, dict):
        where = document.origin(()).where
        text = "the file is empty" if document.data is None else f"found {show(document.data)}"
        rule = f"{text}; a recipe is a mapping of sections, such as `model:` and `rewards:`"
        raise InvalidRecipe(document.label, [Problem(where, (), rule)])
    keys = KeyCheck(document, Recipe)
    recipe, found, invalid = _validate(keys, document)
    problems = [*document.problems, *keys.problems, *found]
    for violation in violations(_valid_sections(keys.data, invalid)):
        written = _written(keys, violation.path)
        problems.append(Problem(document.origin(written).where, written, str(violation)))
    if problems or recipe is None:
        raise InvalidRecipe(document.label, sorted(problems, key=_line))
    return recipe


def _validate(keys: KeyCheck, document: Document) -> tuple[Recipe | None, list[Problem], set[KeyPath]]:
    """The recipe if pydantic takes it, else its problems; and the paths of what is invalid in any way."""
    invalid = set(keys.broken)
    try:
        # JSON's strict rules are a recipe's: true is no number, "3" is no number, a list may be a tuple.
        return Recipe.model_validate_json(json.dumps(keys.data), strict=True), [], invalid
    except ValidationError as error:
        errors = error.errors(include_url=False)
    problems: dict[KeyPath, Problem] = {}
    for detail in errors:
        path, entered = data_path(Recipe, detail["loc"])
        if entered is not None and isinstance(_at(keys.data, path[:entered]), list) and len(path) == entered:
            # Text or a list of text: the branch that wants text has nothing to say about a list.
            continue
        invalid.add(path)
        if is_inside(path, keys.broken) or path in problems:
            continue
        written = _written(keys, path)
        text = explain(detail, Recipe, keys.data, path, written, document)
        problems[path] = Problem(document.origin(written).where, written, text)
    return None, list(problems.values()), invalid


def _valid_sections(data: dict[str, Any], invalid: set[KeyPath]) -> dict[str, Any]:
    """Every top-level section without a problem, defaults included; rewards one by one, by their index."""
    sections: dict[str, Any] = {}
    for name, field in Recipe.model_fields.items():
        if name == "rewards" and isinstance(data.get(name), list):
            reward = item_of(field.annotation)
            valid = [(i, entry) for i, entry in enumerate(data[name]) if not _touches((name, i), invalid)]
            sections[name] = {index: _load(reward, entry) for index, entry in valid}
        elif _touches((name,), invalid):
            continue
        elif name in data:
            sections[name] = _load(field.annotation, data[name])
        elif not field.is_required():
            sections[name] = field.get_default(call_default_factory=True)
    return sections


def _load(annotation: Any, value: Any) -> Section:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    return adapter.validate_json(json.dumps(value), strict=True)  # type: ignore[no-any-return]


def _touches(path: KeyPath, invalid: set[KeyPath]) -> bool:
    return any(other[: len(path)] == path or path[: len(other)] == other for other in invalid)


def _written(keys: KeyCheck, path: KeyPath) -> KeyPath:
    """`path` with the spelling of the document; keys that are not in it stay as they are."""
    for length in range(len(path), -1, -1):
        if path[:length] in keys.written:
            return keys.written[path[:length]] + path[length:]
    return path


def _at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data


def _line(problem: Problem) -> tuple[int, int]:
    """Order of problems: by line of the file, overrides last."""
    line = None if problem.where.startswith("--set ") else _LINE.search(problem.where)
    return (0, int(line[1])) if line else (1, 0)
