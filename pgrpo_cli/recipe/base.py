"""The base of every recipe section."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

MOST_WHOLE = 2**31 - 1
MOST, LEAST = 1e18, 1e-15
"""Bounds on the size of numbers, 0 apart: what is squared, summed or divided by stays a number."""


class Section(BaseModel):
    """Frozen, strict about keys, finite numbers of a common size only.

    Units stand in the field descriptions; derived values are properties.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _of_common_size(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > MOST_WHOLE:
                raise ValueError(f"must be a whole number from -{MOST_WHOLE} to {MOST_WHOLE}")
            if isinstance(number, float) and number and not LEAST <= abs(number) <= MOST:
                raise ValueError(f"must be 0 or of a size between {LEAST:g} and {MOST:g}")
        return value
