"""The base of every recipe section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, strict about keys, finite numbers only.

    Units stand in the field descriptions; derived values are properties.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
