"""Prompt records for tests, made in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgrpo_cli.data.records import PreparedPrompt, PromptRecord


def record(
    text: str, preference_group: str = "a", prompt_id: str | None = None, **columns: Any
) -> PromptRecord:
    """A user message of a preference group; the id is the text unless given."""
    messages = ({"role": "user", "content": text},)
    return PromptRecord(prompt_id or text, messages, preference_group, columns)


def source_record(
    text: str,
    user_id: str | None = None,
    preference_group: str | None = None,
    time: float | None = None,
    **columns: Any,
) -> PromptRecord:
    """A user message as a source gives it; the id is the text."""
    messages = ({"role": "user", "content": text},)
    return PromptRecord(text, messages, preference_group, columns, user_id, time)


def prompt(prompt_id: str, preference_group: str = "a", length: int = 3, **columns: Any) -> PreparedPrompt:
    """A prepared prompt of `length` tokens."""
    text = f"text of {prompt_id}"
    messages = ({"role": "user", "content": text},)
    return PreparedPrompt(prompt_id, preference_group, text, tuple(range(length)), columns, messages)


def user_record(text: str, user_id: str | None, preference_group: str = "a") -> PromptRecord:
    """A user message of a user who is in a preference group."""
    return replace(record(text, preference_group), user_id=user_id)
