"""PersonalLLM: `prompt`, `response_1` to `response_8`, and `response_I_MODEL`, the score of a reward model.

The columns are those that users of the set document, such as https://github.com/facebookresearch/LoRe
("PersonalLLM"); the set is namkoong-lab/PersonalLLM on the hub, its paper arXiv 2409.20296. Scores are taken
as they are, higher is better; models differ in scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pgrpo_cli.data.records import PromptRecord, RejectedRow, SourceData
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.recipe.public_sets import PersonalLLMModel, PersonalLLMSource

from ..context import ReadContext
from ..tables import SourceTable
from .published import read_split_set
from .rated import Answer, rated_records, rating_of, user_message

HUB_ID = "namkoong-lab/PersonalLLM"
ANSWERS = 8


def read_personalllm(section: PersonalLLMSource, context: ReadContext) -> SourceData:
    """A prompt for each of the set's and each reward model. Raises DataError where the set cannot be had."""

    def make(table: SourceTable) -> Iterator[PromptRecord | RejectedRow]:
        for row in table.rows:
            try:
                if row.problem is not None:
                    raise row.problem
                messages, answers = [user_message(row.values, "prompt")], _answers(row.values)
            except RowProblem as problem:
                yield row.rejected(problem)
                continue
            columns = {"subset": row.values.get("subset")}
            yield from rated_records(row, messages, answers, section.preference_groups, columns)

    return read_split_set(section, context, HUB_ID, section.eval_split, make)


def _answers(values: dict[str, Any]) -> list[Answer]:
    answers = []
    for number in range(1, ANSWERS + 1):
        text = values.get(f"response_{number}")
        if not isinstance(text, str):
            continue
        scores = {
            model: rating_of(values.get(f"response_{number}_{model}")) for model in get_args(PersonalLLMModel)
        }
        answers.append(Answer(text, {model: score for model, score in scores.items() if score is not None}))
    if not answers:
        raise RowProblem("no answers", f"none of 'response_1' to 'response_{ANSWERS}' is a text")
    return answers
