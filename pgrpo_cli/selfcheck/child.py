"""A process that says lines through a pipe of its own, and why it has ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress

_WAIT_SECONDS = 10.0
"""How long the end of a process is waited for. One that hangs in the driver cannot be ended."""
_LOG_BYTES = 4096


class Child:
    """Runs `command` with the number of the pipe as its last argument, until the end of the `with` block.

    It has a session of its own: Ctrl-C ends the parent, which ends the child with all its processes.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.ended = False
        self._rest = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._pipe, writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._wait()
        os.close(self._pipe)
        self._log.close()

    def line(self, seconds: float) -> str | None:
        """The next line that it says within so many seconds; None: it said none. Then `ended` tells whether
        it has closed the pipe.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            more = os.read(self._pipe, 1 << 16)
            if not more:
                self.ended = True
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def cause(self) -> str:
        """How a process that has ended did so, and the last line that it printed."""
        self._wait()
        code, last = self._process.poll(), self._last_words()
        if code is None:
            how = "its process closed the pipe"
        elif code < 0:
            how = f"its process was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += ", perhaps by the system for want of memory"
        else:
            how = f"its process ended with code {code}"
        return f"{how}; it printed last: {last}" if last else how

    def _wait(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_WAIT_SECONDS)

    def _last_words(self) -> str:
        """The last line of its output that says something."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_BYTES))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")
