"""A run so far as the diagnosis sees it: read from its files, and never written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.report.diagnosis.view import (
    RECENT_STEPS,
    WINDOW_STEPS,
    Completions,
    Metrics,
    PastRewards,
    RunView,
    TrainingPrompts,
)

from .history_store import GroupRow, ScoredCompletion, decode_parts, read_latest
from .run import RunDirectory
from .runlog import read_metrics

MOST_COMPLETIONS = 20_000
"""Completions in a view, give or take: a quarter of a second to read."""
MOST_LINES = 1000
"""Lines of metrics.jsonl in a view: of a longer run the first and the latest."""


class RunReader:
    """Views of a run while it goes on, at a cost that does not grow with it.

    `metrics.jsonl` is read once, when it is first needed; later lines must be told. Of `history.sqlite` the
    latest steps are read each time.
    """

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        self._run, self._recipe = run, recipe
        self._lines: list[Mapping[str, Any]] | None = None
        self._prompts = _training_prompts(run)
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
        return RunView(
            recipe=self._recipe,
            metrics=Metrics(tuple(self._lines)),
            completions=_columns(completions),
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
    return RunReader(run, run.recipe()).view()


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
