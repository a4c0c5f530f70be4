"""`data.conditioning`: how the model is told who asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from .base import GroupName, Section, TemplateText, Violation, rating_scale

ABOUT_THE_USER = "{{ system_prompt }}\n\nAbout the user: {{ profile }}"


class PromptConditioning(Section):
    """By the prompt itself: its messages, and the system message that `template` makes of the row."""

    type: Literal["prompt"] = "prompt"
    template: TemplateText | None = Field(
        None,
        description="Jinja template of the system message, in place of one in the row. Variables: the row's "
        "columns (`row['a name']` for names that are no identifiers), and `system_prompt`, "
        "`preference_group` and `user_id`, where they are known. Where it writes nothing, "
        "`model.system_prompt` stands there. Null: messages stay as they are.",
    )


class ProfilesConditioning(Section):
    """By a description of each preference group in the system message."""

    type: Literal["profiles"] = "profiles"
    profiles: dict[GroupName, str] | Literal["auto"] = Field(
        description="A description, a sentence or more, of each preference group: {id: text}. `auto`: from "
        "what defines the groups (what sets a cluster apart, an interval, the id).",
    )
    template: TemplateText = Field(
        ABOUT_THE_USER,
        min_length=1,
        description="Jinja template of the system message. Variables: those of type 'prompt', and `profile`. "
        "`system_prompt` is the row's own system message, else `model.system_prompt`, else empty.",
    )


class ExamplesConditioning(Section):
    """By earlier rated answers of the user, or of the preference group, as turns before the question.

    Each is the row's last user message and its answer, and the user's next message says whether they liked
    it. The last one is an answer that they liked; where there is none, the prompt gets no examples. They are
    training rows; if a user is held out as a whole, they are this user's other rows. Rows with a time get
    only older examples. A row with the same text or the same answer is never an example, nor is
    another turn of the same conversation.
    """

    type: Literal["examples"] = "examples"
    count: int = Field(3, ge=1, le=100, description="Most examples before a question.")
    by: Literal["user", "preference_group"] = Field("user", description="Whose answers serve as examples.")
    answer_column: str = Field("reference", min_length=1, description="Column with the answer.")
    rating_column: str | None = Field(
        None,
        description="Column that says how good the answer is: a number, or true and false (1 and 0), "
        "also as text. Above the middle of the scale it was liked, below it disliked. Null: every answer was "
        "liked.",
    )
    rating_min: float = Field(0.0, description="The worst rating.")
    rating_max: float = Field(1.0, description="The best rating.")

    def violations(self) -> Iterator[Violation]:
        """A scale has two ends, and rates something."""
        return rating_scale(self.rating_column, self.rating_min, self.rating_max)


Conditioning = Annotated[
    PromptConditioning | ProfilesConditioning | ExamplesConditioning, Field(discriminator="type")
]
