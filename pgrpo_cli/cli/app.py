"""The `pgrpo` command, put together from one module a command family.

A command module has `register(app)`, which adds its commands; at its top it imports only what `--help` needs.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pgrpo_cli import __version__

from .failures import reported_errors, show_usage
from .interrupts import exit_code, stop_signals
from .libraries import prepare_libraries
from .terminal import emit

COMMAND_MODULES = (
    "train",
    "evaluate",
    "export",
    "chat",
    "taste",
    "serve",
    "sweep",
    "doctor",
    "plan",
    "selfcheck",
    "recipes",
    "rewards",
)
"""Modules of this package, in the order in which `--help` lists their commands."""


class _ReportingGroup(TyperGroup):
    """Every command below it is rid of other libraries' noise, and maps errors to messages and exit codes."""

    def main(self, *arguments: Any, **options: Any) -> NoReturn:
        """What is wrong with the words of a command is said like everything else."""
        try:
            with stop_signals() as handlers, reported_errors():
                code = super().main(*arguments, **{**options, "standalone_mode": False})
                if code == exit_code(signal.SIGINT):
                    # Typer has made it of any exception of this kind.
                    raise handlers.stopped or KeyboardInterrupt
        except typer.Exit as end:
            code = end.exit_code
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            code = show_usage(error)
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        prepare_libraries()
        try:
            return super().invoke(ctx)
        except EOFError as error:
            # Typer would take it for the end of a terminal's input.
            raise OSError(f"a file ends too soon: {error}") from error


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(f"pgrpo {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The application with all command modules registered."""
    app = typer.Typer(
        cls=_ReportingGroup,
        name="pgrpo",
        help="Fine-tune one chat model for many tastes: QLoRA with P-GRPO on one GPU, or none.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _main(
        version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None: ...

    for module in COMMAND_MODULES:
        import_module(f".{module}", __package__).register(app)
    return app


app = build_app()
