"""The training loop without the command line around it: who watches it, and how it is begun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.eval.sampling import held_out_curve
from pgrpo_cli.model.load.base_model import load_tokenizer
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.prepare import prepare
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum
from pgrpo_cli.state.checkpoint import latest_checkpoint
from pgrpo_cli.state.run import RunDirectory, claim, locked
from pgrpo_cli.train import train


class Watcher:
    """An observer that remembers, and asks for a stop after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.events: list[tuple[int, str]] = []
        self.messages: list[str] = []
        self._stop_after, self._step = stop_after, 0

    def on_phase(self, step: int, phase: str) -> None:
        self._step = step
        self.events.append((step, phase))

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        self.events.append((record["step"], "done"))

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def stop_requested(self) -> bool:
        return self._step == self._stop_after


class Tracker:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.numbers: dict[str, float] = {}
        self.closed = 0

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.numbers = dict(numbers)

    def close(self) -> None:
        self.closed += 1


def go(
    recipe_path: Path,
    run_path: Path,
    *overrides: str,
    watcher: Watcher | None = None,
    rewards: RewardSum | None = None,
    tracker: Tracker | None = None,
    touch: Callable[[Any], None] = lambda policy: None,
) -> Watcher:
    """Begin the run, or go on with it, as the command does. `touch` gets the policy before the first step."""
    recipe = load_recipe(recipe_path, overrides)
    run, folder, watcher = RunDirectory(run_path), recipe_path.parent, watcher or Watcher()
    with locked(run):
        claim(run, recipe, folder)
        checkpoint, _ = latest_checkpoint(run)
        if checkpoint is None:
            prepare(recipe, run.path, folder, load_tokenizer(recipe.model, folder))
        policy = load_policy(recipe, recipe_dir=folder, adapter=checkpoint.path if checkpoint else None)
        touch(policy)
        train(
            run, recipe, policy, load_prepared(run.path, "train"),
            rewards or build_rewards(recipe.rewards, folder, allow_code=False),
            checkpoint=checkpoint, observer=watcher, stop_requested=watcher.stop_requested,
            trackers=[tracker] if tracker else [], curve=held_out_curve(run, recipe),
        )  # fmt: skip
    return watcher
