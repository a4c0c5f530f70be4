"""From the columns of a row to a record, as `data.source` maps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pgrpo_cli.data.records import Message, PromptRecord
from pgrpo_cli.data.row_problem import RowProblem, preference_group_name, shown, storable, whole
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.names import composed
from pgrpo_cli.recipe.sources import ColumnMapping
from pgrpo_cli.recipe.templates import Template, TemplateProblem

from .messages import messages_of, prompt_text
from .rows import RawRow, record_of

TEMPLATE = "data.source.template"
REFERENCE = "reference"
"""The column that rewards read an answer to compare with from."""


Text = str | TemplateProblem | None
"""What the template makes of a row; None without a template."""


class RowMapper:
    """Makes records of rows. `needs_group`: whether a row must name its preference group.

    Raises RecipeError if the template of the section is invalid.
    """

    def __init__(self, section: ColumnMapping, *, needs_group: bool = True) -> None:
        self._section = section
        self._needs_group = needs_group
        self._template = None if section.template is None else Template(section.template)
        self.rows_at_once = 64 if self._template else 1
        """How many rows are worth being taken together."""
        self.forms: dict[str, None] = {}
        """Sentences about forms of messages that were read as another one."""
        used = {section.preference_group_column, section.reference_column}
        if section.template is None:
            used |= {section.prompt_column, *section.messages_columns}
        self._used = used

    def texts(self, rows: Sequence[RawRow]) -> Sequence[Text]:
        """What the template makes of each row, many at once."""
        if self._template is None:
            return [None] * len(rows)
        made = self._template.render_all([{**row.values, "row": row.values} for row in rows])
        for text in made:
            if isinstance(text, TemplateProblem) and text.exhausted:
                raise RecipeError(f"{TEMPLATE}: {text}", remedy="Simplify the template.") from text
        return made

    def record(self, row: RawRow, text: Text) -> PromptRecord:
        """The record of a row that has no problem so far, with its `text`. Raises RowProblem."""
        values, section = row.values, self._section
        group = self._preference_group(values) if self._needs_group else self.group_named_in(row)
        messages, reference = self._messages(values, text)
        columns = {name: value for name, value in values.items() if name not in self._used}
        if section.reference_column is not None:
            reference = _reference(values, section.reference_column)
        if reference is not None:
            columns[REFERENCE] = reference
        user, time = self._user(values), self._time(values)
        record = record_of(row, messages, group, columns, user_id=user, time=time)
        return replace(record, row=values)

    def group_named_in(self, row: RawRow) -> str | None:
        """The preference group that a row names, as far as it names one at all."""
        try:
            return self._preference_group(row.values)
        except RowProblem:
            return None

    def _preference_group(self, values: dict[str, Any]) -> str:
        column = self._section.preference_group_column
        if column not in values:
            raise RowProblem("no preference group", f"column {column!r} is missing")
        return preference_group_name(values[column], f"column {column!r}")

    def _messages(self, values: dict[str, Any], text: Text) -> tuple[list[Message], str | None]:
        """The prompt, and the assistant's answer to it where that is wanted and there."""
        answer = None
        if isinstance(text, TemplateProblem):
            raise RowProblem(f"{TEMPLATE} cannot render it", str(text)) from text
        if text is not None:
            messages = [{"role": "user", "content": prompt_text(text.strip(), "rendered template")}]
        else:
            messages = self._messages_of_columns(values)
            if self._section.drop_last_assistant and messages[-1]["role"] == "assistant":
                answer = messages.pop()["content"]
                if not messages:
                    raise RowProblem("empty prompt", "the only message is the assistant's")
            if messages[-1]["role"] not in ("user", "tool"):
                detail = (
                    f"the last message is the {messages[-1]['role']}'s, so there is nothing to answer; with "
                    "data.source.drop_last_assistant an assistant's is the reference"
                )
                raise RowProblem("messages do not end with the user's", detail)
        return messages, answer

    def _messages_of_columns(self, values: dict[str, Any]) -> list[Message]:
        section = self._section
        prompt = values.get(section.prompt_column)
        if prompt is None:
            columns = section.messages_columns
            column = next((name for name in columns if values.get(name) is not None), None)
            if column is None:
                names = " nor ".join(map(repr, (section.prompt_column, columns[0])))
                raise RowProblem("no prompt", f"neither {names} has a value")
            prompt = values[column]
            if not isinstance(prompt, list):
                raise RowProblem("messages are no list", f"column {column!r} is {shown(prompt)}")
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt_text(prompt, "prompt")}]
        if not isinstance(prompt, list):
            raise RowProblem("prompt is no text", f"column {section.prompt_column!r} is {shown(prompt)}")
        if not prompt:
            raise RowProblem("empty prompt", "the list of messages is empty")
        return messages_of(prompt, self.forms)

    def _user(self, values: dict[str, Any]) -> str | None:
        column = self._section.user_column
        value = values.get(column) if column is not None else None
        value = whole(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise RowProblem("user is no id", f"column {column!r} is {shown(value)}")
        return composed(storable(value.strip(), "user")) or None if value is not None else None

    def _time(self, values: dict[str, Any]) -> float | None:
        column = self._section.time_column
        value = values.get(column) if column is not None else None
        return None if value is None else seconds(value, f"column {column!r}")


def seconds(value: Any, what: str) -> float:
    """A number as it is, an ISO 8601 date as seconds since 1970. Raises RowProblem."""
    problem = RowProblem("time is no number or date", f"{what} is {shown(value)}")
    try:
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                moment = datetime.fromisoformat(value.strip())
                number = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        else:
            raise problem
    except (ValueError, OverflowError) as error:
        raise problem from error
    if not math.isfinite(number):
        raise problem
    return number


def _reference(values: dict[str, Any], column: str) -> str:
    value = values.get(column)
    if value is None:
        raise RowProblem("no reference", f"column {column!r} is {'null' if column in values else 'missing'}")
    if not isinstance(value, str):
        raise RowProblem("reference is no text", f"column {column!r} is {shown(value)}")
    return storable(value, "reference")
