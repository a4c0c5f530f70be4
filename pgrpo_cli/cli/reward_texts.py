"""What `pgrpo rewards try` scores: texts from options, a file, prepared data or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgrpo_cli.data.prepared import load_prepared, read_manifest
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.data.sources.json_text import parse_value
from pgrpo_cli.data.sources.jsonl import jsonl_rows
from pgrpo_cli.data.sources.rows import RawRow
from pgrpo_cli.data.sources.text_lines import OR_SET
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.reward_base import ReferenceReward, RewardBase
from pgrpo_cli.recipe.reward_text import PersonasReward
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.personas import PERSONAS

from .terminal import note

MAX_GROUPS = 12
"""Preference groups that a text is scored for, unless they are named."""
REFERENCES_PER_GROUP = 3
ROW_REMEDY = (
    'Write one object per line: {"text": "...", "prompt": "...", "preference_group": "..."}, and columns; '
    "only `text` is needed."
)
ANY_GROUP = "any"
"""Stands for every preference group where neither recipe nor data name one."""


@dataclass(frozen=True)
class Texts:
    """What the options say: texts, a file of them, and what to pretend about their prompts."""

    texts: Sequence[str]
    file: Path | None
    groups: Sequence[str]
    columns: Mapping[str, Any]
    prompt: str | None


def completions_to_try(
    options: Texts, recipe: Recipe, run_dir: Path | None, users: Sequence[str] = ()
) -> list[Completion]:
    """A completion for each text and preference group. Raises DataError where there is no text.

    `users`: those for whom rewards were learnt, who count as preference groups.
    """
    if options.texts or options.file:
        found = [
            _completion(f"text-{number}", text, options.prompt, options)
            for number, text in enumerate(options.texts, start=1)
        ]
        if options.file:
            found += _from_file(options.file, options)
    else:
        found = list(_references(recipe.rewards, run_dir, options))
        found = found or [_completion("text-1", _from_stdin(), options.prompt, options)]
    groups = options.groups or (() if all(map(_own, found)) else _groups(recipe.rewards, run_dir, users))
    return [replace(c, preference_group=group) for c in found for group in (_own(c) or groups)]


def parse_columns(assignments: Sequence[str]) -> dict[str, Any]:
    """Columns from KEY=VALUE; a value is JSON where it is valid JSON, else text. Raises DataError."""
    columns = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise DataError(
                f"--column {assignment!r} is no KEY=VALUE", remedy="Write --column reference='A good answer'."
            )
        try:
            columns[key] = parse_value(value)
        except RowProblem:
            columns[key] = value
    return columns


def _completion(name: str, text: str, prompt: str | None, options: Texts) -> Completion:
    messages = ({"role": "user", "content": prompt},) if prompt else ()
    return Completion(name, "", prompt or "", text, options.columns, messages)


def _own(completion: Completion) -> tuple[str, ...]:
    """The preference group that a text brings with it."""
    return (completion.preference_group,) if completion.preference_group else ()


def _from_file(path: Path, options: Texts) -> Iterator[Completion]:
    try:
        rows = list(jsonl_rows(path, str(path), []))
    except DataError as error:
        raise DataError(error.message, remedy=ROW_REMEDY) from error
    if not rows:
        raise DataError(f"{path} holds no text to score", remedy=ROW_REMEDY)
    for row in rows:
        yield _from_row(row, f"{path}:{row.line}", options)


def _from_row(found_row: RawRow, place: str, options: Texts) -> Completion:
    if found_row.problem is not None:
        raise DataError(f"{place}: {str(found_row.problem).removesuffix(OR_SET)}", remedy=ROW_REMEDY)
    row = dict(found_row.values)
    text, prompt = row.pop("text", None), row.pop("prompt", options.prompt)
    group = row.pop("preference_group", "")
    for name, value in (("text", text), ("prompt", prompt or ""), ("preference_group", group)):
        if not isinstance(value, str):
            raise DataError(f"{place}: {name!r} is {value!r}, no text", remedy=ROW_REMEDY)
    found = _completion(place, text, prompt, options)
    own = "" if options.groups else group
    return replace(found, preference_group=own, columns={**row, **options.columns})


def _references(rewards: Sequence[RewardBase], run_dir: Path | None, options: Texts) -> Iterator[Completion]:
    """The reference answers of the first rows of each preference group of the run's data."""
    if run_dir is None or read_manifest(run_dir) is None:
        return
    names = [reward.reference_column for reward in rewards if isinstance(reward, ReferenceReward)]
    names = list(dict.fromkeys([*names, "reference"]))
    taken: dict[str, int] = {}
    for prompt in load_prepared(run_dir, "train"):
        group = prompt.preference_group
        answers = (_text_of(prompt.columns.get(name)) for name in names)
        text = next((answer for answer in answers if answer), None)
        if text is None or (options.groups and group not in options.groups):
            continue
        taken[group] = taken.get(group, 0) + 1
        if taken[group] <= REFERENCES_PER_GROUP and len(taken) <= (len(options.groups) or MAX_GROUPS):
            columns = {**prompt.columns, **options.columns}
            yield Completion(
                prompt.prompt_id, group, prompt.prompt, text, columns, prompt.messages, prompt.user_id
            )
    if sum(taken.values()):
        note(
            f"Reference answers of {run_dir / 'data'}: up to {REFERENCES_PER_GROUP} of each of "
            f"{min(len(taken), len(options.groups) or MAX_GROUPS)} preference groups. "
            "--text and --file score other texts."
        )


def _text_of(value: Any) -> str | None:
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) and value.strip() else None


def _from_stdin() -> str:
    if sys.stdin.isatty():
        note("Type a completion, and Ctrl-D on a line of its own to end it.")
    text = sys.stdin.read().rstrip("\n")
    if not text.strip():
        raise DataError(
            "there is no text to score: no --text, no --file, no prepared reference answers, nothing on "
            "standard input",
            remedy="Write --text 'A completion', or pipe one in.",
        )
    return text


def _groups(rewards: Sequence[RewardBase], run_dir: Path | None, users: Sequence[str]) -> list[str]:
    """The preference groups that rewards and prepared data name; one for all if they name none."""
    found = dict.fromkeys(users)
    for reward in rewards:
        found.update(dict.fromkeys(reward.preference_groups or ()))
        if isinstance(reward, PersonasReward) and reward.preference_groups is None:
            found.update(dict.fromkeys(PERSONAS))
    manifest = read_manifest(run_dir) if run_dir else None
    found.update(dict.fromkeys(manifest["preference_groups"] if manifest else ()))
    if len(found) > MAX_GROUPS:
        note(f"The first {MAX_GROUPS} of {len(found)} preference groups; --group names others.")
    return list(found)[:MAX_GROUPS] or [ANY_GROUP]
