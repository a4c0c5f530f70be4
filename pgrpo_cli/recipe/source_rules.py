"""Rules between keys of `data.source`; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

from .interactions import GoodreadsSource
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
