"""The one place where errors become messages and exit codes; docs/exit-codes.md lists those."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pgrpo_cli.errors import Interrupted, PgrpoError

from .terminal import note

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
        note(message, "error: ", "bold red")
    return getattr(error, "exit_code", 2)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn errors that a user can cause or repair into a message and exit code; others pass."""
    try:
        yield
    except PgrpoError as error:
        show_error(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        note("interrupted")
        raise typer.Exit(130) from error
    except BrokenPipeError as error:
        # Whoever read the results has gone, and knows it.
        raise typer.Exit(1) from error
    except OSError as error:
        if error.errno not in _ENVIRONMENT_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        show_error(PgrpoError(f"{where}{error.strerror}", remedy=_ENVIRONMENT_ERRORS[error.errno]))
        raise typer.Exit(1) from error
