"""The process that a command runs in: its standard streams, its signals, and its children's code."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from .interrupts import exit_code, restore_default_signals, signal_of, stop_signals


def run() -> NoReturn:
    """Run the command that the process was started for, and end with its exit code."""
    open_streams()
    # Children, those of libraries too, do not run what lies in the folder that the command is started in.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        with stop_signals():
            from .app import app
            from .libraries import show_own_warnings

            show_own_warnings()
            app(prog_name="pgrpo")
        sys.exit()
    except KeyboardInterrupt as stop:
        # It came before the command was there to say so.
        sys.exit(exit_code(signal_of(stop)))
    except Exception as error:
        from .failures import report_failure

        sys.exit(report_failure(error))
    finally:
        restore_default_signals()
        empty_streams()


def open_streams() -> None:
    """Make the standard streams fit to be written to, whatever the parent has left of them.

    A stream that it has closed is opened on nothing: the next file would take its number, and what a library
    prints would land in that file. A character that a stream's encoding lacks is written as an escape, and a
    byte that is none in the encoding of the standard input is read as U+FFFD.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, so this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def empty_streams() -> None:
    """Write what waits in the standard streams' buffers, or drop it: Python would try again, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
