"""What a prompt is, before and after the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgrpo_cli.names import composed
from pgrpo_cli.rewards.base import Completion

Message = dict[str, str]
ROW_EXCERPT = 500
"""Characters of a rejected row that are kept."""
LEAKED = "text is held out for evaluation too"


@dataclass(frozen=True)
class PromptRecord:
    """A prompt as it is read. `columns` are the row's further columns (JSON values) for the rewards.

    `preference_group`: as the row names it, None where it names none; once groups are assigned, the one that
    the prompt belongs to. `user_id` and `time` (a number that orders, such as seconds) say who asked when,
    where the source knows. `file` and `line` (from 1) say where it stands, for the rows that are rejected
    later on. `row`: the row with all of its columns, where `columns` lack some.
    """

    prompt_id: str
    messages: tuple[Message, ...]
    preference_group: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    user_id: str | None = None
    time: float | None = None
    file: str | None = None
    line: int | None = None
    row: Mapping[str, Any] | None = None

    @property
    def values(self) -> Mapping[str, Any]:
        """All columns of the row, as templates see them; they are not stored."""
        return self.columns if self.row is None else {**self.row, **self.columns}

    @property
    def assigned(self) -> str:
        """The preference group, and an empty text as long as it has none."""
        return self.preference_group or ""


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt as the model sees it: `prompt` as the chat template renders `messages`, `input_ids` its
    tokens. `user_id`: who asked, where the source knows.
    """

    prompt_id: str
    preference_group: str
    prompt: str
    input_ids: tuple[int, ...]
    columns: dict[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    user_id: str | None = None


def with_system_prompt(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The messages behind `model.system_prompt`, as it is written, unless there is none or they have a
    system message of their own. Trained prompts and whoever talks to the model later get it here.
    """
    if system_prompt is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


def completion_of(prompt: PreparedPrompt, text: str) -> Completion:
    """An answer to a prompt, in the form in which rewards read it."""
    return Completion(
        prompt.prompt_id,
        prompt.preference_group,
        prompt.prompt,
        text,
        prompt.columns,
        prompt.messages,
        prompt.user_id,
    )


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not used: the rule it breaks (counted), what was found (shown), where it stands.

    `left_out`: nothing is wrong with it; a limit of the recipe or the set itself leaves it out. `count`: of
    how many rows this one tells.
    """

    reason: str
    detail: str
    file: str | None = None
    line: int | None = None
    preference_group: str | None = None
    row: str = ""
    left_out: bool = False
    count: int = 1

    @property
    def where(self) -> str:
        """`file:line`, as far as known."""
        return (
            f"{self.file or 'the source'}:{self.line}" if self.line is not None else self.file or "the source"
        )


@dataclass(frozen=True)
class SourceFile:
    """An input file by the name the recipe gives it, and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class UserProfile:
    """What tells a user's taste: weights by feature (such as a genre's mean rating), and texts of theirs."""

    features: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class SourceData:
    """What a source read. `eval` is None where it brings no split of its own.

    `profiles`: what is known of users by `user_id`, from what came before the held-out prompts only.
    `notes`: sentences for the user, about how files were read and what the recipe's limits left out. `rows`:
    how many rows were looked at, by file. `given_up`: the reader stopped, because nearly all were broken.
    """

    train: tuple[PromptRecord, ...]
    eval: tuple[PromptRecord, ...] | None
    rejected: tuple[RejectedRow, ...] = ()
    files: tuple[SourceFile, ...] = ()
    profiles: Mapping[str, UserProfile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    given_up: bool = False


def rejected_record(record: PromptRecord, reason: str, detail: str, *, left_out: bool) -> RejectedRow:
    """The row of a record that could not be used, or that was left out on purpose."""
    text = record.messages[-1]["content"][:ROW_EXCERPT]
    return RejectedRow(
        reason, detail, record.file, record.line, record.preference_group, text, left_out=left_out
    )


def leaked(record: PromptRecord) -> RejectedRow:
    """The row of a training record whose text, or the beginning of its conversation, is held out."""
    detail = "its text, or the beginning of its conversation, is in the evaluation half"
    return rejected_record(record, LEAKED, detail, left_out=True)


def without_held_out(
    train: Iterable[PromptRecord], held_out: Iterable[PromptRecord]
) -> tuple[list[PromptRecord], list[RejectedRow]]:
    """The training records that are no held-out text and begin with none, and the rows of the others."""
    texts = {text_key(record) for record in held_out}
    kept: list[PromptRecord] = []
    dropped: list[RejectedRow] = []
    for record in train:
        if texts.isdisjoint(beginnings(record)):
            kept.append(record)
        else:
            dropped.append(leaked(record))
    return kept, dropped


def text_key(record: PromptRecord) -> str:
    """What makes two prompts the same text: their messages but the system's, without case and spacing, and
    whichever way Unicode spells them.
    """
    return _key(_said(record))


def beginnings(record: PromptRecord) -> list[str]:
    """The text keys of the conversation's first message, of its first two, and so on to all of them."""
    said = _said(record)
    return [_key(said[:count]) for count in range(1, len(said) + 1)] or [_key(said)]


def _said(record: PromptRecord) -> list[str]:
    return [
        f"{message['role']} {message['content']}"
        for message in record.messages
        if message["role"] != "system"
    ]


def _key(said: list[str]) -> str:
    return " ".join(composed(" ".join(said).casefold()).split())
