"""`train` as Python calls it: with callbacks that remember, and rewards or a tracker of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.rewards.reward_sum import RewardSum
from pgrpo_cli.verbs import train as module
from pgrpo_cli.verbs import training_call
from pgrpo_cli.verbs.callbacks import Callbacks


class Watcher(Callbacks):
    """Remembers what it is told, and asks for a stop after a step."""

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
    """Begin the run, or go on with it. `touch` gets the policy before the first step."""
    watcher = watcher or Watcher()

    def load(*arguments: Any, **options: Any) -> Policy:
        policy = load_policy(*arguments, **options)
        touch(policy)
        return policy

    with ExitStack() as stack:
        stack.enter_context(patch.object(module, "load_policy", load))
        if rewards is not None:
            stack.enter_context(patch.object(training_call, "build_rewards", lambda *_, **__: rewards))
        if tracker is not None:
            stack.enter_context(patch.object(training_call, "open_trackers", lambda *_, **__: [tracker]))
        module.train(recipe_path, run_dir=run_path, overrides=overrides, callbacks=watcher)
    return watcher
