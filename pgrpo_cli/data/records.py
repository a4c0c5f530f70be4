"""What a prompt is, before and after the chat template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]


@dataclass(frozen=True)
class PromptRecord:
    """A prompt as a source gives it. `columns` are the row's further columns (JSON values) for the rewards."""

    prompt_id: str
    preference_group: str
    messages: tuple[Message, ...]
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt as the model sees it: `prompt` is rendered by the chat template, `input_ids` are its tokens."""

    prompt_id: str
    preference_group: str
    prompt: str
    input_ids: tuple[int, ...]
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used. `line` counts from 1 (None: the source has no lines); `row` is its text, cut."""

    file: str
    line: int | None
    reason: str
    preference_group: str | None = None
    row: str = ""


@dataclass(frozen=True)
class SourceFile:
    """An input file by the name the recipe gives it, and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SourceData:
    """What a source read. `eval` is None where it brings no split of its own."""

    train: tuple[PromptRecord, ...]
    eval: tuple[PromptRecord, ...] | None
    rejected: tuple[RejectedRow, ...] = ()
    files: tuple[SourceFile, ...] = ()
