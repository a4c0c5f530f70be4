"""Rewinds a run to a checkpoint: when a run resumes, all other files go back to the checkpoint's step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from .checkpoint import rewind_checkpoints
from .curve import curve_path
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
    spared: Collection[int | None] = (),
) -> list[str]:
    """Rewind checkpoints, history.sqlite and metrics.jsonl to `step` (0: to the start).

    `groups` and `parts` are the statistics at that step; `keep` checkpoints are kept, and those of the steps
    `spared`. Returns a message for each file that has lost records. Raises CheckpointError if a file is
    damaged or writing fails, RunError if the run's lock is lost.
    """
    run.require_lock()
    _remove_leftovers(run)
    rewind_checkpoints(run, step, keep=keep, spared=spared)
    missing = [path for path in (run.history_path, run.metrics_path) if not path.exists()]
    with HistoryStore(run.history_path) as store:
        store.rewind(step, groups, parts)
        stored = store.steps()
    logged = RunLog(run.metrics_path).rewind(step)
    lost = [
        (path, what, [s for s in range(1, step + 1) if s not in found])
        for path, what, found in (
            (run.history_path, "completions", stored),
            (run.metrics_path, "metrics", logged),
        )
    ]
    return [_lost(path, what, steps, path in missing) for path, what, steps in lost if steps]


def lost_evaluations(run: RunDirectory, steps: Sequence[int], *, choosing: bool) -> str:
    """A message about the curve, which has lost these steps. `choosing`: the recipe has `train.keep_best`."""
    path = curve_path(run)
    message = _lost(path, "evaluations", steps, missing=not path.exists())
    if choosing:
        message += (
            "; train.keep_best chooses among the others, and this command removes no checkpoint that is there"
        )
    return message


def _remove_leftovers(run: RunDirectory) -> None:
    """Delete temporary files of killed processes."""
    with explained(str(run.path)):
        for name in _REWRITTEN:
            for leftover in run.path.glob(f".{name}.*.tmp"):
                leftover.unlink()


def _lost(path: Path, what: str, steps: Sequence[int], missing: bool) -> str:
    why = "is missing" if missing else "is not complete"
    which = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    return f"{path} {why}; the record of the {what} of {which} is lost, and training continues without it"
