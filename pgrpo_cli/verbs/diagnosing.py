"""The diagnosis while a run trains: a look every few steps, every finding said once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pgrpo_cli.diagnosis.finding import Finding
from pgrpo_cli.diagnosis.rules import diagnose
from pgrpo_cli.diagnosis.view import MIN_STEPS
from pgrpo_cli.errors import PgrpoError
from pgrpo_cli.state.run_view import RunReader, not_yet_said, read_said, record_said

if TYPE_CHECKING:
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.state.run import RunDirectory
    from pgrpo_cli.training import Observer

CHECK_EVERY = 5
"""Steps between two looks, counted from the run's start: a resumed run looks at the same steps."""


class DiagnosingObserver:
    """Passes everything on to another observer, and tells it what is wrong with the run.

    It reads what a step has written and changes nothing of it. Where it cannot look it says so once and looks
    no more: a diagnosis never stops a run.
    """

    def __init__(self, observer: Observer, run: RunDirectory, recipe: Recipe) -> None:
        self._observer, self._run = observer, run
        self._reader = RunReader(run, recipe)
        self._said = read_said(run)
        self._looking, self._pointed = True, False

    def on_phase(self, step: int, phase: str) -> None:
        """Nothing to look at."""
        self._observer.on_phase(step, phase)

    def on_message(self, text: str) -> None:
        """Nothing to look at."""
        self._observer.on_message(text)

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """A step is done and on disk."""
        self._observer.on_step(record, groups)
        self._reader.tell(record)
        step = record["step"]
        if not self._looking or step < MIN_STEPS or step % CHECK_EVERY:
            return
        try:
            self._look(step)
        except (PgrpoError, OSError) as error:
            self._looking = False
            self._observer.on_message(f"warning: step {step}: no more diagnosis in this session: {error}")

    def _look(self, step: int) -> None:
        new = not_yet_said(diagnose(self._reader.view()).findings, self._said)
        for finding in new:
            self._observer.on_message(self._sentence(finding, step))
        if new:
            self._said = record_said(self._run, self._said, new, step)

    def _sentence(self, finding: Finding, step: int) -> str:
        path = shlex.quote(str(self._run.path))
        pointer = "" if self._pointed else f" (pgrpo doctor {path} repeats it)"
        self._pointed = True
        return f"{finding.severity}: step {step}: {finding.says} {finding.remedy}{pointer}"
