"""Rules between keys of `data`; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

from .conditioning import ExamplesConditioning
from .interactions import GoodreadsSource
from .preference_groups import BinsGroups, ClusterGroups, UserGroups
from .presets import RatedSet
from .schema import Recipe
from .sources import ColumnMapping
from .violation import Violation


def one_reference(recipe: Recipe) -> Iterator[Violation]:
    """The reference comes from one place."""
    source = recipe.data.source
    if isinstance(source, ColumnMapping) and source.drop_last_assistant and source.reference_column:
        rule = "the reference is the last message with drop_last_assistant; remove the one or the other"
        yield Violation(("data", "source", "reference_column"), source.reference_column, rule)


def held_out_files_beside_others(recipe: Recipe) -> Iterator[Violation]:
    """Held-out files of a set go with training files."""
    source = recipe.data.source
    if isinstance(source, RatedSet) and source.eval_path is not None and source.path is None:
        rule = "goes with data.source.path; set that, too, or remove it (eval_split chooses the hub's split)"
        yield Violation(("data", "source", "eval_path"), source.eval_path, rule)


def review_lengths(recipe: Recipe) -> Iterator[Violation]:
    """`min_words` and `max_words` enclose something."""
    source = recipe.data.source
    if isinstance(source, GoodreadsSource) and source.min_words > source.max_words:
        rule = f"must not be greater than data.source.max_words ({source.max_words}); lower it or raise that"
        yield Violation(("data", "source", "min_words"), source.min_words, rule)


def examples_have_a_scale(recipe: Recipe) -> Iterator[Violation]:
    """The scale of the ratings of examples has two ends, and rates something."""
    section = recipe.data.conditioning
    if not isinstance(section, ExamplesConditioning):
        return
    path, low, high = ("data", "conditioning"), section.rating_min, section.rating_max
    if low >= high:
        rule = f"must be less than rating_max ({high:.12g}); swap them"
        yield Violation((*path, "rating_min"), low, rule)
    elif section.rating_column is None and (low, high) != (0, 1):
        rule = "rating_min and rating_max are those of a column: name it, or leave them out"
        yield Violation((*path, "rating_column"), None, rule)


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
