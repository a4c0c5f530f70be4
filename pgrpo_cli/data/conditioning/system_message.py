"""The system message that a template makes of a row, perhaps with a description of its preference group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pgrpo_cli.data.records import Message, PromptRecord, RejectedRow, rejected_record
from pgrpo_cli.data.row_problem import RowProblem, storable
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.templates import Template, TemplateProblem

KEY = "data.conditioning.template"
AT_ONCE = 64


def with_system_messages(
    records: Sequence[PromptRecord],
    source: str,
    system_prompt: str | None,
    profiles: Mapping[str, str] | None = None,
) -> Iterator[PromptRecord | RejectedRow]:
    """Each record with the system message that the template writes, or why it writes none.

    `profiles`: a description of each preference group. Where the text is empty, no system message stands
    before the record, so that its prompt gets `model.system_prompt` later on.
    Raises RecipeError where the template cannot be used at all.
    """
    try:
        template = Template(source)
    except TemplateProblem as problem:
        raise RecipeError(f"{KEY}: {problem}", remedy="Correct the template.") from problem
    for start in range(0, len(records), AT_ONCE):
        some = records[start : start + AT_ONCE]
        texts = template.render_all([_variables(record, system_prompt, profiles) for record in some])
        for record, text in zip(some, texts, strict=True):
            try:
                yield replace(record, messages=_with_system(record.messages, _checked(text)))
            except RowProblem as problem:
                yield rejected_record(record, problem.reason, problem.detail, left_out=False)


def _variables(
    record: PromptRecord, system_prompt: str | None, profiles: Mapping[str, str] | None
) -> dict[str, object]:
    """The row's columns, and what is known besides; that comes before a column of the same name."""
    row = record.values
    first = record.messages[0]
    own = {
        "system_prompt": first["content"] if first["role"] == "system" else system_prompt,
        "preference_group": record.preference_group,
        "user_id": record.user_id,
        "profile": None if profiles is None else profiles[record.assigned],
    }
    known = {name: value for name, value in own.items() if value is not None}
    return {"system_prompt": "", **row, "row": row, **known}


def _checked(text: str | TemplateProblem) -> str:
    if isinstance(text, TemplateProblem):
        if text.exhausted:
            raise RecipeError(f"{KEY}: {text}", remedy="Simplify the template.") from text
        raise RowProblem(f"{KEY} cannot render it", str(text)) from text
    return storable(text.strip(), "system message")


def _with_system(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    rest = messages[messages[0]["role"] == "system" :]
    return ({"role": "system", "content": text}, *rest) if text else rest
