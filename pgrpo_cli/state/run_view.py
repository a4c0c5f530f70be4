"""A run so far as the diagnosis sees it, read from its files; findings.json: what it has said of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.diagnosis.finding import Finding
from pgrpo_cli.diagnosis.view import (
    RECENT_STEPS,
    WINDOW_STEPS,
    Completions,
    Metrics,
    PastRewards,
    Personalization,
    RunView,
    TrainingPrompts,
)
from pgrpo_cli.recipe.schema import Recipe

from .files import write_json
from .history_store import GroupRow, ScoredCompletion, decode_parts, read_first, read_latest
from .results import kept_results
from .run import RunDirectory
from .runlog import read_metrics

MOST_COMPLETIONS = 20_000
"""Completions in a view, give or take: a quarter of a second to read."""
MOST_LINES = 1000
"""Lines of metrics.jsonl in a view: of a longer run the first and the latest."""


class RunReader:
    """Views of a run while it trains, at a cost that does not grow with it.

    `metrics.jsonl` is read once, when it is first needed; later lines must be told. Of `history.sqlite` the
    first steps are read once, and the latest ones each time.
    """

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        self._run, self._recipe = run, recipe
        self._lines: list[Mapping[str, Any]] | None = None
        self._prompts = _training_prompts(run)
        self._first = Completions.none()
        sampled = recipe.train.prompts_per_step * recipe.rollout.num_generations
        self._steps = min(WINDOW_STEPS, max(RECENT_STEPS, MOST_COMPLETIONS // sampled))

    def tell(self, record: Mapping[str, Any]) -> None:
        """A line that has just been written to metrics.jsonl."""
        # The file that is still to be read has this line too.
        if self._lines is not None:
            self._keep(record)

    def view(self) -> RunView:
        """The run as it is now. Raises RunError where it has no history.sqlite, or where that is damaged."""
        completions, groups = read_latest(self._run.history_path, self._steps)
        if self._lines is None:
            self._lines = []
            for record in read_metrics(self._run.metrics_path) if self._run.metrics_path.is_file() else ():
                self._keep(record)
        if not len(self._first) and completions and completions[-1].step >= 2 * RECENT_STEPS:
            self._first = _columns(read_first(self._run.history_path, RECENT_STEPS))
        return RunView(
            recipe=self._recipe,
            metrics=Metrics(tuple(self._lines)),
            completions=_columns(completions),
            first_completions=self._first,
            histories={row.preference_group: _past(row) for row in groups},
            training_prompts=self._prompts,
        )

    def _keep(self, record: Mapping[str, Any]) -> None:
        lines = self._lines = self._lines or []
        lines.append(record)
        if len(lines) > MOST_LINES:
            del lines[RECENT_STEPS]


def view_of(run: RunDirectory) -> RunView:
    """A run that is finished, stopped or running. Raises RunError where there is none to look at."""
    return replace(RunReader(run, run.recipe()).view(), personalization=_personalization(run))


def read_said(run: RunDirectory) -> list[dict[str, Any]]:
    """The findings said so far, in order, each with its `step`; none where the file is missing or damaged."""
    try:
        found = read_json(run.findings_path)
        if isinstance(found, list) and all(isinstance(part, str | None) for e in found for part in _key(e)):
            return found
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def not_yet_said(findings: Sequence[Finding], said: Sequence[dict[str, Any]]) -> list[Finding]:
    """Those of `findings` that are not in `said`."""
    keys = {_key(entry) for entry in said}
    return [finding for finding in findings if finding.key not in keys]


def record_said(
    run: RunDirectory, said: Sequence[dict[str, Any]], new: Sequence[Finding], step: int
) -> list[dict[str, Any]]:
    """Add `new`, said at `step`, to the file; returns all of it. Raises OSError where the disk refuses."""
    together = [*said, *({"step": step, **finding.as_json()} for finding in new)]
    write_json(run.findings_path, together)
    return together


def _columns(rows: list[ScoredCompletion]) -> Completions:
    return Completions.of(
        steps=[row.step for row in rows],
        prompts=[row.prompt for row in rows],
        preference_groups=[row.preference_group for row in rows],
        rewards=[row.reward for row in rows],
        parts=[decode_parts(row.parts) for row in rows],
        lengths=[row.length for row in rows],
        texts=[row.text for row in rows],
    )


def _past(row: GroupRow) -> PastRewards:
    return PastRewards(row.n, row.mean, 0.0 if row.std is None else row.std)


def _training_prompts(run: RunDirectory) -> TrainingPrompts:
    """Counts from the manifest of the prepared data; empty where it cannot be read: others say why."""
    try:
        manifest = read_json(run.data / "manifest.json")
        groups = manifest["preference_groups"]
        return TrainingPrompts({str(name): int(counts["train"]) for name, counts in groups.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return TrainingPrompts({})


def _personalization(run: RunDirectory) -> Personalization | None:
    """Of the newest evaluation that has a matrix, beside what `prepare` found."""
    matrices = ((found.step, found.matrix) for found in kept_results(run) if found.matrix is not None)
    step, matrix = next(matrices, (0, None))
    if matrix is None or math.isnan(matrix.margin.tuned.mean):
        return None
    tuned, told = matrix.margin.tuned, _told_apart(run)
    return Personalization(step, tuned.mean, tuned.ci_low, tuned.ci_high, **told)


def _told_apart(run: RunDirectory) -> dict[str, float]:
    """What the manifest says of prompts that do not tell who asks; nothing of data that are older."""
    try:
        found = read_json(run.data / "manifest.json")["conditioning"]
        names = ("ambiguous_share", "classifier_accuracy", "chance")
        return {name: float(found[name]) for name in names if found.get(name) is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _key(entry: dict[str, Any]) -> tuple[str, str | None, str | None]:
    return entry["rule"], entry["preference_group"], entry["part"]
