"""What every reward has, and what a reward declares about itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from pydantic import Field

from .base import Section
from .messages import KeyPath
from .violation import Violation


class RewardBase(Section):
    """Fields that every reward has."""

    parts: ClassVar[tuple[str, ...]] = ("value",)
    """Names of the parts that it records; empty where only the built reward knows."""
    cheap: ClassVar[bool] = False
    """Whether `prepare` scores reference answers with it: it needs no model, service, extra or foreign code,
    and its value of a reference answer says something."""
    by_preference_group: ClassVar[bool | None] = False
    """Whether its value of a text depends on the preference group; None if it is not known."""
    value_range: ClassVar[tuple[float, float] | None] = None
    """Bounds of its value; None where they depend on its settings or are unknown."""

    weight: float = Field(1.0, ge=-1e6, le=1e6, description="Factor of this reward in the sum.")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Name under which its parts are recorded. Null: its type.",
    )
    preference_groups: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Preference groups it applies to. Null: all. A completion of another one gets 0 from it.",
    )

    @property
    def label(self) -> str:
        """The name under which parts are recorded."""
        return self.name or self.type  # type: ignore[attr-defined]

    def violations(self, path: KeyPath) -> Iterable[Violation]:
        """Rules between its keys that it breaks; `path` is its own. See `rules.py`."""
        return ()


def interval(path: KeyPath, low: float | None, high: float | None) -> Iterator[Violation]:
    """`min` and `max` enclose something, and are not both left out."""
    if low is None and high is None:
        rule = "min and max are both null, so that every text is worth the full reward; set one of them"
        yield Violation((*path, "min"), low, rule)
    elif low is not None and high is not None and low > high:
        yield Violation((*path, "min"), low, f"must not be greater than max ({high:.12g}); swap them")
