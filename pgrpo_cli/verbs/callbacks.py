"""What a verb says while it works, and what it asks of the command line, a notebook, or a test."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pgrpo_cli.errors import RunWarning

if TYPE_CHECKING:
    from pgrpo_cli.algo.types import GroupStats
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.state.run import RunDirectory
    from pgrpo_cli.training import Observer

    from .prepare import PrepareReport


class Callbacks:
    """Derive from it and override what you want to hear of. By default messages are Python warnings."""

    def on_message(self, text: str) -> None:
        """Something that the user should know."""
        warnings.warn(text, RunWarning, stacklevel=2)

    def on_note(self, text: str) -> None:
        """A detail, such as which device computes, or what a judge has cost."""

    def on_run(self, run: RunDirectory, recipe: Recipe) -> None:
        """The directory of the run is known, and belongs to the recipe."""

    def on_prepared(self, report: PrepareReport) -> None:
        """The data are prepared."""

    def on_resumed(self, step: int) -> None:
        """Training continues after the checkpoint of that step."""

    def on_phase(self, step: int, phase: str) -> None:
        """A training step enters `rollout`, `reward`, `training`, `save` or `evaluation`."""

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, GroupStats]) -> None:
        """A training step is done.

        `record` is its line of metrics.jsonl, `groups` what is known of its preference groups now.
        """

    def on_progress(self, which: str, done: int, total: int) -> None:
        """How far an evaluation is: with the models `base` and `tuned` it counts prompts.

        `base tasks` and `tuned tasks` count requests of lm-eval, `judge` counts pairs of completions.
        """

    def on_failure(self, error: Exception) -> None:
        """A request to a server failed unexpectedly; the server keeps running."""
        warnings.warn(f"a request failed: {error!r}", RunWarning, stacklevel=2)

    def stop_requested(self) -> bool:
        """Whether to stop: training after the step at hand, which is saved, and Interrupted is raised; a
        server at once.
        """
        return False

    @contextmanager
    def training(self, run: RunDirectory, *, steps: int, done: int) -> Iterator[Observer]:
        """Entered around the training steps from `done` + 1 to `steps`; what it yields observes them."""
        yield self

    @contextmanager
    def serving(self, url: str) -> Iterator[None]:
        """Entered while a server answers requests at that address."""
        yield
