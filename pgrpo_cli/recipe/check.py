"""Turns a document into a recipe, or reports all of its problems.

pydantic checks field by field. A misspelled key or `type` is corrected in the document once it is reported,
and the document is checked again, so that the values below it are checked, too. Rules between keys are
asked of sections without another problem only.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .base import PATHS_FROM, BrokenRules
from .explain import KEY_ERRORS, KeyProblem, explain, explain_key
from .messages import MOST_PROBLEMS, InvalidRecipe, KeyPath, Problem, show
from .schema import Recipe, broken_rules
from .shape import place_of
from .yaml_lines import Document

_LINE = re.compile(r":(\d+)$")
_OLD, _SECTION = ("data", "source", "system_template"), ("data", "conditioning")
_TYPES = ("jsonl", "csv", "parquet", "datasets")


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
    _move_old_keys(document)
    return _Check(document, {} if paths_from is None else {PATHS_FROM: paths_from}).recipe()


def _move_old_keys(document: Document) -> None:
    """Make `data.conditioning` of `data.source.system_template` of older recipes; it keeps its line.

    Where a recipe has both, it is left in its old place, where there is no such key.
    """
    data = document.data.get("data")
    if not isinstance(data, dict) or not isinstance(source := data.get("source"), dict):
        return
    if source.get("type") not in _TYPES or _OLD[-1] not in source:
        return
    if source[_OLD[-1]] is not None:
        if _SECTION[-1] in data:
            return
        data[_SECTION[-1]] = {"type": "prompt", "template": source[_OLD[-1]]}
        origin = document.origin(_OLD)
        document.origins[_SECTION] = document.origins[*_SECTION, "template"] = origin
    data["source"] = {key: value for key, value in source.items() if key != _OLD[-1]}


class _Check:
    """The problems of one document. `reported` are the paths that pydantic or a rule objected to."""

    def __init__(self, document: Document, context: dict[str, Any]) -> None:
        self.document = document
        self.context = context
        self.problems = list(document.problems)
        self.reported: set[KeyPath] = set()

    def recipe(self) -> Recipe:
        """The recipe. Raises InvalidRecipe."""
        recipe, errors = self._validated()
        while self._corrected(errors):
            recipe, errors = self._validated()
        places = [
            (error, place_of(Recipe, error["loc"])) for error in errors if error["type"] not in KEY_ERRORS
        ]
        # pydantic also says of a list or mapping with an invalid entry that it is too short, or no text.
        above = {place.path[:length] for _, place in places for length in range(len(place.path))}
        broken: list[tuple[KeyPath, BrokenRules]] = []
        for error, place in places:
            rules = error.get("ctx", {}).get("error")
            if isinstance(rules, BrokenRules):
                broken.append((place.path, rules))
            elif not self._is_known(place.path) and place.path not in above:
                self._report(place.path, explain(error, place, self.document))
        self._report_rules(broken, recipe)
        if self.problems or recipe is None:
            raise InvalidRecipe(self.document.label, sorted(self.problems, key=_line))
        return recipe

    def _report_rules(self, broken: list[tuple[KeyPath, BrokenRules]], recipe: Recipe | None) -> None:
        """A rule that reads a key with a problem of its own would speak of what follows from it."""
        for section, rules in broken:
            if not any(path[: len(section)] == section for path in self._troubled()):
                for violation in rules.violations:
                    self._report((*section, *violation.path), str(violation))
        for violation in broken_rules(self._valid_sections(recipe)):
            self._report(violation.path, str(violation))

    def _validated(self) -> tuple[Recipe | None, list[ErrorDetails]]:
        try:
            return _read(Recipe, self.document.data, self.context), []
        except ValidationError as error:
            return None, error.errors(include_url=False)

    def _corrected(self, errors: list[ErrorDetails]) -> bool:
        """Report unknown keys and `type`s, and put the nearest known ones in their places. Whether there were
        new ones.
        """
        before = len(self.problems)
        for error in errors:
            if error["type"] in KEY_ERRORS:
                found = explain_key(error, self.document)
                if not self._is_known(found.path):
                    self._report(found.path, found.text)
                    self._correct(found)
        return len(self.problems) > before

    def _correct(self, found: KeyProblem) -> None:
        section = self.document.at(found.section)
        if found.renamed is not None:
            key, name = found.renamed
            if not isinstance(section[key], (dict, list)):
                # The guess may be wrong, so nothing is said about the value.
                self.reported.add((*found.section, name))
            self.document.rename(found.section, key, name)
        elif found.tag is not None:
            section["type"] = found.tag

    def _valid_sections(self, recipe: Recipe | None) -> dict[str, Any]:
        """The top-level sections that have no problem, by name."""
        if recipe is not None and not self._troubled():
            return dict(recipe)
        if () in self._troubled():
            # Something is wrong with the recipe as a whole, such as a key that has no name.
            return {}
        names = Recipe.model_fields.keys() - {path[0] for path in self._troubled()}
        sections: dict[str, Any] = {}
        for name in names:
            field = Recipe.model_fields[name]
            if name in self.document.data:
                sections[name] = _read(field.annotation, self.document.data[name], self.context)
            elif not field.is_required():
                sections[name] = field.get_default(call_default_factory=True)
        return sections

    def _troubled(self) -> set[KeyPath]:
        """The paths of all values that have a problem."""
        return self.reported | self.document.broken

    def _is_known(self, path: KeyPath) -> bool:
        """Whether the problem follows from one that is reported: of the same value, or of unreadable text."""
        return path in self.reported or any(path[: len(root)] == root for root in self.document.broken)

    def _report(self, path: KeyPath, text: str) -> None:
        self.reported.add(path)
        self.problems.append(Problem(self.document.origin(path).where, path, text))
        # Finding the nearest known key for thousands takes minutes.
        if len(self.problems) > MOST_PROBLEMS:
            raise InvalidRecipe(self.document.label, sorted(self.problems, key=_line))


def _read(annotation: Any, data: Any, context: dict[str, Any]) -> Any:
    # Recipes follow the strict rules of JSON: true and "3" are not numbers, and a list may become a tuple.
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    return adapter.validate_json(json.dumps(data), strict=True, context=context)


def _line(problem: Problem) -> tuple[int, int]:
    """Order of problems: by line of the file, overrides last."""
    line = None if problem.where.startswith("--set ") else _LINE.search(problem.where)
    return (0, int(line[1])) if line else (1, 0)
