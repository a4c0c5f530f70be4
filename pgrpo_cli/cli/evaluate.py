"""`eval` and `compare`: what training did, to whom, and whether that is noise."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from .callbacks import Terminal
from .common import (
    AllowCodeOption,
    AllowHostOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    RunDirOption,
    RunOrRecipeArgument,
    SetOption,
    option,
    path_argument,
    path_option,
)
from .eval_shown import result_json, show_comparison, show_result, shown_progress
from .terminal import emit


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("eval")(evaluate)
    app.command()(compare)


def evaluate(
    target: RunOrRecipeArgument,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    checkpoint: Annotated[
        int | None,
        option(
            "--checkpoint",
            "STEP",
            "Evaluate the checkpoint after that step. Default: the newest adapter.",
            min=1,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Sample again, although this evaluation exists already.")
    ] = False,
    allow_code: AllowCodeOption = False,
    allow_host: AllowHostOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer held-out prompts with the base model and the tuned one; show whom training served how well."""
    from pgrpo_cli.verbs.evaluate import evaluate

    with shown_progress(quiet=quiet) as progress:
        callbacks = Terminal(quiet=quiet, progress=progress)
        found = evaluate(
            target,
            run_dir=run_dir,
            overrides=overrides or (),
            checkpoint=checkpoint,
            fresh=fresh,
            allow_code=allow_code,
            allowed_hosts=allow_host or (),
            device=device,
            callbacks=callbacks,
        )
    if as_json:
        emit(result_json(found.result, path=found.path, table=found.table, report=found.page))
    else:
        show_result(found.result)
    callbacks.on_note(f"Report: {found.page}")
    callbacks.on_note(f"Completions: {found.table}")
    if not found.target.chosen:
        path = shlex.quote(str(found.target.run.path))
        callbacks.on_note(f"Next: open it in a browser, or compare runs with pgrpo compare OTHER_RUN {path}")


def compare(
    runs: Annotated[
        list[Path],
        path_argument("RUN", "Two or more runs; the first is the reference.", metavar="RUN..."),
    ],
    html: Annotated[
        Path | None,
        path_option("--html", "FILE", "Where the page goes. Default: compare.html in the last run."),
    ] = None,
    by: Annotated[
        list[str] | None,
        option(
            "--by",
            "KEY",
            "Recipe key that tells methods apart; runs alike in it are seeds of one. Repeatable. "
            "Default: whatever differs besides seed, if seeds share it.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        option(
            "--threshold",
            "REWARD",
            "Time how long learning curves take to reach it. Default: the methods' lowest last value.",
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
    allow_host: AllowHostOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show which run serves whom better on the same held-out prompts, evaluating runs where needed."""
    from pgrpo_cli.verbs.compare import compare

    with shown_progress(quiet=quiet) as progress:
        callbacks = Terminal(quiet=quiet, progress=progress)
        found = compare(
            runs,
            by=by or (),
            threshold=threshold,
            html=html,
            allow_code=allow_code,
            allowed_hosts=allow_host or (),
            callbacks=callbacks,
        )
    if as_json:
        content = json.loads(found.comparison.model_dump_json())
        paths = {label: str(path) for label, path in found.runs.items()}
        emit(json.dumps({**content, "paths": paths, "html": str(found.page)}, indent=2))
    else:
        show_comparison(found.comparison)
    callbacks.on_note(f"Page: {found.page}")
    callbacks.on_note("Next: open it in a browser.")
