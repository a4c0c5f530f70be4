"""Prompts with rated answers: a record for each preference group, with the answer that it likes best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_cli.data.records import Message, PromptRecord, RejectedRow
from pgrpo_cli.data.row_problem import LeftOut, RowProblem, shown, storable

from ..mapping import REFERENCE
from ..messages import prompt_text
from ..rows import RawRow, record_of


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt and its ratings by preference group; higher is better."""

    text: str
    ratings: Mapping[str, float]


def rated_records(
    row: RawRow,
    messages: Sequence[Message],
    answers: Sequence[Answer],
    preference_groups: Iterable[str],
    columns: Mapping[str, Any] | None = None,
) -> Iterator[PromptRecord | RejectedRow]:
    """A record for each preference group; a group that rates no answer is a rejected row.

    Of answers that are rated alike the first is the reference.
    """
    for group in dict.fromkeys(preference_groups):
        try:
            yield record_of(row, messages, group, {**(columns or {}), **best_answer(answers, group)})
        except RowProblem as problem:
            yield row.rejected(problem, group)


def best_answer(answers: Sequence[Answer], preference_group: str) -> dict[str, Any]:
    """The columns that tell the rewards of the best answer. Raises RowProblem."""
    rated = [answer for answer in answers if preference_group in answer.ratings and answer.text.strip()]
    if not rated:
        raise LeftOut("no rated answer", f"none of {len(answers)} has a rating for {preference_group!r}")
    best = max(rated, key=lambda answer: answer.ratings[preference_group])
    return {
        REFERENCE: storable(best.text, "answer"),
        "reference_score": best.ratings[preference_group],
        "scores": [answer.ratings.get(preference_group) for answer in answers],
    }


def user_message(values: Mapping[str, Any], column: str) -> Message:
    """The text of `column` as the user's message. Raises RowProblem."""
    return {"role": "user", "content": prompt_text(text_of(values, column, "no prompt"), "prompt")}


def text_of(values: Mapping[str, Any], column: str, reason: str) -> str:
    """The text of `column`. Raises RowProblem with `reason`."""
    value = values.get(column)
    if not isinstance(value, str):
        raise RowProblem(reason, f"{column!r} is {shown(value)}" if column in values else f"no {column!r}")
    return value


def rating_of(value: Any) -> float | None:
    """A rating: a number, or text that is one; None for anything else, such as N/A."""
    try:
        number = (
            float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
        )
    except (ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None
