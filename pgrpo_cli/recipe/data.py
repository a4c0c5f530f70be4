"""`data`: prompts with preference groups, and how they are split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section
from .conditioning import Conditioning, PromptConditioning
from .preference_groups import ColumnGroups, PreferenceGroups
from .sources import Source


class DataSection(Section):
    """Prompts and their preference groups."""

    source: Source = Field(description="Where the prompts come from.")
    preference_groups: PreferenceGroups = Field(
        ColumnGroups(), description="How prompts come into preference groups."
    )
    conditioning: Conditioning = Field(PromptConditioning(), description="How the model is told who asks.")
    split_by: Literal["text", "user", "time"] = Field(
        "text",
        description="What is held out, where the source has no split. `text`: prompts, equal texts together. "
        "`user`: whole users. `time`: the latest prompts of users. No text is on both sides.",
    )
    eval_fraction: float = Field(
        0.1,
        ge=1e-6,
        lt=1,
        description="Share of each preference group's prompts held out, where the source has no split; "
        "with `split_by: user`, of its users.",
    )
    max_prompt_tokens: int = Field(
        1024,
        ge=8,
        le=10_000_000,
        description="Longest prompt, in tokens, chat template included. Longer ones are rejected, not cut.",
    )
    max_rejected_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of rows that may be rejected as broken; beyond it nothing is prepared. Of "
        "one file or one preference group 4 times that share may be. Up to 2 broken rows are always passed "
        "over, unless it is 0. Rows that the limits above or a public set leave out do not count.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="Seed of everything about the data: the split, drawn and clustered preference groups, "
        "made-up prompts. Null: the recipe's. Set, it lets runs of several seeds share data.",
    )
