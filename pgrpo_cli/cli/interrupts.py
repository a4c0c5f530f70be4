"""Signals that ask the process to end: Ctrl-C's, that of a terminal that closes, a scheduler's.

The first stops a command where it stands, or after the step at hand; another one ends it at once. A signal
that the parent process ignores, as nohup and a shell's background jobs do, stays ignored. docs/exit-codes.md
says what users get.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_TOGETHER_SECONDS = 0.1
"""Signals that come within this time are one."""
_AGAIN_AFTER = 0.05
"""Seconds until an exception that was swallowed is raised anew, elsewhere."""


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


def signal_of(stop: KeyboardInterrupt) -> int:
    """The signal behind an exception; one that is not ours is Ctrl-C's."""
    return getattr(stop, "signum", signal.SIGINT)


def exit_code(signum: int) -> int:
    """What a shell shows for a process that the signal has ended."""
    return 128 + signum


class StopRequest:
    """What was asked for while a command would rather finish what it is doing; true once a signal has come.

    `says`: what the first signal does, for the user.
    """

    signum: int | None = None

    def __init__(self, says: str = "stopping after this step") -> None:
        self.says = says

    def __bool__(self) -> bool:
        return self.signum is not None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Within the block the first signal only makes this true."""
        with stop_signals() as handlers:
            handlers.request = self
            try:
                yield
            finally:
                handlers.request = None

    def _take(self, signum: int) -> None:
        from .terminal import note

        self.signum = signum
        if signum == signal.SIGINT:
            note(f"{self.says}; press Ctrl-C again to stop at once")
        else:
            name = signal.Signals(signum).name
            note(f"{name}: {self.says}; another signal, or Ctrl-C, stops at once")


class Handlers:
    """What happens when a signal comes. `stopped`: what the first one has raised."""

    def __init__(self) -> None:
        self.request: StopRequest | None = None
        self.forward: Callable[[int], None] | None = None
        self.stopped: Stopped | None = None
        self._counting = False

    def on_signal(self, signum: int, frame: object) -> None:
        if self.forward is not None:
            self.forward(signum)
        elif not self._counts(signum):
            return
        elif self.request is not None and not self.request:
            # Python may be writing to the same stream just now, and writes nothing twice at a time.
            with suppress(RuntimeError):
                self.request._take(signum)
        elif self.stopped is None:
            self.stopped = Stopped(signum)
            raise self.stopped
        else:
            _end_at_once(signum)

    def _counts(self, signum: int) -> bool:
        """Whether a signal is one by itself, not part of one that is just being counted.

        Whoever ends a session sends SIGHUP along with SIGTERM, and a run of a sweep may get a signal itself
        and once more from the sweep.
        """
        if self._counting:
            return False
        self._counting = True
        try:
            time.sleep(_TOGETHER_SECONDS)
            # Those that came before, while Python was busy elsewhere, are handled with this one, here.
            signal.raise_signal(signum)
        finally:
            self._counting = False
        return True

    def on_alarm(self, signum: int, frame: object) -> None:
        raise self.stopped or KeyboardInterrupt

    @contextmanager
    def installed(self) -> Iterator[None]:
        ours: dict[int, Any] = dict.fromkeys(STOP_SIGNALS, self.on_signal)
        ours[signal.SIGALRM] = self.on_alarm
        before = {number: signal.getsignal(number) for number in ours}
        hook = sys.unraisablehook

        def on_unraisable(dropped: Any) -> None:
            if dropped.exc_type is not None and issubclass(dropped.exc_type, KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER)
            else:
                hook(dropped)

        sys.unraisablehook = on_unraisable
        taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        for number in taken:
            signal.signal(number, ours[number])
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number in taken:
                signal.signal(number, before[number])
            sys.unraisablehook = hook


_handlers: Handlers | None = None
"""Those that are installed in this process."""


@contextmanager
def stop_signals() -> Iterator[Handlers]:
    """Within the block the first signal raises Stopped, and a second one ends the process.

    Python runs signal handlers between any two instructions, also inside finalizers and callbacks of weak
    references, where it reports an exception and drops it. One that ends there is raised again.
    """
    global _handlers
    if _handlers is not None:
        yield _handlers
        return
    _handlers = Handlers()
    try:
        with _handlers.installed():
            yield _handlers
    finally:
        _handlers = None


@contextmanager
def forwarded_signals(forward: Callable[[int], None]) -> Iterator[None]:
    """Within the block `forward` takes every signal."""
    with stop_signals() as handlers:
        handlers.forward = forward
        try:
            yield
        finally:
            handlers.forward = None


def restore_default_signals() -> None:
    """From now on a signal ends the process in the kernel's way."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _end_at_once(signum: int) -> None:
    from .terminal import note, stderr

    with suppress(Exception):
        stderr.show_cursor()
        note("stopped at once")
    os._exit(exit_code(signum))
