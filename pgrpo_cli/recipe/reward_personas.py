"""`rewards` with `type: personas`: the taste of the synthetic personas."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .reward_base import RewardBase


class PersonasReward(RewardBase):
    """Style and genre of the seven synthetic personas, with each one's own scale, offset and difficulty."""

    parts: ClassVar[tuple[str, ...]] = ("style", "genre")

    type: Literal["personas"] = "personas"
    style_weight: float = Field(0.6, ge=0, description="Share of the style part.")
    genre_weight: float = Field(0.4, ge=0, description="Share of the genre part.")
