"""`source: {type: open_webui}`: the feedback that Open WebUI exports, each rating with its conversation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from pgrpo_cli.data.records import PromptRecord, RejectedRow, SourceData
from pgrpo_cli.data.row_problem import LeftOut, RowProblem, preference_group_name, shown, storable
from pgrpo_cli.recipe.sources import OpenWebuiSource

from .context import ReadContext
from .feedback import opinion_columns, opinion_files
from .files import file_name, hashed
from .jsonl import jsonl_rows
from .mapping import seconds
from .messages import message_of
from .rows import RawRow, record_of
from .tables import SourceTable, read_tables

MOST_MESSAGES = 1_000
EXPORTED_AGAIN = LeftOut("exported again", "the files have the same feedback, or a later version of it")
_REASONING = re.compile(r'<details type="reasoning"[^>]*>.*?</details>\s*', re.DOTALL)
"""What a model thought before it answered; Open WebUI keeps it folded up in the answer's text."""


def read_open_webui(section: OpenWebuiSource, context: ReadContext) -> SourceData:
    """All ratings of the files, each a prompt. Raises DataError where a file cannot be read."""
    paths = opinion_files(section, context)
    notes: list[str] = []
    rows = chain.from_iterable(jsonl_rows(path, file_name(path, context.recipe_dir), notes) for path in paths)
    table = SourceTable("data.source.path", rows, hashed(paths, context.recipe_dir), notes)
    data = read_tables(table, None, _prompts, context)
    return data


def _prompts(table: SourceTable) -> Iterator[PromptRecord | RejectedRow]:
    """A prompt of each rating: an export holds everything that earlier ones hold, and of what was rated again
    the latest version counts, also where it is no rating any more.
    """
    latest: dict[Any, tuple[float, PromptRecord | RejectedRow, RejectedRow]] = {}
    for row in table.rows:
        id = row.values.get("id")
        found = _time(row.values), _made(row), row.rejected(EXPORTED_AGAIN)
        if not isinstance(id, str):
            yield found[1]
        elif id not in latest:
            latest[id] = found
        else:
            older, latest[id] = sorted((latest[id], found), key=lambda version: version[0])
            yield older[2]
    yield from (made for _, made, _ in latest.values())


def _made(row: RawRow) -> PromptRecord | RejectedRow:
    user = None
    try:
        if row.problem is not None:
            raise row.problem
        user = preference_group_name(row.values.get("user_id"), "'user_id'")
        return _prompt(row, user)
    except RowProblem as problem:
        return row.rejected(problem, user)


def _time(values: dict[str, Any]) -> float:
    try:
        return _seconds(values) or -math.inf
    except RowProblem:
        return -math.inf


def _seconds(values: dict[str, Any]) -> float | None:
    time = values.get("updated_at", values.get("created_at"))
    return None if time is None else seconds(time, "'updated_at'")


def _prompt(row: RawRow, user: str) -> PromptRecord:
    values = row.values
    data, meta = _object(values, "data"), _object(values, "meta")
    rating = _rating(values, data)
    chat = _chat(values)
    *before, answered = _branch(chat, meta.get("message_id"))
    if answered.get("role") != "assistant":
        raise RowProblem("rated message is no answer", f"its role is {shown(answered.get('role'))}")
    messages = [message_of(_legible(message), index) for index, message in enumerate(before)]
    if not messages or messages[-1]["role"] != "user":
        raise RowProblem("no prompt", "no message of the user stands before the rated answer")
    system = _object(chat, "params").get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": storable(system, "system message")})
    answer = message_of(_legible(answered), len(before))["content"]
    said = {name: data[name] for name in ("comment", "reason") if isinstance(data.get(name), str)}
    if (details := _object(data, "details").get("rating")) is not None:
        said["details_rating"] = details
    if isinstance(data.get("model_id"), str):
        said["model"] = data["model_id"]
    return record_of(
        row,
        messages,
        user,
        {"feedback_id": values.get("id"), **opinion_columns(answer, rating), **said},
        user_id=user,
        time=_seconds(values),
    )


def _rating(values: dict[str, Any], data: dict[str, Any]) -> int:
    if values.get("type") != "rating":
        raise LeftOut("no rating", f"'type' is {shown(values.get('type'))}")
    rating = data.get("rating")
    if rating is None:
        raise LeftOut("no rating", "'data.rating' is null")
    # It is a number or, from older versions, its text.
    known = {"1": 1, "-1": -1, "0": 0}
    if str(rating) not in known or isinstance(rating, bool):
        raise RowProblem("rating is none", f"'data.rating' is {shown(rating)}; 1, 0 and -1 are read")
    return known[str(rating)]


def _chat(values: dict[str, Any]) -> dict[str, Any]:
    """The chat as it was when it was rated: `snapshot.chat.chat`, or `snapshot.chat` itself."""
    chat = _object(_object(values, "snapshot"), "chat")
    inner = _object(chat, "chat")
    if not (inner or chat):
        raise RowProblem(
            "no conversation",
            "'snapshot.chat' is missing; only the export of all feedback has it",
        )
    return inner or chat


def _branch(chat: dict[str, Any], message_id: Any) -> list[dict[str, Any]]:
    """The messages from the first to the rated one; other branches of the conversation are left out."""
    messages = _object(chat, "history").get("messages", chat.get("messages"))
    if isinstance(messages, list):
        messages = {entry["id"]: entry for entry in messages if isinstance(entry, dict) and _has_id(entry)}
    if not isinstance(messages, dict):
        raise RowProblem("no conversation", f"the messages are {shown(messages)}")
    branch: list[dict[str, Any]] = []
    place = message_id
    while place is not None:
        message = messages.get(place) if isinstance(place, str) else None
        if not isinstance(message, dict):
            raise RowProblem("message is missing", f"the conversation has none of the id {shown(place)}")
        if len(branch) == MOST_MESSAGES:
            raise RowProblem(
                "conversation too long", f"it has more than {MOST_MESSAGES:,} messages, or a circle"
            )
        branch.append(message)
        place = message.get("parentId")
    if not branch:
        raise RowProblem("message is missing", "'meta.message_id' does not say which message is rated")
    return branch[::-1]


def _legible(message: dict[str, Any]) -> dict[str, Any]:
    """The message as it was read: without what the model thought before it."""
    content = message.get("content")
    if message.get("role") == "assistant" and isinstance(content, str):
        return {**message, "content": _REASONING.sub("", content)}
    return message


def _has_id(message: dict[str, Any]) -> bool:
    return isinstance(message.get("id"), str)


def _object(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}
