"""Rules between keys of a recipe: for each, a recipe that breaks it and one beside it that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgrpo_cli.recipe.base import Section

from .recipes import load_data, problems_of

RuleCase = tuple[str, str, str, dict[str, Any], dict[str, Any]]
"""Rule or section, the path and words of its problem, a recipe that breaks it, and one that just does not."""


def assert_rule(folder: Path, case: RuleCase) -> None:
    """The rule speaks of the one recipe, and is silent about the other."""
    _, path, words, broken, kept = case
    (problem,) = problems_of(folder, broken)
    assert ".".join(map(str, problem.path)) == path
    assert words in problem.text
    assert load_data(folder, kept)


def sections_with_rules() -> set[str]:
    """The names of all classes of sections that define rules between their keys."""
    found, classes = set(), list(Section.__subclasses__())
    while classes:
        section = classes.pop()
        classes += section.__subclasses__()
        if "violations" in vars(section) and section.__module__.startswith("pgrpo_cli."):
            found.add(section.__name__)
    return found
