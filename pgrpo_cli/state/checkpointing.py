"""Writing checkpoints during training, and rewinding a run to one.

When a run resumes, all other files are rewound to the step of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.parts import PartHistory
from pgrpo_cli.errors import RewardError
from pgrpo_cli.model.policy import Policy

from .checkpoint import rewind_checkpoints, save_checkpoint
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
    run: RunDirectory, step: int, groups: Iterable[GroupRow], parts: Iterable[PartRow] = (), *, keep: int
) -> list[str]:
    """Rewind checkpoints, history.sqlite and metrics.jsonl to `step` (0: to the start).

    `groups` and `parts` are the statistics at that step; `keep` checkpoints are kept. Returns a message for
    each file that has lost records. Raises CheckpointError if a file is damaged or writing fails.
    """
    _remove_leftovers(run)
    rewind_checkpoints(run, step, keep=keep)
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
    return [f"{path} {why}; the record of the {what} of {which} is lost, and training goes on without it"]


@dataclass
class Saver:
    """Writes checkpoints.

    If a reward fails inside its `with` block, for instance because a judge is down, it also saves the last
    finished step. This is possible because a step changes none of the saved state before its rewards are
    known.

    `done` is the last finished step, `saved` the last one with a checkpoint; `keep` checkpoints are kept.
    """

    run: RunDirectory
    policy: Policy
    optimizer: torch.optim.Optimizer
    history: RewardHistory
    parts: PartHistory | None
    keep: int
    saved: int
    done: int = 0

    def save(self, step: int) -> None:
        """Write the checkpoint of a finished step. Raises CheckpointError if writing fails."""
        save_checkpoint(
            self.run,
            step,
            self.policy,
            self.optimizer,
            self.history.state_dict(),
            self.parts.state_dict() if self.parts else None,
            keep=self.keep,
        )
        self.saved = step

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RewardError) and self.done > self.saved:
            self.save(self.done)
