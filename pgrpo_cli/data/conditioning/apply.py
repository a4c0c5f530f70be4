"""`data.conditioning` on records that are in their halves and preference groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_cli.data.records import PromptRecord, RejectedRow
from pgrpo_cli.recipe.conditioning import ExamplesConditioning, ProfilesConditioning
from pgrpo_cli.recipe.data import DataSection

from .examples import with_examples
from .profiles import profiles_of
from .system_message import with_system_messages


@dataclass(frozen=True)
class Applied:
    """The records of each half with what they have been given, and the rows of those that could not be.

    `profiles`: the description of each preference group, where there are such. `notes` are for the user.
    """

    halves: Mapping[str, tuple[PromptRecord, ...]]
    rejected: tuple[RejectedRow, ...] = ()
    profiles: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def apply(
    data: DataSection,
    system_prompt: str | None,
    halves: Mapping[str, Sequence[PromptRecord]],
    findings: Mapping[str, Any] | None,
    seed: int,
) -> Applied | None:
    """What the model is told besides the rows' own messages; None where that is nothing.

    `system_prompt`: the recipe's. `findings`: what is known of clusters. Raises DataError where the data lack
    what the section needs, RecipeError for a template that cannot be used.
    """
    section = data.conditioning
    if isinstance(section, ExamplesConditioning):
        with_turns, without = with_examples(section, halves, seed)
        return Applied(with_turns, notes=_about(without, sum(map(len, halves.values()))))
    if isinstance(section, ProfilesConditioning):
        groups = dict.fromkeys(record.assigned for half in halves.values() for record in half)
        profiles = profiles_of(section, data, groups, findings)
        return _by_template(section.template, system_prompt, halves, profiles)
    if section.template is None:
        return None
    return _by_template(section.template, system_prompt, halves, None)


def _by_template(
    template: str,
    system_prompt: str | None,
    halves: Mapping[str, Sequence[PromptRecord]],
    profiles: Mapping[str, str] | None,
) -> Applied:
    made = {
        half: list(with_system_messages(members, template, system_prompt, profiles))
        for half, members in halves.items()
    }
    return Applied(
        {
            half: tuple(record for record in members if isinstance(record, PromptRecord))
            for half, members in made.items()
        },
        tuple(row for members in made.values() for row in members if isinstance(row, RejectedRow)),
        profiles,
    )


def _about(without: int, prompts: int) -> tuple[str, ...]:
    if not without:
        return ()
    return (
        f"{without} of {prompts} prompts have no example before them: of whoever asks there is no liked "
        "answer to another question, or none from before",
    )
