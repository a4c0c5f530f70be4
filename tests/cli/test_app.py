"""The application as a whole: quick help, and errors that become messages and exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner, Result

from pgrpo_cli.cli.app import _ReportingGroup, app
from pgrpo_cli.errors import CheckpointError, DataError, Interrupted, RecipeError

HEAVY = ("torch", "transformers", "datasets", "peft", "bitsandbytes", "numpy")

HELP_OF_EVERY_COMMAND = """
import json, sys
from typer.main import get_command
from typer.testing import CliRunner
from pgrpo_cli.cli.app import app

def below(command, path):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from below(child, [*path, name])

paths = list(below(get_command(app), []))
codes = [CliRunner().invoke(app, [*path, "--help"]).exit_code for path in paths]
print(json.dumps({"paths": paths, "codes": codes, "modules": list(sys.modules)}))
"""


def test_no_help_imports_anything_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_EVERY_COMMAND], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert ["recipes", "copy"] in found["paths"]
    assert set(found["codes"]) == {0}
    assert not {module.split(".")[0] for module in found["modules"]} & set(HEAVY)


def test_no_arguments_and_help_show_every_command() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert {"validate", "schema"} <= commands
    assert all(f" {name} " in text for name in commands)


def raising(error: BaseException) -> Result:
    small = typer.Typer(cls=_ReportingGroup, pretty_exceptions_enable=False)

    @small.callback()
    def _main() -> None: ...

    @small.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(small, ["fail"])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CheckpointError("no [bold]checkpoint"), 1, "error: no [bold]checkpoint\n"),
        (RecipeError("wrong", remedy="Do this.\nOr that."), 2, "error: wrong\n  Do this.\n  Or that.\n"),
        (DataError("x" * 300), 2, f"error: {'x' * 300}\n"),
        (Interrupted("stopped, saved", remedy="go on with ..."), 130, "stopped, saved\n  go on with ...\n"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished before is kept\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/x"),
            1,
            "error: runs/a/x: No space left on device\n  Free some disk space and run",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            1,
            "error: Permission denied\n  Check the permissions",
        ),
    ],
)
def test_errors_of_the_user_become_messages_and_exit_codes(
    error: BaseException, code: int, text: str
) -> None:
    result = raising(error)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(text)


@pytest.mark.parametrize(
    ("signum", "code", "by"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
    ],
)
@pytest.mark.parametrize("where", ["main", "fail"])
def test_a_signal_ends_a_command_with_its_code(signum: int, code: int, by: str, where: str) -> None:
    """In a command, and in Typer's own work before it."""
    small = typer.Typer(cls=_ReportingGroup, pretty_exceptions_enable=False)

    def at_parsing(text: str) -> str:
        if where == "main":
            signal.raise_signal(signum)
        return text

    @small.callback()
    def _main(option: str = typer.Option("", parser=at_parsing)) -> None: ...

    @small.command()
    def fail() -> None:
        signal.raise_signal(signum)

    result = CliRunner().invoke(small, ["--option", "x", "fail"])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"{by}; what was finished before is kept\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("defect"), OSError(errno.EIO, "broken disk")])
def test_defects_keep_their_traceback(error: Exception) -> None:
    assert raising(error).exception is error


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgrpo_cli", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Usage: pgrpo " in done.stderr
