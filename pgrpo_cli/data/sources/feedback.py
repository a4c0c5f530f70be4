"""`source: {type: feedback}`: ratings and picks of feedback.jsonl and taste.jsonl as prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pgrpo_cli.data.records import PromptRecord, RejectedRow, SourceData
from pgrpo_cli.data.row_problem import LeftOut, RowProblem, preference_group_name
from pgrpo_cli.errors import DataError
from pgrpo_cli.feedback.file import Feedback, read_several
from pgrpo_cli.feedback.records import Pick, Rating
from pgrpo_cli.recipe.sources import FeedbackSource, OpinionsSource

from .context import ReadContext
from .files import file_name, hashed, matching_files
from .rows import RawRow, record_of
from .tables import Maker, SourceTable, read_tables

_Rated = dict[tuple[str | None, str | None, str, str], Literal[1, -1] | None]


def read_feedback_files(section: FeedbackSource, context: ReadContext) -> SourceData:
    """All ratings and picks of the files, each a prompt. Raises DataError where a file cannot be read."""
    paths = opinion_files(section, context)
    notes: list[str] = []
    rows = chain.from_iterable(
        _rows(found, file_name(path, context.recipe_dir), notes)
        for path, found in read_several(paths).items()
    )
    table = SourceTable("data.source.path", rows, hashed(paths, context.recipe_dir), notes)
    return read_tables(table, None, _maker(context), context)


def opinion_files(section: OpinionsSource, context: ReadContext) -> list[Path]:
    """The files of all patterns, each once. Raises DataError for a pattern without any."""
    if not section.paths:
        raise DataError("data.source.path is an empty list", remedy="Name a file, or several.")
    found = [matching_files("path", pattern, context.recipe_dir) for pattern in section.paths]
    return list(dict.fromkeys(chain.from_iterable(found)))


def opinion_columns(answer: str, rating: int, rejected: str | None = None) -> dict[str, Any]:
    """The columns for the rewards. `answer` has `rating` (1, 0 or -1); `rejected` was liked less than it."""
    liked = {"reference": answer, "chosen": answer} if rating == 1 else {}
    refused = answer if rating == -1 else rejected
    return {"answer": answer, "rating": rating, **liked, **({} if refused is None else {"rejected": refused})}


def _rows(found: Feedback, name: str, notes: list[str]) -> Iterator[RawRow]:
    """The records of a file, and its broken lines, in the order of the file."""
    notes += [note for note in found.notes if "cut short" in note]
    rows = {record.line: RawRow(name, record.line, {"record": record}) for record in found.picks}
    rows |= {record.line: RawRow(name, record.line, {"record": record}) for record in found.ratings}
    rows |= {
        problem.line: RawRow(name, problem.line, problem=RowProblem(problem.reason, problem.detail))
        for problem in found.problems
    }
    return (rows[line] for line in sorted(rows))


def _maker(context: ReadContext) -> Maker:
    seen: dict[str, str] = {}
    ratings: _Rated = {}

    def make(table: SourceTable) -> Iterator[PromptRecord | RejectedRow]:
        for row in table.rows:
            try:
                if row.problem is not None:
                    raise row.problem
                record = row.values["record"]
                if (
                    first := seen.setdefault(record.id, f"{row.file}:{row.line}")
                ) != f"{row.file}:{row.line}":
                    raise LeftOut("id stands twice", f"{first} has the same record")
                if isinstance(record, Rating):
                    record = _rated(record, ratings)
                yield _prompt(row, record, needs_group=context.groups_from_rows)
            except RowProblem as problem:
                yield row.rejected(problem)

    return make


def _rated(record: Rating, ratings: _Rated) -> Rating:
    """A correction with the rating that the same user gave to the same answer before, if any."""
    key = record.user, record.preference_group, json.dumps(record.messages), record.answer
    if record.rating is None:
        return record.model_copy(update={"rating": ratings.get(key)})
    ratings[key] = record.rating
    return record


def _prompt(row: RawRow, record: Rating | Pick, *, needs_group: bool) -> PromptRecord:
    group = record.preference_group or record.user
    if group is not None or needs_group:
        group = preference_group_name(group, "'preference_group' and 'user'")
    columns = {"feedback_id": record.id, **_columns(record)}
    user, time = record.user, record.seconds
    return record_of(row, record.messages, group, columns, user_id=user, time=time)


def _columns(record: Rating | Pick) -> dict[str, Any]:
    if isinstance(record, Pick):
        if record.picked is None:
            return opinion_columns(record.answers[0], 0)
        return opinion_columns(record.picked, 1, record.refused)
    if record.edited is not None:
        return opinion_columns(record.edited, 1, record.answer if record.rating != 1 else None)
    assert record.rating is not None
    return opinion_columns(record.answer, record.rating)
