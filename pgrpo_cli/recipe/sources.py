"""`data.source`: where prompts come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .base import PathText, Section, TemplateText, Violation
from .public_sets import (
    GoodreadsSource,
    HelpSteer2Source,
    MovielensSource,
    PersonalLLMSource,
    PrismSource,
    UltraFeedbackSource,
)

MESSAGES_COLUMNS = ("messages", "conversations")


class PersonasSource(Section):
    """A synthetic task: seven personas of very unequal frequency, each with a style and favourite genre."""

    type: Literal["personas"] = "personas"
    prompts: int = Field(
        640, ge=7, le=1_000_000, description="Number of training prompts, over all personas."
    )
    eval_prompts_per_group: int = Field(8, ge=1, le=100_000, description="Held-out prompts of each persona.")


class ColumnMapping(Section):
    """Which columns of a table make a prompt. All columns that are not named here go to the rewards."""

    prompt_column: str = Field("prompt", description="Column with the prompt's text.")
    messages_column: str | None = Field(
        None,
        description="Column with a list of {role, content} or, as ShareGPT has them, {from, value}; used "
        "where the prompt column is missing. Null: `messages`, or `conversations` where there is none.",
    )
    template: TemplateText | None = Field(
        None,
        description="Jinja template of the user's message over the row's columns (`row['a name']` for names "
        "that are no identifiers); it takes the place of both columns. A row that it fails for is rejected.",
    )
    preference_group_column: str = Field(
        "preference_group", description="Column with the preference group's id."
    )
    user_column: str | None = Field(None, description="Column with the user's id.")
    time_column: str | None = Field(
        None, description="Column with the time: a number, or an ISO 8601 date (UTC unless it says another)."
    )
    reference_column: str | None = Field(
        None, description="Column with an answer to compare with; rewards find it as `reference`."
    )
    drop_last_assistant: bool = Field(
        False,
        description="Where messages end with the assistant's, that one becomes the rewards' `reference`. "
        "False: such rows are rejected.",
    )
    limit: int | None = Field(
        None, ge=1, description="Read that many rows only, of training and held-out rows each; for trying."
    )

    def violations(self) -> Iterator[Violation]:
        """The reference comes from one place."""
        if self.drop_last_assistant and self.reference_column:
            rule = "the reference is the last message with drop_last_assistant; remove the one or the other"
            yield Violation(("reference_column",), self.reference_column, rule)

    @property
    def messages_columns(self) -> tuple[str, ...]:
        """Columns that may hold the messages, in the order in which they are looked for."""
        return MESSAGES_COLUMNS if self.messages_column is None else (self.messages_column,)


class FilesSource(Section):
    """Files on this machine."""

    path: PathText = Field(
        description="File or glob pattern; relative paths start at the recipe's folder. Files of text may be "
        "compressed with gzip."
    )
    eval_path: PathText | None = Field(
        None,
        description="Held-out prompts. Null: a share of the prompts of every preference group is held out.",
    )


class TextSource(FilesSource):
    """Files of text."""

    encoding: Literal["utf-8", "latin-1", "cp1252", "utf-16"] | None = Field(
        None,
        description="Encoding of the text; a byte order mark is skipped. Null: the one that the byte order "
        "mark says, UTF-8 where there is none.",
    )


class JsonlSource(ColumnMapping, TextSource):
    """JSON lines: one object per line with a prompt (or messages), a preference group, and any other columns.

    A JSON array of such objects, and indented JSON, is read too.
    """

    type: Literal["jsonl"] = "jsonl"


class CsvSource(ColumnMapping, TextSource):
    """CSV with a header row. Cells are text, an empty one is null; messages are JSON in a cell.

    A cell that is a JSON list of texts, such as `["Alien (1979)", "Heat (1995)"]`, is that list, except in
    the columns of the prompt and the reference.
    """

    type: Literal["csv"] = "csv"
    delimiter: Literal[",", ";", "\t", "|"] | None = Field(
        None,
        description="What separates cells; `tab` is a tab too. Null: what Excel's line `sep=;` or else the "
        "first rows show.",
    )

    @field_validator("delimiter", mode="before")
    @classmethod
    def _a_tab(cls, value: Any) -> Any:
        # Between single quotes, and without quotes, YAML reads \\t as two characters.
        return "\t" if value in ("\\t", "tab") else value


class ParquetSource(ColumnMapping, FilesSource):
    """Parquet files. Columns that JSON cannot hold, such as binary ones, are left out."""

    type: Literal["parquet"] = "parquet"


class DatasetsSource(ColumnMapping):
    """A data set of the Hugging Face Hub, or one saved by `save_to_disk`. Nothing of its code is run."""

    type: Literal["datasets"] = "datasets"
    path: PathText = Field(
        description="Folder that `save_to_disk` wrote, relative to the recipe's, or OWNER/NAME of the hub."
    )
    name: str | None = Field(None, description="Configuration of the hub's data set. Null: its default.")
    split: str = Field("train", description="Split to train on.")
    eval_split: str | None = Field(
        None,
        description="Split held out. Null: a share of the prompts of every preference group is held out.",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit of the hub's data set. Null: its main branch."
    )
    streaming: bool = Field(
        False, description="Read the hub's rows over the network as they come, without a copy on disk."
    )


class OpinionsSource(Section):
    """Files of what people said of answers: what both kinds have in common."""

    path: PathText | tuple[PathText, ...] = Field(
        description="File or glob pattern, or a list of them; relative paths start at the recipe's folder.",
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return (self.path,) if isinstance(self.path, str) else self.path


class FeedbackSource(OpinionsSource):
    """Ratings and picks as `pgrpo chat`, `taste` and `serve` keep them: `feedback.jsonl` and `taste.jsonl`.

    One prompt per rating or pick, for the user of the record. The preference group is that of the record or,
    if it has none, its user. `answer` is the text that the user wrote instead, or the rated answer, or the
    picked one, and `rating` is the user's opinion of it: 1, -1, or 0 for a tie. `reference` and `chosen` are
    an answer with rating 1, `rejected` is an answer that was liked less. Rewards that compare can use every
    row with `reference_column: answer`, `rating_column: rating`, `rating_min: -1`.
    """

    type: Literal["feedback"] = "feedback"


class OpenWebuiSource(OpinionsSource):
    """Feedback as Open WebUI exports it (Admin Panel, Evaluations, Feedbacks): a JSON array.

    One prompt per rating, with the conversation up to the rated answer and the columns of `type: feedback`,
    and also `comment`, `reason`, `details_rating` (1 to 10) and `model` if the export has them. Each user of
    Open WebUI is a preference group.
    """

    type: Literal["open_webui"] = "open_webui"


Source = Annotated[
    PersonasSource
    | JsonlSource
    | CsvSource
    | ParquetSource
    | DatasetsSource
    | UltraFeedbackSource
    | HelpSteer2Source
    | PersonalLLMSource
    | PrismSource
    | MovielensSource
    | GoodreadsSource
    | FeedbackSource
    | OpenWebuiSource,
    Field(discriminator="type"),
]
