"""Signals twice, wherever the second one lands, and those that come together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgrpo_cli.cli.interrupts import STOP_SIGNALS, Stopped, StopRequest, forwarded_signals, stop_signals


class Anything:
    """Something that weak references can point to."""


def interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def wait_for_it() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.01)


@contextmanager
def not_stopped() -> Iterator[None]:
    """To pytest an exception of this kind is Ctrl-C."""
    try:
        yield
    except Stopped:
        pytest.fail("it was stopped")


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_the_first_stops_a_command_where_it_stands(signum: int) -> None:
    with pytest.raises(Stopped) as stopped, stop_signals(), stop_signals():
        signal.raise_signal(signum)
    assert stopped.value.signum == signum


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_the_first_is_a_request_where_one_is_awaited_and_the_second_an_exception(signum: int) -> None:
    request = StopRequest()
    with pytest.raises(Stopped) as stopped, request.awaited():
        assert not request
        signal.raise_signal(signum)
        assert request and request.signum == signum
        interrupt()
    assert stopped.value.signum == signal.SIGINT
    assert request.signum == signum


def test_what_ends_a_session_is_one_signal_though_it_sends_two() -> None:
    # As if Python had been busy meanwhile: both are handled in one go. In a process without other threads,
    # which would take signals that this one blocks.
    script = (
        "import os, signal\n"
        "from pgrpo_cli.cli.interrupts import STOP_SIGNALS, StopRequest\n"
        "with StopRequest().awaited():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("stopping after this step") == 1


def test_one_that_comes_while_the_first_is_being_said_is_the_same() -> None:
    request = StopRequest()
    sender = f"import os, signal; [os.kill({os.getpid()}, n) for n in (signal.SIGTERM, signal.SIGHUP)]"
    with not_stopped(), request.awaited():
        subprocess.run([sys.executable, "-c", sender], check=True)
        assert request


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_what_the_parent_ignores_stays_ignored(signum: int) -> None:
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with not_stopped(), stop_signals():
            signal.raise_signal(signum)
        assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, before)


def test_a_process_that_does_not_end_is_ended_by_the_second() -> None:
    script = (
        "import signal, time\n"
        "from pgrpo_cli.cli.interrupts import stop_signals\n"
        "with stop_signals():\n"
        "    try: signal.raise_signal(signal.SIGTERM)\n"
        "    finally: signal.raise_signal(signal.SIGHUP); print('still there')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (129, "", "stopped at once\n")


def test_signals_are_forwarded_at_once_and_all_of_them() -> None:
    got: list[int] = []
    with forwarded_signals(got.append):
        for signum in (*STOP_SIGNALS, signal.SIGTERM):
            signal.raise_signal(signum)
    assert got == [*STOP_SIGNALS, signal.SIGTERM]


def test_a_second_one_that_lands_in_the_callback_of_a_weak_reference_is_not_lost() -> None:
    thing = Anything()
    watch = weakref.ref(thing, interrupt)
    with pytest.raises(KeyboardInterrupt), StopRequest().awaited():
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

    with pytest.raises(KeyboardInterrupt), StopRequest().awaited():
        interrupt()
        things: list[object] = [Interrupted(), Slow()]
        # The interrupt dropped by the first finalizer comes back within the second, which drops it as well.
        while things:
            things.pop(0)
        wait_for_it()


def test_afterwards_handlers_hook_and_timer_are_as_before() -> None:
    numbers = (*STOP_SIGNALS, signal.SIGALRM)
    before = [*map(signal.getsignal, numbers), sys.unraisablehook]
    with stop_signals():
        assert [*map(signal.getsignal, numbers), sys.unraisablehook] != before
    assert [*map(signal.getsignal, numbers), sys.unraisablehook] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_other_dropped_exceptions_reach_the_hook_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: dropped.append(unraisable.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    with stop_signals():
        Broken()
    assert dropped == [ValueError]
