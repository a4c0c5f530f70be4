"""Ctrl-C while a run trains: the first lets the step at hand finish, the second stops at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .terminal import note

_AGAIN_AFTER = 0.05
"""Seconds until an interrupt that was swallowed is raised anew, elsewhere."""


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C only makes the yielded function answer True; the second raises
    KeyboardInterrupt.

    Python runs signal handlers between any two instructions, also inside finalizers and callbacks of weak
    references, where it reports an exception and drops it. An interrupt that ends there is raised again.
    """
    requested = False

    def on_interrupt(signum: int, frame: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        note("stopping after this step; press Ctrl-C again to stop at once")

    def on_unraisable(dropped: Any) -> None:
        if dropped.exc_type is not None and issubclass(dropped.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER)
        else:
            hook(dropped)

    hook, sys.unraisablehook = sys.unraisablehook, on_unraisable
    before = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        yield lambda: requested
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
