"""`data.source`: where prompts come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section
from .interactions import GoodreadsSource, MovielensSource


class PersonasSource(Section):
    """A synthetic task: seven personas of very unequal frequency, each with a style and favourite genre."""

    type: Literal["personas"] = "personas"
    prompts: int = Field(640, ge=7, description="Number of training prompts, over all personas.")
    eval_prompts_per_group: int = Field(8, ge=1, description="Held-out prompts of each persona.")


class JsonlSource(Section):
    """JSON lines: an object a line with a prompt (or messages), a preference group, and any other columns."""

    type: Literal["jsonl"] = "jsonl"
    path: str = Field(
        description="File or glob pattern; relative paths start at the recipe's folder. `.gz` is read too."
    )
    eval_path: str | None = Field(
        None,
        description="Held-out prompts. Null: a share of the prompts of every preference group is held out.",
    )
    prompt_column: str = Field("prompt", description="Column with the prompt's text.")
    messages_column: str = Field(
        "messages",
        description="Column with a list of {role, content}; used where the prompt column is missing.",
    )
    preference_group_column: str = Field(
        "preference_group", description="Column with the preference group's id."
    )


Source = Annotated[
    PersonasSource | JsonlSource | MovielensSource | GoodreadsSource, Field(discriminator="type")
]
