"""Rules between keys of a recipe: for each, a recipe that breaks it and one beside it that does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pgrpo_cli.recipe.rules import RULES

from .recipes import load_data, problems_of

RuleCase = tuple[str, str, str, dict[str, Any], dict[str, Any]]
"""Rule, the path and words of its problem, a recipe that breaks it, and one that just does not."""


def assert_rule(folder: Path, case: RuleCase) -> None:
    """The rule speaks of the one recipe, and is silent about the other."""
    _, path, words, broken, kept = case
    (problem,) = problems_of(folder, broken)
    assert ".".join(map(str, problem.path)) == path
    assert words in problem.text
    assert load_data(folder, kept)


def assert_all_have_cases(module: ModuleType, cases: Sequence[RuleCase]) -> None:
    """The cases are those of all rules that the module defines and recipes are held to."""
    own = {rule.__name__ for rule in RULES if rule.__module__ == module.__name__}
    assert {case[0] for case in cases} == own
