"""`pgrpo train --profile N`: a trace of N steps, to be opened in Perfetto or chrome://tracing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .terminal import note

if TYPE_CHECKING:
    from pgrpo_cli.training import Observer


class ProfilingDisplay:
    """Passes everything on to a display, and tells the profiler where phases and steps end."""

    def __init__(self, display: Observer, profiler: Any) -> None:
        self._display, self._profiler = display, profiler
        self._phase: Any = None

    def on_phase(self, step: int, phase: str) -> None:
        """Name what is being traced after the phase."""
        import torch

        self._end_phase()
        self._phase = torch.profiler.record_function(phase)
        self._phase.__enter__()
        self._display.on_phase(step, phase)

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """A step is done."""
        self._end_phase()
        self._profiler.step()
        self._display.on_step(record, groups)

    def on_message(self, text: str) -> None:
        """Nothing of the trace."""
        self._display.on_message(text)

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
            self._phase = None


@contextmanager
def profiled(display: Observer, folder: Path, *, steps: int, left: int) -> Iterator[Any]:
    """A display that traces `steps` of the `left` steps into `folder`.

    The first step is left out if it can be spared: it pays for caches and captured graphs.
    """
    import torch

    def write(profiler: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"trace-{len(list(folder.glob('trace-*.json.gz'))) + 1}.json.gz"
        profiler.export_chrome_trace(str(path))
        note(f"profile: {path}; open it in https://ui.perfetto.dev")

    skipped = 1 if left > steps else 0
    schedule = torch.profiler.schedule(skip_first=skipped, wait=0, warmup=0, active=steps, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=write) as profiler:
        yield ProfilingDisplay(display, profiler)
