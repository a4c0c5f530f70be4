"""What rewards have in common, and what a reward declares about itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from .base import GroupName, Section, Violation, rating_scale
from .model import ModelName, NoQuantization, Quantization


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
    preference_groups: tuple[GroupName, ...] | None = Field(
        None,
        min_length=1,
        description="Preference groups it applies to. Null: all. A completion of another one gets 0 from it.",
    )

    @property
    def label(self) -> str:
        """The name under which parts are recorded."""
        return self.name or self.type  # type: ignore[attr-defined]


def interval(low: float | None, high: float | None) -> Iterator[Violation]:
    """`min` and `max` enclose something, and are not both left out."""
    if low is None and high is None:
        rule = "min and max are both null, so that every text is worth the full reward; set one of them"
        yield Violation(("min",), low, rule)
    elif low is not None and high is not None and low > high:
        yield Violation(("min",), low, f"must not be greater than max ({high:.12g}); swap them")


class PretrainedFields(Section):
    """Which model, and how much of it at once. It loads from safetensors, without remote code."""

    model: ModelName = Field(
        description="A hub id, or a local directory; a relative path starts at the recipe's folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    quantization: Quantization = Field(
        NoQuantization(), description="How this model's weights are stored on the GPU or CPU."
    )
    max_tokens: int = Field(
        1024, ge=8, description="Longest input, in tokens; the beginning of a longer one is cut off."
    )
    batch_size: int = Field(
        16, ge=1, description="Inputs computed together; halved until they fit into the GPU's memory."
    )


class ReferenceReward(RewardBase):
    """Fields of every reward that compares with a reference.

    The part `similarity` is the similarity s itself, in [0, 1]. The value is s too, where no rating is named.
    """

    parts: ClassVar[tuple[str, ...]] = ("value", "similarity")
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    reference_column: str = Field(
        "reference",
        description="Column with the reference answer, or a list of them, of which the most similar counts.",
    )
    rating_column: str | None = Field(
        None,
        description="Column that says how good the reference is: a number, or true and false (1 and 0), "
        "also as text. "
        "The value goes from the similarity s for the best through 0.5 to 1 - s for the worst; it is 0 for a "
        "completion without a letter or digit. "
        "Null: every reference is a good one.",
    )
    rating_min: float = Field(0.0, description="The worst rating.")
    rating_max: float = Field(1.0, description="The best rating.")

    def violations(self) -> Iterator[Violation]:
        """A scale has two ends, and rates something."""
        return rating_scale(self.rating_column, self.rating_min, self.rating_max)
