"""Messages of a prompt in the forms that data sets have them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgrpo_cli.data.records import Message
from pgrpo_cli.data.row_problem import RowProblem, shown, storable

ROLES = ("system", "user", "assistant", "tool")
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}
"""ShareGPT's `from`, and the role that it is."""
TEXT_PARTS = ("text", "input_text", "output_text")
CALLS = ("tool_calls", "function_call")

SHAREGPT = "Messages have `from` and `value` (ShareGPT): they are read as `role` and `content`."
PARTS = "Contents of messages are lists of text parts: they are joined, each on a line of its own."


def messages_of(found: Sequence[Any], forms: dict[str, None]) -> list[Message]:
    """The messages of a list that can stand in a prompt; `forms` gets a sentence for each other form.

    Raises RowProblem.
    """
    return [_message(message, index, forms) for index, message in enumerate(found)]


def message_of(message: Any, index: int) -> Message:
    """One message that can stand in a prompt. Raises RowProblem."""
    return _message(message, index, {})


def prompt_text(text: str, what: str) -> str:
    """Text that says something. Raises RowProblem; `what` names it there."""
    if not text.strip():
        raise RowProblem("empty prompt", f"the {what} is blank")
    return storable(text, what)


def _message(message: Any, index: int, forms: dict[str, None]) -> Message:
    if not isinstance(message, dict):
        raise _no_message(message, index)
    if "role" not in message and {"from", "value"} <= message.keys():
        role, content = message["from"], message["value"]
        known, forms[SHAREGPT] = tuple(SPEAKERS), None
        role = SPEAKERS.get(role, role) if isinstance(role, str) else role
    elif {"role", "content"} <= message.keys():
        role, content, known = message["role"], message["content"], ROLES
    else:
        raise _no_message(message, index)
    if role not in ROLES:
        raise RowProblem("unknown role", f"message {index} has role {shown(role)}; known: {', '.join(known)}")
    if calls := next((name for name in CALLS if message.get(name)), None):
        raise RowProblem("message calls a tool", f"message {index} has {calls!r}, which no prompt can hold")
    if isinstance(content, list) and content:
        content = _joined(content, index)
        forms[PARTS] = None
    if not isinstance(content, str):
        raise RowProblem("prompt is no text", f"message {index} has content {shown(content)}")
    return {"role": role, "content": prompt_text(content, f"message {index}")}


def _joined(parts: list[Any], index: int) -> str:
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            found = f"message {index} has a part that is {shown(part)}; only text is read"
            raise RowProblem("prompt is no text", found)
        texts.append(part["text"])
    return "\n".join(texts)


def _no_message(message: Any, index: int) -> RowProblem:
    return RowProblem("message is no {role, content}", f"message {index} is {shown(message)}")
