"""What the first process writes down of each step, as the native engine does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pgrpo_cli.algo.types import UpdateResult
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.checkpoint import TrainingState, save_checkpoint
from pgrpo_cli.state.history_store import HistoryStore
from pgrpo_cli.state.records import ScoredStep, step_record
from pgrpo_cli.state.rewind import rewind
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.runlog import RunLog, Tracker
from pgrpo_cli.training import Clock, Observer

METRICS = {
    "clip_fraction_low": "clip_ratio/low_mean",
    "clip_fraction_high": "clip_ratio/high_mean",
    "kl": "kl",
}
"""Our names of what TRL logs of an update."""


@dataclass(frozen=True)
class StepFacts:
    """What was gathered of a step: its completions without their entropy, tokens of one update, usage."""

    scored: Mapping[str, Any]
    tokens: int
    padding: int
    usage: Mapping[str, Mapping[str, float]]


@dataclass
class Recorder:
    """Writes history.sqlite and metrics.jsonl, and tells the observer. Use as a context manager."""

    run: RunDirectory
    recipe: Recipe
    observer: Observer
    trackers: Sequence[Tracker]
    histories: RewardHistories
    facts: StepFacts | None = None
    updates: list[UpdateResult] = field(default_factory=list)

    def begin(self, done: int) -> None:
        """Put the run's files back to the checkpoint of step `done`, whose history is loaded."""
        rows, keep = self.histories.rows(), self.recipe.train.keep_checkpoints
        for warning in rewind(self.run, done, *rows, keep=keep):
            self.observer.on_message(f"warning: {warning}")
        self.done = done
        self.clock = Clock(self.observer)
        self.clock.begin(done + 1)

    def __enter__(self) -> Recorder:
        self._store = HistoryStore(self.run.history_path).__enter__()
        self._log = RunLog(self.run.metrics_path, self.trackers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
        self._store.__exit__(kind, error, trace)

    def updated(self, logs: Mapping[str, float]) -> None:
        """TRL has made an update, and logs this; with the last of a step, that is written down."""
        assert self.facts is not None
        self.updates.append(
            UpdateResult(
                loss=logs["loss"],
                grad_norm=logs["grad_norm"],
                metrics={
                    ours: logs[theirs] for ours, theirs in METRICS.items() if logs.get(theirs) is not None
                },
                tokens=self.facts.tokens,
                padding=self.facts.padding,
                reference_seconds=0.0,
            )
        )
        if len(self.updates) == self.recipe.train.updates_per_rollout:
            self._write(self.facts, logs["entropy"])
            self.updates = []
            self.clock.begin(self.done + 1)

    def _write(self, facts: StepFacts, entropy: float | None) -> None:
        self.clock.enter("save")
        self.run.require_lock()
        scored = ScoredStep(**facts.scored, entropy=entropy)
        groups = self.histories.record(self._store, scored)
        self.clock.enter(None)
        budgets = {"training": self.recipe.train.micro_batch_budget}
        learning_rate = self.recipe.train.learning_rate_at(scored.step)
        record = step_record(scored, self.updates, learning_rate, self.clock.seconds, budgets, facts.usage)
        self._log.append(record)
        self.done = scored.step
        self.observer.on_step(record, groups)

    def save(self, engine_files: Path, adapter: Any) -> None:
        """Make a checkpoint of the run of what TRL has saved in a folder, and of the histories."""
        state = TrainingState(
            adapter=adapter,
            optimizer={},
            loss_scale=None,
            histories=self.histories.states(),
            engine_files=engine_files,
        )
        save_checkpoint(self.run, self.done, state, keep=self.recipe.train.keep_checkpoints)
