"""What every reward has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from .base import Section


class RewardBase(Section):
    """Fields that every reward has."""

    parts: ClassVar[tuple[str, ...]] = ("value",)
    """Names of the parts that it records; empty where only the built reward knows."""

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
