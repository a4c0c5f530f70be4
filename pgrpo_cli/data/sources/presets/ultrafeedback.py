"""UltraFeedback: `instruction` and `completions`, each with `response` and `annotations` by aspect.

An annotation has a `Rating`, a text such as "3" or "N/A". So says the set's repository,
https://github.com/OpenBMB/UltraFeedback ("Dataset Format"); the set is openbmb/UltraFeedback on the hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pgrpo_cli.data.records import PromptRecord, RejectedRow, SourceData
from pgrpo_cli.data.row_problem import RowProblem, shown
from pgrpo_cli.recipe.public_sets import UltraFeedbackAspect, UltraFeedbackSource

from ..context import ReadContext
from ..tables import SourceTable
from .published import read_split_set
from .rated import Answer, rated_records, rating_of, user_message

HUB_ID = "openbmb/UltraFeedback"


def read_ultrafeedback(section: UltraFeedbackSource, context: ReadContext) -> SourceData:
    """A prompt for each instruction and aspect. Raises DataError where the set cannot be had."""

    def make(table: SourceTable) -> Iterator[PromptRecord | RejectedRow]:
        for row in table.rows:
            try:
                if row.problem is not None:
                    raise row.problem
                messages, answers = [user_message(row.values, "instruction")], _answers(row.values)
            except RowProblem as problem:
                yield row.rejected(problem)
                continue
            columns = {"source": row.values.get("source")}
            yield from rated_records(row, messages, answers, section.preference_groups, columns)

    return read_split_set(section, context, HUB_ID, section.eval_split, make)


def _answers(values: dict[str, Any]) -> list[Answer]:
    completions = values.get("completions")
    if not isinstance(completions, list) or not all(isinstance(entry, dict) for entry in completions):
        raise RowProblem("no answers", f"'completions' is {shown(completions)}")
    return [_answer(completion) for completion in completions]


def _answer(completion: dict[str, Any]) -> Answer:
    annotations = completion.get("annotations")
    ratings = {}
    for aspect in get_args(UltraFeedbackAspect):
        annotation = annotations.get(aspect) if isinstance(annotations, dict) else None
        rating = rating_of(annotation.get("Rating")) if isinstance(annotation, dict) else None
        if rating is not None:
            ratings[aspect] = rating
    text = completion.get("response")
    return Answer(text if isinstance(text, str) else "", ratings)
