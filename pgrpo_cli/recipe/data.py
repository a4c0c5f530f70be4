"""`data`: prompts with preference groups, and how they are split."""

from __future__ import annotations

from pydantic import Field

from .base import Section
from .sources import Source


class DataSection(Section):
    """Prompts and their preference groups."""

    source: Source = Field(description="Where the prompts come from.")
    eval_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of each preference group's prompts held out, where the source has no split.",
    )
    max_prompt_tokens: int = Field(
        1024,
        ge=8,
        description="Longest prompt, in tokens, chat template included. Longer ones are rejected, not cut.",
    )
