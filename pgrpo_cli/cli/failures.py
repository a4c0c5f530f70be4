"""The one place where errors become messages and exit codes; docs/exit-codes.md lists those.

What is no `PgrpoError`, from a library or a defect of this program, is one line, and its trace is in a file.
"""

from __future__ import annotations

import errno
import platform
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from pgrpo_cli import __version__
from pgrpo_cli.errors import Interrupted, PgrpoError

from .interrupts import exit_code, signal_of
from .terminal import note, safe

_ENVIRONMENT_ERRORS = {
    errno.ENOSPC: "Free some disk space and run the same command again.",
    errno.EDQUOT: "Free some of your disk quota and run the same command again.",
    errno.EROFS: "Choose a directory that can be written, for instance with --run-dir.",
    errno.EACCES: "Check the permissions of that path.",
    errno.EPERM: "Check the permissions of that path.",
}


def show_error(error: PgrpoError) -> None:
    """Print the message, and the remedy on lines of its own."""
    if isinstance(error, Interrupted):
        note(error.message)
    else:
        note(error.message, "error: ", "bold red")
    if error.remedy:
        note("\n".join(f"  {line}" for line in error.remedy.splitlines()))


def show_usage(error: Exception) -> int:
    """Print what is wrong with the words of a command, as Typer found it; returns the exit code."""
    # Typer's own exceptions have had several homes.
    context, message = getattr(error, "ctx", None), getattr(error, "format_message", error.__str__)()
    if type(error).__name__ != "NoArgsIsHelpError":  # Its message is the help, which has been shown.
        if context is not None:
            note(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.")
        # Pydantic, which Typer asks for some values, begins so.
        note(message.replace(" Value error,", ""), "error: ", "bold red")
    return getattr(error, "exit_code", 2)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn errors that a user can cause or repair into a message and exit code; others pass."""
    try:
        yield
    except PgrpoError as error:
        show_error(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as stop:
        signum = signal_of(stop)
        by = "interrupted" if signum == signal.SIGINT else f"stopped by {signal.Signals(signum).name}"
        note(f"{by}; what was finished before is kept")
        raise typer.Exit(exit_code(signum)) from stop
    except OSError as error:
        if error.errno not in _ENVIRONMENT_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        show_error(PgrpoError(f"{where}{error.strerror}", remedy=_ENVIRONMENT_ERRORS[error.errno]))
        raise typer.Exit(1) from error


TRACE = "traceback.txt"
"""The file of a run directory that holds the latest."""
_LONGEST_CAUSE = 500
_run_directory: Path | None = None


def keep_traces_in(run_directory: Path) -> None:
    """From now on a trace is written there; before, into the folder for temporary files."""
    global _run_directory
    _run_directory = run_directory


def report_failure(error: Exception) -> int:
    """Say what failed, and where its trace is; returns the exit code."""
    command = shlex.join(["pgrpo", *sys.argv[1:]])
    cause = "".join(traceback.format_exception_only(error)).strip().partition("\n")[0][:_LONGEST_CAUSE]
    versions = f"pgrpo {__version__}, Python {platform.python_version()}, {platform.platform()}"
    trace = "".join(traceback.format_exception(error))
    place = _written(safe(f"{versions}\n{command}\n\n{trace}"))
    note(f"`{command}` failed: {cause}", "error: ", "bold red")
    note(f"  The whole trace is in {place}." if place else "  No file could be written for the trace.")
    return 1


def _written(trace: str) -> Path | None:
    """The file that holds the trace now."""
    from pgrpo_cli.state.files import atomic_write

    if _run_directory is not None:
        with suppress(OSError):
            atomic_write(_run_directory / TRACE, trace)
            return _run_directory / TRACE
    with suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix="pgrpo-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(trace)
        return Path(name)
    return None
