"""What `pgrpo train` was asked to do with a run, and what it does first with either engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum, sentences_about
from pgrpo_cli.state.checkpoint import Checkpoint, latest_checkpoint
from pgrpo_cli.state.extend import Extension
from pgrpo_cli.state.fingerprint import fingerprint_of, settle
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.runlog import Tracker, open_trackers

from .callbacks import Callbacks
from .prepare import prepare_run


@dataclass(frozen=True)
class Beginning:
    """Where training continues: at the newest checkpoint, or at the start (None), with prepared data.

    `tokenizer`: that of the preparation; None where there was none.
    """

    checkpoint: Checkpoint | None
    trackers: Sequence[Tracker]
    tokenizer: Any


@dataclass(frozen=True)
class TrainingCall:
    """A run that is claimed and locked, with the arguments of `train`.

    `extension`: of a finished run that is to have more steps. `recipe_dir` is where the recipe's relative
    paths start.
    """

    run: RunDirectory
    recipe: Recipe
    recipe_dir: Path
    extension: Extension | None
    accept_changes: bool
    allow_code: bool
    force: bool
    allowed_hosts: Collection[str]
    device: torch.device
    callbacks: Callbacks

    def rewards(self) -> RewardSum:
        """The recipe's rewards."""
        return build_rewards(
            self.recipe.rewards, self.recipe_dir, self.allow_code,
            run_dir=self.run.path, allowed_hosts=self.allowed_hosts, device=self.device,
        )  # fmt: skip

    def begin(self) -> Beginning:
        """Find the newest checkpoint, and prepare the data where there is none."""
        checkpoint, problems = latest_checkpoint(self.run)
        for problem in problems:
            self.callbacks.on_message(f"warning: {problem}; falling back to the one before")
        first_step = checkpoint.step + 1 if checkpoint else 1
        recipe = self.recipe
        settings = recipe.model_dump(mode="json")
        trackers = open_trackers(recipe.log, self.run.path, settings, first_step=first_step)
        tokenizer = None
        if checkpoint is None:
            report, tokenizer = prepare_run(
                self.run, recipe, self.recipe_dir, allow_code=self.allow_code, force=self.force
            )
            self.callbacks.on_prepared(report)
        return Beginning(checkpoint, trackers, tokenizer)

    def settle(self, checkpoint: Checkpoint | None) -> None:
        """Compare data, model and files of rewards with those that the run began with."""
        self.run.require_lock()
        found = fingerprint_of(self.run, self.recipe.model, self.recipe.rewards, self.recipe_dir)
        step = checkpoint.step if checkpoint else None
        for sentence in settle(self.run, found, step=step, accept=self.accept_changes):
            self.callbacks.on_message(f"warning: {sentence}")

    def go_on(self, checkpoint: Checkpoint | None) -> None:
        """Say where training continues, and write down that a finished run is to have more steps."""
        if checkpoint is not None:
            self.callbacks.on_resumed(checkpoint.step)
        if self.extension is not None:
            self.callbacks.on_message(self.extension.apply())

    @contextmanager
    def reporting(self, rewards: RewardSum) -> Iterator[None]:
        """At the end, also of a run that stops, say what the rewards have used and what failed of them."""
        try:
            yield
        finally:
            for sentence in sentences_about(rewards):
                self.callbacks.on_note(sentence)
