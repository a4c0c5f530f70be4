"""`serve`: the model of a run over HTTP, for chat front ends and for a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from .callbacks import Terminal
from .common import (
    DeviceOption,
    QuietOption,
    RunArgument,
    StepOption,
    option,
)
from .interrupts import exit_code


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(serve)


def serve(
    run: RunArgument,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Listen on this address; others need --token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    token: Annotated[
        str | None,
        option(
            "--token", "TOKEN", "A secret that clients must send, as OpenAI's API key.", envvar="PGRPO_TOKEN"
        ),
    ] = None,
    step: StepOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
) -> None:
    """Answer other programs in OpenAI's interface, as any preference group, and people on a page."""
    from pgrpo_cli.verbs.serve import serve

    callbacks = Terminal(quiet=quiet)
    serve(run, host=host, port=port, token=token, step=step, device=device, callbacks=callbacks)
    raise typer.Exit(exit_code(callbacks.stop.signum or 0) if callbacks.stop else 0)
