"""What the commands share: parameter types, two consoles, and the one place where errors become exit codes.

Exit codes: 0 done, 1 failed (a reward or judge that failed too: the steps before it are saved), 2 the recipe
or the input is wrong, 3 runs cannot be compared, 130 interrupted and saved.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pgrpo_cli.errors import Interrupted, PgrpoError
from pgrpo_cli.paths import path_of

stdout = Console(highlight=False)
"""Results."""
stderr = Console(stderr=True, highlight=False)
"""Progress, notes and errors: with --json, standard output holds the JSON alone."""


def path_parser(name: str) -> Callable[[str], Path]:
    """What makes a path of the text of the option or argument `name`: every one that takes a path has it."""
    return lambda text: path_of(text, name)


RecipeArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        parser=path_parser("RECIPE"),
        help="Recipe in YAML; `pgrpo recipes` lists some.",
        show_default=False,
    ),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        parser=path_parser("RUN"),
        help="A run directory, also of a running run.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe: --set train.steps=40, --set rewards.0.weight=2. Repeatable.",
        show_default=False,
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        parser=path_parser("--run-dir"),
        help="Where the run lands. Default: runs/<recipe name>.",
        show_default=False,
    ),
]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python files and plug-ins that the recipe names.")
]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="HOST",
        help="Let a judge that the recipe names send prompts and completions to HOST. Repeatable.",
        show_default=False,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the result.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]

_ENVIRONMENT_ERRORS = {
    errno.ENOSPC: "Free some disk space and run the same command again.",
    errno.EDQUOT: "Free some of your disk quota and run the same command again.",
    errno.EROFS: "Choose a directory that can be written, for instance with --run-dir.",
    errno.EACCES: "Check the permissions of that path.",
    errno.EPERM: "Check the permissions of that path.",
}


_QUIET_ENV = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


_SPINS = "30000"
"""Turns that a waiting OpenMP thread (GNU's) takes before it sleeps: some 50 µs, enough for the gap between
two operations. By default it spins for milliseconds, which halves the speed of a machine with other work."""


def emit(text: str) -> None:
    """Write a result to standard output as it is: no wrapping, no colour."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    # A closed pipe must show here, where it is handled, and not when the interpreter shuts down.
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line for the reader to standard error."""
    stderr.print(Text(text), soft_wrap=True)


def show_error(error: PgrpoError) -> None:
    """Print the message, and the remedy on lines of its own."""
    if isinstance(error, Interrupted):
        stderr.print(Text(error.message), soft_wrap=True)
    else:
        stderr.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.remedy:
        stderr.print(Text("\n".join(f"  {line}" for line in error.remedy.splitlines())), soft_wrap=True)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn errors that a user can cause or repair into a message and exit code; defects keep a traceback."""
    try:
        yield
    except PgrpoError as error:
        show_error(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        note("interrupted")
        raise typer.Exit(130) from error
    except BrokenPipeError as error:
        # The reader has gone: what is still buffered has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error
    except OSError as error:
        if error.errno not in _ENVIRONMENT_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        show_error(PgrpoError(f"{where}{error.strerror}", remedy=_ENVIRONMENT_ERRORS[error.errno]))
        raise typer.Exit(1) from error


def prepare_libraries() -> None:
    """Keep other libraries' progress bars, notices and telemetry off the terminal, and their threads from
    spinning. Call before importing them; what the user has set stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    for name, value in _QUIET_ENV.items():
        os.environ.setdefault(name, value)
    for package in ("transformers", "peft", "bitsandbytes", "torch"):
        warnings.filterwarnings("ignore", module=rf"{package}(\..*)?$")
    # It asks for an optional package each time that it is imported.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
