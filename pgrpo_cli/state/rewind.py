"""Rewinds a run to a checkpoint: when a run resumes, all other files go back to the checkpoint's step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .checkpoint import rewind_checkpoints
from .files import explained
from .history_store import GroupRow, HistoryStore, PartRow
from .run import RunDirectory
from .runlog import RunLog

_REWRITTEN = (
    "recipe.yaml",
    "origin.json",
    "paths.json",
    "fingerprint.json",
    "metrics.jsonl",
    "findings.json",
)


def rewind(
    run: RunDirectory,
    step: int,
    groups: Iterable[GroupRow],
    parts: Iterable[PartRow] = (),
    *,
    keep: int,
    best: int | None = None,
) -> list[str]:
    """Rewind checkpoints, history.sqlite and metrics.jsonl to `step` (0: to the start).

    `groups` and `parts` are the statistics at that step; `keep` checkpoints are kept, and that of the step
    `best`. Returns a message for each file that has lost records. Raises CheckpointError if a file is damaged
    or writing fails, RunError if the run's lock is lost.
    """
    run.require_lock()
    _remove_leftovers(run)
    rewind_checkpoints(run, step, keep=keep, best=best)
    missing = [path for path in (run.history_path, run.metrics_path) if not path.exists()]
    with HistoryStore(run.history_path) as store:
        store.rewind(step, groups, parts)
        stored = store.steps()
    logged = RunLog(run.metrics_path).rewind(step)
    return [
        *_lost(run.history_path, "completions", step, stored, missing),
        *_lost(run.metrics_path, "metrics", step, logged, missing),
    ]


def _remove_leftovers(run: RunDirectory) -> None:
    """Delete temporary files of killed processes."""
    with explained(str(run.path)):
        for name in _REWRITTEN:
            for leftover in run.path.glob(f".{name}.*.tmp"):
                leftover.unlink()


def _lost(path: Path, what: str, step: int, found: set[int], missing: list[Path]) -> list[str]:
    lost = [s for s in range(1, step + 1) if s not in found]
    if not lost:
        return []
    why = "is missing" if path in missing else "is not complete"
    which = f"step {lost[0]}" if len(lost) == 1 else f"{len(lost)} steps from {lost[0]} to {lost[-1]}"
    return [f"{path} {why}; the record of the {what} of {which} is lost, and training continues without it"]
