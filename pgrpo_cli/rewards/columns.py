"""What a reward takes from the columns of a data row, or an error that names the row's prompt."""

from __future__ import annotations

from typing import Any

from pgrpo_cli.errors import RewardError

from .base import Completion

_MOST_COLUMNS = 30


def texts_in(completion: Completion, column: str, label: str, setting: str) -> tuple[str, ...]:
    """The text, or the texts of the list, in a column. Raises RewardError where there is none.

    `label` names the reward, `setting` the key of its section that names the column.
    """
    value = required(completion, column, label, setting)
    texts = tuple(value) if isinstance(value, list | tuple) else (value,)
    if texts and all(isinstance(text, str) and text.strip() for text in texts):
        return texts
    raise RewardError(
        f"reward {label!r}: column {column!r} is {shown(value)}, no text and no list of texts; "
        f"{where(completion)}",
        remedy=f"Correct the row, or name another column with `{setting}`.",
    )


def required(completion: Completion, column: str, label: str, setting: str) -> Any:
    """The value in a column. Raises RewardError where the row has none, or null."""
    value = completion.columns.get(column)
    if value is not None:
        return value
    names = sorted(completion.columns)
    there = ", ".join(map(shown, names[:_MOST_COLUMNS])) or "none"
    there += f" and {len(names) - _MOST_COLUMNS} more" if len(names) > _MOST_COLUMNS else ""
    raise RewardError(
        f"reward {label!r}: the data lack column {column!r} (columns there: {there}); {where(completion)}",
        remedy=f"Give every row that it applies to a value in {column!r}, name another column with "
        f"`{setting}`, or limit the reward with `preference_groups`.",
    )


def where(completion: Completion) -> str:
    """The prompt and its preference group."""
    prompt = completion.prompt_id if len(completion.prompt_id) <= 60 else f"{completion.prompt_id[:57]}..."
    return f"prompt {prompt} of preference group {shown(completion.preference_group)}"


def shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
