"""`pgrpo train` from exec to its end, watched from outside, and killed at a chosen moment."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STAGES = ("starting", "preparing", "loading", "training", "finishing", "leaving")
"""What a process does in turn: `finishing` writes the adapter, `leaving` begins once it is in its place.

One that goes on from a checkpoint does not prepare, and is `starting` until it has loaded.
"""

_LIBC = ctypes.CDLL(None, use_errno=True)
_POLL_SECONDS = 0.002
_PATIENCE_SECONDS = 600


class Life:
    """One process that trains `recipe`, of `steps` steps, into `run`.

    Its messages go to files in `folder`. Times are seconds of processor time since exec: other processes of a
    busy machine hardly stretch them.
    """

    def __init__(self, folder: Path, recipe: Path, run: Path, *options: str, steps: int) -> None:
        folder.mkdir()
        self._run, self._out, self._err = run, folder / "stdout", folder / "stderr"
        self._last_step = f"step {steps}/{steps} "
        # File systems stamp files with a clock that lags by some milliseconds; a start takes longer.
        self._began = time.time_ns()
        command = [sys.executable, "-m", "pgrpo_cli", "train", str(recipe), "--run-dir", str(run), *options]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(command, stdout=out, stderr=err)

    @property
    def stdout(self) -> str:
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8", errors="replace")

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def stage(self) -> int:
        """The last of `STAGES` that has begun, as its index."""
        if self._is_new(self._run / "adapter"):
            return 5
        messages = self.stderr
        if self._last_step in messages or self._is_new(self._run / ".adapter.tmp"):
            return 4
        if messages.startswith("step ") or "\nstep " in messages:
            return 3
        if " training prompts" in messages or self.stdout.startswith("resumed from step "):
            return 2
        return 1 if self._is_new(self._run / ".data-next") else 0

    def _is_new(self, path: Path) -> bool:
        """Whether this process has made `path`; a killed one may have left it."""
        try:
            return path.stat().st_mtime_ns > self._began
        except FileNotFoundError:
            return False

    def lengths(self) -> list[float]:
        """Wait for the end; the time spent in each stage."""
        begins: list[float] = []
        now = 0.0
        for _ in self._moments():
            now = self._now(now)
            begins += [now] * (self.stage + 1 - len(begins))
        assert self._process.returncode == 0, self.stderr
        ends = [*begins[1:], now]
        return [end - begin for begin, end in zip(begins, ends, strict=True)]

    def kill(self, stage: int, after: float) -> int | None:
        """Kill -9 once it has spent `after` in a stage, or later if it skips that one.

        Returns the stage in which it was then; None if it had ended before.
        """
        moment: float | None = None
        for _ in self._moments():
            if moment is None and self.stage >= stage:
                moment = self._now(0.0) + after
            if moment is not None and self._now(moment) >= moment:
                break
        killed = not self.ended
        self._process.kill()
        self._process.wait()
        return self.stage if killed else None

    def _moments(self) -> Iterator[None]:
        """One moment after another until the process has ended."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.ended:
            yield
            assert time.monotonic() < deadline, f"running for more than {_PATIENCE_SECONDS} s:\n{self.stderr}"
            time.sleep(_POLL_SECONDS)

    def _now(self, once_ended: float) -> float:
        """Processor time spent so far, or `once_ended`."""
        clock = ctypes.c_int()
        if _LIBC.clock_getcpuclockid(self._process.pid, ctypes.byref(clock)):
            return once_ended
        try:
            return time.clock_gettime(clock.value)
        except OSError:
            return once_ended
