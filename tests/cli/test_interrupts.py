"""Ctrl-C twice, wherever the second one lands."""

from __future__ import annotations

import signal
import sys
import time
import weakref

import pytest

from pgrpo_cli.cli.interrupts import stop_on_interrupt


class Anything:
    """Something that weak references can point to."""


def interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def wait_for_it() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_first_is_a_request_and_the_second_an_exception() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt() as requested:
        assert not requested()
        interrupt()
        assert requested()
        interrupt()


def test_a_second_one_that_lands_in_the_callback_of_a_weak_reference_is_not_lost() -> None:
    thing = Anything()
    watch = weakref.ref(thing, interrupt)
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt():
        interrupt()
        del thing
        assert watch() is None
        wait_for_it()


def test_a_second_one_that_lands_in_a_finalizer_again_and_again_is_not_lost() -> None:
    class Interrupted:
        def __del__(self) -> None:
            interrupt()

    class Slow:
        """Its finalizer outlasts the wait for the next try."""

        def __del__(self) -> None:
            time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt), stop_on_interrupt():
        interrupt()
        things: list[object] = [Interrupted(), Slow()]
        # The interrupt dropped by the first finalizer comes back within the second, which drops it as well.
        while things:
            things.pop(0)
        wait_for_it()


def test_afterwards_handlers_hook_and_timer_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM), sys.unraisablehook
    with stop_on_interrupt():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM), sys.unraisablehook) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_other_dropped_exceptions_reach_the_hook_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: dropped.append(unraisable.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    with stop_on_interrupt():
        Broken()
    assert dropped == [ValueError]
