"""HelpSteer2: `prompt`, `response` and five integer attributes from 0 to 4; consecutive rows share a prompt.

A prompt of several turns has lines `<extra_id_1>Assistant` and `<extra_id_1>User` between them. So says the
set's card, https://huggingface.co/datasets/nvidia/HelpSteer2 ("Dataset Description").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import get_args

from pgrpo_cli.data.records import Message, PromptRecord, RejectedRow, SourceData
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.recipe.public_sets import HelpSteer2Attribute, HelpSteer2Source

from ..context import ReadContext
from ..messages import message_of
from ..rows import RawRow
from ..tables import SourceTable
from .published import read_split_set
from .rated import Answer, rated_records, rating_of, text_of

HUB_ID = "nvidia/HelpSteer2"
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def read_helpsteer2(section: HelpSteer2Source, context: ReadContext) -> SourceData:
    """A prompt for each of the set's and each attribute. Raises DataError where the set cannot be had."""

    def make(table: SourceTable) -> Iterator[PromptRecord | RejectedRow]:
        for _, rows in groupby(table.rows, key=lambda row: row.values.get("prompt")):
            first: tuple[RawRow, list[Message]] | None = None
            answers = []
            for row in rows:
                try:
                    if row.problem is not None:
                        raise row.problem
                    messages, answer = _messages(row), _answer(row)
                except RowProblem as problem:
                    yield row.rejected(problem)
                    continue
                first = first or (row, messages)
                answers.append(answer)
            if first is not None:
                yield from rated_records(*first, answers, section.preference_groups)

    return read_split_set(section, context, HUB_ID, section.eval_split, make)


def _messages(row: RawRow) -> list[Message]:
    turns = _TURN.split(text_of(row.values, "prompt", "no prompt"))
    roles = ["user", *(speaker.lower() for speaker in turns[1::2])]
    messages = [
        message_of({"role": role, "content": text}, index)
        for index, (role, text) in enumerate(zip(roles, turns[::2], strict=True))
    ]
    if roles[-1] != "user":
        raise RowProblem(
            "messages do not end with the user's", f"the last of {len(roles)} is the assistant's"
        )
    return messages


def _answer(row: RawRow) -> Answer:
    ratings = {name: rating_of(row.values.get(name)) for name in get_args(HelpSteer2Attribute)}
    text = text_of(row.values, "response", "no answer")
    return Answer(text, {name: rating for name, rating in ratings.items() if rating is not None})
