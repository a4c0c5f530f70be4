"""What a verb says, on a terminal: the one listener of `prepare`, `train`, `eval` and `compare`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pgrpo_cli.verbs.callbacks import Callbacks

from .failures import keep_traces_in, report_failure
from .interrupts import StopRequest
from .terminal import emit, note, stderr

if TYPE_CHECKING:
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.state.run import RunDirectory
    from pgrpo_cli.training import Observer
    from pgrpo_cli.verbs.prepare import PrepareReport

    from .eval_shown import Shown


class Terminal(Callbacks):
    """Notes on standard error, unless quiet; signals that ask for a stop; traces into the run's directory.

    `progress` shows how far an evaluation is; `profile` training steps are traced.
    """

    run: RunDirectory | None = None
    recipe: Recipe
    """That of the run; there is none before the run."""

    def __init__(self, *, quiet: bool, progress: Shown | None = None, profile: int = 0) -> None:
        self.stop = StopRequest()
        self._quiet, self._progress, self._profile = quiet, progress, profile

    def on_message(self, text: str) -> None:
        note(text)

    def on_note(self, text: str) -> None:
        if not self._quiet:
            note(text)

    def on_run(self, run: RunDirectory, recipe: Recipe) -> None:
        keep_traces_in(run.path)
        self.run, self.recipe = run, recipe

    def on_prepared(self, report: PrepareReport) -> None:
        from .prepared import show_report

        if not self._quiet:
            show_report(report)

    def on_resumed(self, step: int) -> None:
        emit(f"resumed from step {step}")

    def on_progress(self, which: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(which, done, total)

    def on_failure(self, error: Exception) -> None:
        report_failure(error)

    def stop_requested(self) -> bool:
        return bool(self.stop)

    @contextmanager
    def training(self, run: RunDirectory, *, steps: int, done: int) -> Iterator[Observer]:
        from .display import training_display
        from .profiling import profiled

        with ExitStack() as stack:
            display: Observer = stack.enter_context(
                training_display(stderr, steps=steps, done=done, quiet=self._quiet)
            )
            if self._profile:
                traced = profiled(display, run.path / "profile", steps=self._profile, left=steps - done)
                display = stack.enter_context(traced)
            stack.enter_context(self.stop.awaited())
            yield display

    @contextmanager
    def serving(self, url: str) -> Iterator[None]:
        self.stop.says = "stopping; answers at work are cut short"
        emit(f"Serving at {url} (the page) and {url}/v1 (OpenAI's interface)")
        self.on_note("Ctrl-C stops it.")
        with self.stop.awaited():
            yield
