"""The records of feedback.jsonl and taste.jsonl, for what reads or writes them above the rewards."""

from __future__ import annotations

from pgrpo_cli.feedback import (
    Feedback,
    Pick,
    Placed,
    Problem,
    Rating,
    Undo,
    append,
    checked_name,
    read_feedback,
)

__all__ = [
    "Feedback",
    "Pick",
    "Placed",
    "Problem",
    "Rating",
    "Undo",
    "append",
    "checked_name",
    "read_feedback",
]
