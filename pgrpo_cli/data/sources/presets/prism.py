"""PRISM: conversations of people with several models at once, and a survey of these people.

A conversation has `user_id`, `generated_datetime` and `conversation_history`, a list of messages with `turn`,
`role` (user or model), `content` and, of a model, `score` (1 to 100) and `if_chosen`; the survey has a row a
person, with columns such as `age` and nested ones such as `location`, `stated_prefs` and `self_description`.
So says the codebook, https://github.com/HannahKirk/prism-alignment; the set is HannahRoseKirk/prism-alignment
on the hub, its paper arXiv 2404.16019.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pgrpo_cli.data.records import (
    Message,
    PromptRecord,
    RejectedRow,
    SourceData,
    UserProfile,
)
from pgrpo_cli.data.row_problem import LeftOut, RowProblem, preference_group_name, shown
from pgrpo_cli.errors import DataError
from pgrpo_cli.names import nearest
from pgrpo_cli.paths import path_of
from pgrpo_cli.recipe.public_sets import PrismSource

from ..context import ReadContext
from ..generic import files_table
from ..mapping import REFERENCE, seconds
from ..messages import message_of
from ..rows import RawRow, record_of
from ..tables import SourceTable, read_tables
from .published import hub_table, published_rows
from .rated import Answer, best_answer, rating_of, text_of

HUB_ID = "HannahRoseKirk/prism-alignment"
SCORE = "score"
USER = "user_id"


def read_prism(section: PrismSource, context: ReadContext) -> SourceData:
    """Prompts of conversations with the people's preference groups, and the people's profiles.

    Raises DataError where the set cannot be had or the survey has no such column.
    """
    survey = _table(section, context, "survey", None)
    rows = list(survey.rows)
    people = {row.values[USER]: row.values for row in rows if isinstance(row.values.get(USER), str)}
    lost = tuple(row.rejected(row.problem) for row in rows if row.problem is not None)
    _require_column(section.preference_groups_by, people, survey.label)
    reader = _Reader(section, people, needs_group=context.groups_from_rows)
    data = read_tables(
        _table(section, context, "conversations", section.limit), None, reader.records, context
    )
    profiles = {user: _profile(person) for user, person in people.items()}
    return replace(
        data,
        rejected=(*lost, *data.rejected),
        files=(*data.files, *survey.files),
        profiles=profiles,
        rows={**data.rows, **Counter(row.file for row in rows)},
    )


class _Reader:
    def __init__(self, section: PrismSource, people: dict[str, dict[str, Any]], *, needs_group: bool) -> None:
        self._section = section
        self._people = people
        self._needs_group = needs_group

    def records(self, table: SourceTable) -> Iterator[PromptRecord | RejectedRow]:
        for row in table.rows:
            try:
                if row.problem is not None:
                    raise row.problem
                user = text_of(row.values, USER, "no user")
                group = self._preference_group(user)
                time = seconds(row.values.get("generated_datetime"), "'generated_datetime'")
                turns = _turns(row.values)
            except RowProblem as problem:
                yield row.rejected(problem)
                continue
            yield from self._prompts(row, turns, group, user, time)

    def _prompts(
        self, row: RawRow, turns: list[list[dict[str, Any]]], group: str | None, user: str, time: float
    ) -> Iterator[PromptRecord | RejectedRow]:
        """The prompts of one conversation; one that is broken ends it."""
        said: list[Message] = []
        for number, turn in enumerate(turns[:1] if self._section.turns == "opening" else turns):
            try:
                said.append(message_of(turn[0], len(said)))
                answer = _chosen(turn[1:])
                columns = {
                    **{name: row.values.get(name) for name in ("conversation_id", "conversation_type")},
                    "turn": number,
                    **answer,
                }
                yield record_of(row, said, group, columns, user_id=user, time=time)
            except RowProblem as problem:
                yield row.rejected(problem, group)
                return
            said = [*said, {"role": "assistant", "content": answer[REFERENCE]}]

    def _preference_group(self, user: str) -> str | None:
        column = self._section.preference_groups_by
        person = self._people.get(user, {USER: user} if column == USER else None)
        try:
            if person is None:
                raise RowProblem("no preference group", f"the survey has no user {user!r}")
            if (value := _at(person, column)) is None:
                raise LeftOut("no preference group", f"the survey has nothing at {column!r} of user {user!r}")
            return preference_group_name(value, f"column {column!r}")
        except RowProblem:
            if self._needs_group:
                raise
            return None


def _turns(values: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The conversation by turns: the user's message, then what the models answered. Raises RowProblem."""
    history = values.get("conversation_history")
    if not isinstance(history, list) or not all(isinstance(message, dict) for message in history):
        raise RowProblem("no conversation", f"'conversation_history' is {shown(history)}")
    turns: list[list[dict[str, Any]]] = []
    for message in history:
        if message.get("role") == "user":
            turns.append([message])
        elif turns:
            turns[-1].append(message)
    if not turns:
        raise RowProblem("no conversation", "'conversation_history' has no message of the user")
    return turns


def _chosen(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The columns of a turn: the answer that it went on with, and how all were scored. Raises RowProblem."""
    chosen = [answer for answer in answers if answer.get("if_chosen") is True] or answers
    scored = []
    for answer in chosen:
        score, text = rating_of(answer.get(SCORE)), answer.get("content")
        scored.append(Answer(text if isinstance(text, str) else "", {} if score is None else {SCORE: score}))
    return {**best_answer(scored, SCORE), "scores": [rating_of(answer.get(SCORE)) for answer in answers]}


def _table(section: PrismSource, context: ReadContext, name: str, limit: int | None) -> SourceTable:
    """One of the set's tables; only conversations are limited."""
    if section.path is None:
        return hub_table(section, context, HUB_ID, "train", name, limit)
    folder = path_of(section.path, "data.source.path", context.recipe_dir)
    if not folder.is_dir():
        raise DataError(
            f"data.source.path: there is no folder {folder}",
            remedy="Name the folder of conversations.jsonl and survey.jsonl, relative to the recipe's.",
        )
    return files_table("path", os.path.join(section.path, f"{name}.jsonl"), context, published_rows, limit)


def _require_column(column: str, people: dict[str, dict[str, Any]], label: str) -> None:
    """Raises DataError if no participant of the survey has a value in `column`."""
    known: dict[str, None] = {}
    for person in people.values():
        for name, value in person.items():
            known.update(
                dict.fromkeys(f"{name}.{key}" for key in value) if isinstance(value, dict) else {name: None}
            )
    if column in known or column == USER:
        return
    near = nearest(column, known)
    raise DataError(
        f"{label} has no column {column!r}; columns found: {', '.join(map(repr, known))}",
        remedy="Set data.source.preference_groups_by to one of them"
        + (f", perhaps {near!r}." if near else "."),
    )


def _at(person: dict[str, Any], column: str) -> Any:
    value: Any = person
    for key in column.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _profile(person: dict[str, Any]) -> UserProfile:
    """What the survey tells of a person's taste: stated preferences (0 to 100), and their own words."""
    stated = person.get("stated_prefs")
    ratings = {name: rating_of(value) for name, value in stated.items()} if isinstance(stated, dict) else {}
    features = {name: rating for name, rating in ratings.items() if rating is not None and name != "other"}
    text = person.get("self_description")
    return UserProfile(features, text if isinstance(text, str) else "")
