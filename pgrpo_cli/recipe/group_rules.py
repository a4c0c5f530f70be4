"""Rules between keys of `data.preference_groups` and `data.split_by`; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

from .preference_groups import BinsGroups, ClusterGroups, UserGroups
from .schema import Recipe
from .violation import Violation


def bins_have_names(recipe: Recipe) -> Iterator[Violation]:
    """One name an interval."""
    section = recipe.data.preference_groups
    if isinstance(section, BinsGroups) and section.names and len(section.names) != len(section.edges) + 1:
        rule = f"{len(section.edges)} edges make {len(section.edges) + 1} intervals; give as many names"
        yield Violation(("data", "preference_groups", "names"), list(section.names), rule)


def embedding_has_a_model(recipe: Recipe) -> Iterator[Violation]:
    """Embeddings come from a model, and nothing else does."""
    section = recipe.data.preference_groups
    if not isinstance(section, ClusterGroups):
        return
    path, model = ("data", "preference_groups", "model"), section.model
    if section.features == "embedding" and model is None:
        yield Violation(path, model, "required with features 'embedding': the folder of the model; set it")
    if section.features != "embedding" and model is not None:
        rule = f"used with features 'embedding' only (found {section.features!r}); remove it, or set features"
        yield Violation(path, model, rule)


def users_held_out_have_groups(recipe: Recipe) -> Iterator[Violation]:
    """A user who is held out is in a preference group that others train."""
    if recipe.data.split_by == "user" and isinstance(recipe.data.preference_groups, UserGroups):
        rule = (
            "with data.preference_groups of type 'user' no training prompt would be left of a held-out user; "
            "set it to text or time"
        )
        yield Violation(("data", "split_by"), "user", rule)
