"""What is to be exported, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgrpo_cli.data.conditioning.presets import Preset, group_presets, preference_groups_of
from pgrpo_cli.eval.targets import EvalTarget

from .comparison import UNCHANGED, Checked, compared, require_near
from .formats import Format, bound
from .reference import Answer, Read

MOST_PRESETS = 100
"""Preference groups that get a preset: the largest."""


@dataclass(frozen=True)
class Job:
    """What is to be exported. `answers` are the run's own, `exact` is how the weights that
    are exported read them in float32, `stop_token_ids` the tokens at which it stops. `rounded`: the compute
    dtype from which the run made its NF4 weights, where the adapter is merged into these; else None."""

    target: EvalTarget
    to: Format
    quantization: str | None
    llama_cpp: Path | None
    rounded: str | None
    answers: tuple[Answer, ...]
    exact: tuple[Read, ...]
    stop_token_ids: tuple[int, ...]
    on_note: Callable[[str], None] = field(repr=False)


@dataclass(frozen=True)
class Written:
    """What was found about a written export. `quantization`: the type of its weights. `base`: what the
    adapter was merged into, as a sentence. `commands`: from the folder, what a user may type next.
    """

    checked: Checked
    quantization: str
    base: str
    commands: Callable[[Path], tuple[str, ...]] = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict)


def checked(job: Job, found: Sequence[Read], quantization: str | None, by: str) -> Checked:
    """The comparison of what was read back. Raises ExportError."""
    result = compared(job.answers, job.exact, found, bound=bound(quantization), by=by)
    require_near(result, job.answers, found)
    if result.trained_difference <= UNCHANGED:
        job.on_note(
            "note: training has changed nothing measurable; the export answers as the base model does"
        )
    return result


def presets_of(target: EvalTarget) -> tuple[list[Preset], int]:
    """A preset for each preference group, the largest first, and how many more groups there are."""
    names = preference_groups_of(target.run.path)
    found = group_presets(target.run.path, target.recipe, names[:MOST_PRESETS])
    return found, len(names) - len(found)
