"""From one JSON object of a user's data to a prompt record, or to the reason why there is none."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from pgrpo_cli.data.records import Message, SourceRecord
from pgrpo_cli.recipe.sources import JsonlSource

ROLES = ("system", "user", "assistant", "tool")
MAX_GROUP_LENGTH = 200


class RowProblem(Exception):
    """Why a row is rejected: `reason` is the rule (few, counted), `detail` what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of one line; NaN and infinities, which are no JSON, become null. Raises RowProblem."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowProblem(
            "not UTF-8", f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        ) from error
    try:
        row = json.loads(text, parse_constant=lambda constant: None, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise RowProblem("not JSON", f"{error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise RowProblem("not JSON", str(error)) from error
    if not isinstance(row, dict):
        raise RowProblem("not a JSON object", f"found {_shown(row)}")
    return row


def group_named_in(row: dict[str, Any], column: str) -> str | None:
    """The preference group that a row names, as far as it names one at all."""
    try:
        return _preference_group(row, column)
    except RowProblem:
        return None


def record_from_row(
    row: dict[str, Any], section: JsonlSource, file: str, line: int, *, needs_group: bool = True
) -> SourceRecord:
    """The record of a row; its id is a hash of its content, so it survives reordering. Raises RowProblem."""
    column = section.preference_group_column
    group = _preference_group(row, column) if needs_group else group_named_in(row, column)
    messages = _messages(row, section)
    used = {section.prompt_column, section.messages_column, section.preference_group_column}
    columns = {name: value for name, value in row.items() if name not in used}
    try:
        content = json.dumps([group, messages, columns], sort_keys=True)
    except (ValueError, RecursionError) as error:
        raise RowProblem("columns cannot be stored", str(error)) from error
    prompt_id = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    return SourceRecord(prompt_id, tuple(messages), group, columns, file=file, line=line)


def _preference_group(row: dict[str, Any], column: str) -> str:
    if row.get(column) is None:
        raise RowProblem(
            "no preference group", f"column {column!r} is {'null' if column in row else 'missing'}"
        )
    value = row[column]
    # Ratings and cluster numbers are natural group ids; true and 1.5 are more likely a wrong column.
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RowProblem("preference group is no text", f"column {column!r} is {_shown(value)}")
    value = _storable(value.strip(), "preference group")
    if not value:
        raise RowProblem("no preference group", f"column {column!r} is blank")
    if not value.isprintable() or len(value) > MAX_GROUP_LENGTH:
        rule = f"a printable name of at most {MAX_GROUP_LENGTH} characters is needed"
        raise RowProblem("preference group is no name", f"column {column!r} is {_shown(value)}; {rule}")
    return value


def _messages(row: dict[str, Any], section: JsonlSource) -> list[Message]:
    prompt = row.get(section.prompt_column)
    if prompt is None:
        prompt = row.get(section.messages_column)
        if prompt is None:
            names = f"neither {section.prompt_column!r} nor {section.messages_column!r} has a value"
            raise RowProblem("no prompt", names)
        if not isinstance(prompt, list):
            raise RowProblem(
                "messages are no list", f"column {section.messages_column!r} is {_shown(prompt)}"
            )
    if isinstance(prompt, str):
        return [{"role": "user", "content": _content(prompt, "prompt")}]
    if not isinstance(prompt, list):
        raise RowProblem("prompt is no text", f"column {section.prompt_column!r} is {_shown(prompt)}")
    if not prompt:
        raise RowProblem("empty prompt", "the list of messages is empty")
    messages = [_message(message, index) for index, message in enumerate(prompt)]
    if messages[-1]["role"] not in ("user", "tool"):
        detail = f"the last message is the {messages[-1]['role']}'s, so there is nothing to answer"
        raise RowProblem("messages do not end with the user's", detail)
    return messages


def _message(message: Any, index: int) -> Message:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise RowProblem("message is no {role, content}", f"message {index} is {_shown(message)}")
    role = message["role"]
    if role not in ROLES:
        raise RowProblem(
            "unknown role", f"message {index} has role {_shown(role)}; known: {', '.join(ROLES)}"
        )
    if not isinstance(message["content"], str):
        raise RowProblem("prompt is no text", f"message {index} has content {_shown(message['content'])}")
    return {"role": role, "content": _content(message["content"], f"message {index}")}


def _content(text: str, what: str) -> str:
    if not text.strip():
        raise RowProblem("empty prompt", f"the {what} is blank")
    return _storable(text, what)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _storable(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem("not Unicode text", f"the {what} holds half a surrogate pair") from error
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
