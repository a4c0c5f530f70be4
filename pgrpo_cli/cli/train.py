"""`prepare`, `train` and `groups`: making a run, and looking into it."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pgrpo_cli.errors import Interrupted

from .callbacks import Terminal
from .common import (
    AllowCodeOption,
    AllowHostOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    RunArgument,
    RunDirOption,
    SetOption,
    option,
)
from .interrupts import exit_code, signal_of
from .terminal import emit, show_table


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(prepare)
    app.command()(train)
    app.command()(groups)


def prepare(
    recipe: RecipeArgument,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    allow_code: AllowCodeOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make prompts with preference groups from the recipe's data: split, counted, checked."""
    from pgrpo_cli.verbs.prepare import prepare

    callbacks = Terminal(quiet=quiet)
    report = prepare(
        recipe,
        run_dir=run_dir,
        overrides=overrides or (),
        allow_code=allow_code,
        force=force,
        callbacks=callbacks,
    )
    if as_json:
        from .prepared import report_json

        emit(json.dumps(report_json(report), indent=2))
        return
    callbacks.on_note(f"Next: {_train_command(recipe, callbacks, overrides, allow_code, force)}")


def train(
    recipe: RecipeArgument,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over in a new directory; nothing is deleted.")
    ] = False,
    profile: Annotated[
        int,
        option("--profile", "N", "Write a torch profiler trace of N steps into the run's profile/.", min=0),
    ] = 0,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Continue although data, model or a reward's file are not what the run was trained with.",
        ),
    ] = False,
    allow_code: AllowCodeOption = False,
    force: ForceOption = False,
    allow_host: AllowHostOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train the adapter, or resume a run that was interrupted."""
    from pgrpo_cli.engines.world import rank_of_process
    from pgrpo_cli.verbs.train import train

    # Of a launcher's processes only the first one speaks.
    follows = rank_of_process() > 0
    callbacks = Terminal(quiet=quiet or follows, profile=0 if follows else profile)
    try:
        trained = train(
            recipe,
            run_dir=run_dir,
            overrides=overrides or (),
            fresh=fresh,
            accept_changes=accept_changes,
            allow_code=allow_code,
            force=force,
            allowed_hosts=allow_host or (),
            device=device,
            callbacks=callbacks,
        )
    except (Interrupted, KeyboardInterrupt) as stop:
        if follows or callbacks.run is None:
            raise
        command = _train_command(recipe, callbacks, overrides, allow_code, force, allow_host or (), device)
        message = str(stop) or "stopped at once; everything up to the last checkpoint is saved"
        at_once = signal_of(stop) if isinstance(stop, KeyboardInterrupt) else None
        code = exit_code(at_once or callbacks.stop.signum or signal.SIGINT)
        raise Interrupted(message, remedy=f"Go on with: {command}", exit_code=code) from stop
    if follows:
        return
    if trained.was_finished:
        emit(
            f"{trained.path} is finished: the adapter is in {trained.adapter}. With more train.steps it goes "
            "on; `--fresh` trains again, beside it."
        )
        return
    emit(f"finished: the adapter is in {trained.adapter}")
    callbacks.on_note(f"Next: {shlex.join(['pgrpo', 'eval', str(trained.path)])}")


def groups(
    run: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Show the reward history of every preference group of a run, and which estimator suits them."""
    from pgrpo_cli.diagnosis.estimator_advice import (
        components_of,
        efficiencies,
        estimator_advice,
        suiting,
        without_values,
    )
    from pgrpo_cli.state.history_store import GroupRow, read_groups, read_parts
    from pgrpo_cli.state.run import run_at
    from pgrpo_cli.state.run_view import view_of

    directory = run_at(run)
    rows, parts = read_groups(directory.history_path), read_parts(directory.history_path)
    view = view_of(directory)
    num_generations = view.recipe.rollout.num_generations
    means: dict[str, dict[str, float]] = {}
    for group, of_group in parts.items():
        for part_row in of_group:
            means.setdefault(part_row.part, {})[group] = part_row.mean
    components = components_of(view, means)
    if as_json:

        def numbers(row: GroupRow, name: str) -> dict[str, Any]:
            if name not in components:
                return row.numbers() | {"weight": None, "efficiency": None, "advice": None}
            predicted = efficiencies([components[name]], num_generations)
            weight = components[name].weight(num_generations)
            return row.numbers() | {"weight": weight, "efficiency": predicted, "advice": suiting(predicted)}

        found = {row.preference_group: numbers(row, row.preference_group) for row in rows}
        for group, part_rows in parts.items():
            of_parts = {row.part: numbers(row, f"{row.part}/{group}") for row in part_rows}
            found.setdefault(group, {})["parts"] = of_parts
        emit(json.dumps(found, indent=2))
        return
    from .display import efficiency_table, groups_table

    drawn = view.recipe.history.preference_groups == "random"
    advice = estimator_advice(components, num_generations, random_groups=drawn)
    show_table(groups_table(rows, parts))
    if advice.efficiencies:
        show_table(efficiency_table(advice.efficiencies))
    unknown = without_values(view, means)
    if not means or len(unknown) < len(means):
        emit(advice.sentence)
    if unknown:
        emit(f"No estimator is predicted for {', '.join(unknown)}: only parts of the value are recorded.")


def _train_command(
    recipe: Path,
    callbacks: Terminal,
    overrides: Sequence[str] | None,
    allow_code: bool = False,
    force: bool = False,
    allowed_hosts: Sequence[str] = (),
    device: str | None = None,
) -> str:
    """The command that trains the run that the callbacks have heard of, or resumes it."""
    from pgrpo_cli.verbs.launch import command_of, train_words

    assert callbacks.run is not None
    words = train_words(
        recipe, callbacks.run, callbacks.recipe, overrides or (),
        allow_code=allow_code, force=force, allowed_hosts=allowed_hosts, device=device,
    )  # fmt: skip
    return command_of(words)
