"""`prepare`, `train` and `groups`: making a run, and looking into it."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgrpo_cli.errors import Interrupted
from pgrpo_cli.paths import path_of

from .common import (
    AllowCodeOption,
    AllowHostOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    RunArgument,
    RunDirOption,
    SetOption,
)
from .failures import keep_traces_in
from .interrupts import StopRequest, exit_code, signal_of
from .terminal import emit, note, stderr, stdout

if TYPE_CHECKING:
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.rewards.reward_sum import RewardSum
    from pgrpo_cli.state.extend import Extension
    from pgrpo_cli.state.run import RunDirectory


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
    quiet: QuietOption = False,
) -> None:
    """Make prompts with preference groups from the recipe's data: split, counted, checked."""
    from pgrpo_cli.recipe.load import load_recipe
    from pgrpo_cli.state.run import RunDirectory, claim, locked

    loaded = load_recipe(recipe, overrides or (), note)
    run = RunDirectory(run_dir or default_run_dir(loaded))
    with locked(run):
        claim(run, loaded, recipe.parent)
        keep_traces_in(run.path)
        prepare_data(run, loaded, recipe.parent, allow_code=allow_code, quiet=quiet)
    if not quiet:
        note(f"Next: {_train_command(recipe, run, loaded, overrides, allow_code)}")


def train(
    recipe: RecipeArgument,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over in a new directory; nothing is deleted.")
    ] = False,
    profile: Annotated[
        int,
        typer.Option(
            "--profile",
            min=0,
            metavar="N",
            help="Write a torch profiler trace of N steps into the run's profile/.",
            show_default=False,
        ),
    ] = 0,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Go on although data, model or a reward's file are not what the run was trained with.",
        ),
    ] = False,
    allow_code: AllowCodeOption = False,
    allow_host: AllowHostOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train the adapter, or go on with a run that was interrupted."""
    from pgrpo_cli.recipe.load import load_recipe
    from pgrpo_cli.state.adapter import finished_adapter
    from pgrpo_cli.state.extend import extension_of, has_other_steps
    from pgrpo_cli.state.run import RunDirectory, claim, locked, next_free, run_if_any

    loaded = load_recipe(recipe, overrides or (), note)
    path = run_dir or default_run_dir(loaded)
    run = RunDirectory(next_free(path) if fresh else path)
    # Refuses links in a run before anything below it is looked at.
    run_if_any(run.path)
    if run.finished and not has_other_steps(run, loaded):
        claim(run, loaded, recipe.parent)
        for problem in finished_adapter(run):
            note(f"warning: {problem}")
        emit(
            f"{run.path} is finished: the adapter is in {run.adapter}. With more train.steps it goes on; "
            "`--fresh` trains again, beside it."
        )
        return
    stop_request = StopRequest()
    with locked(run):
        extension = extension_of(run, loaded)
        if extension is None:
            claim(run, loaded, recipe.parent)
        keep_traces_in(run.path)
        try:
            _train(
                run,
                loaded,
                recipe.parent,
                stop_request,
                profile=profile,
                accept_changes=accept_changes,
                extension=extension,
                allow_code=allow_code,
                allowed_hosts=allow_host or (),
                wish=device,
                quiet=quiet,
            )
        except (Interrupted, KeyboardInterrupt) as stop:
            command = _train_command(recipe, run, loaded, overrides, allow_code, allow_host or (), device)
            message = str(stop) or "stopped at once; everything up to the last checkpoint is saved"
            at_once = signal_of(stop) if isinstance(stop, KeyboardInterrupt) else None
            code = exit_code(at_once or stop_request.signum or signal.SIGINT)
            raise Interrupted(message, remedy=f"Go on with: {command}", exit_code=code) from stop
    emit(f"finished: the adapter is in {run.adapter}")
    if not quiet:
        note(f"Next: {shlex.join(['pgrpo', 'eval', str(run.path)])}")


def groups(
    run: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Show the reward history of every preference group of a run, and which estimator suits them."""
    from pgrpo_cli.diagnosis.estimator_advice import estimator_advice, suiting, weight_of
    from pgrpo_cli.state.history_store import GroupRow, read_groups, read_parts
    from pgrpo_cli.state.run import run_at

    directory = run_at(run)
    rows, parts = read_groups(directory.history_path), read_parts(directory.history_path)
    num_generations = directory.recipe().rollout.num_generations
    if as_json:

        def numbers(row: GroupRow) -> dict[str, Any]:
            weight = weight_of(row, num_generations)
            return row.numbers() | {"weight": weight, "advice": suiting(weight)}

        found = {row.preference_group: numbers(row) for row in rows}
        for group, part_rows in parts.items():
            found.setdefault(group, {})["parts"] = {row.part: numbers(row) for row in part_rows}
        emit(json.dumps(found, indent=2))
        return
    from .display import groups_table

    stdout.print(groups_table(rows, parts))
    # A run that keeps a history for each part makes its advantages from those.
    of_parts = {f"{row.part}/{group}": row for group, of_group in parts.items() for row in of_group}
    of_groups = {row.preference_group: row for row in rows}
    emit(estimator_advice(of_parts or of_groups, num_generations).sentence)


def default_run_dir(recipe: Recipe) -> Path:
    """Where a run lands without --run-dir."""
    return path_of(f"runs/{recipe.name}", "name")


def prepare_data(
    run: RunDirectory, recipe: Recipe, recipe_dir: Path, *, allow_code: bool, quiet: bool
) -> Any:
    """Prepare the run's data and show what was found; returns the tokenizer."""
    from pgrpo_cli.model.load.base_model import load_tokenizer, model_limits
    from pgrpo_cli.prepare import prepare as prepare_run

    from .prepared import show_report

    tokenizer = load_tokenizer(recipe.model, recipe_dir)
    limits = model_limits(recipe.model, recipe_dir)
    report = prepare_run(
        recipe, run.path, recipe_dir, tokenizer,
        context=limits.context, vocabulary=limits.vocabulary, allow_code=allow_code,
    )  # fmt: skip
    if not quiet:
        show_report(report)
    return tokenizer


def _train(
    run: RunDirectory,
    recipe: Recipe,
    recipe_dir: Path,
    stop_request: StopRequest,
    *,
    profile: int,
    accept_changes: bool,
    extension: Extension | None,
    allow_code: bool,
    allowed_hosts: Collection[str],
    wish: str | None,
    quiet: bool,
) -> None:
    from pgrpo_cli.data.prepared import load_prepared
    from pgrpo_cli.eval.sampling import held_out_curve
    from pgrpo_cli.model.load.from_recipe import load_policy
    from pgrpo_cli.model.load.precision import device_for
    from pgrpo_cli.model.memory.budgets import with_budgets
    from pgrpo_cli.model.memory.planner import paths_with_budgets
    from pgrpo_cli.model.update.determinism import prepare_determinism
    from pgrpo_cli.pretrained.device import describe
    from pgrpo_cli.rewards.build import build_rewards
    from pgrpo_cli.state.checkpoint import latest_checkpoint
    from pgrpo_cli.state.fingerprint import fingerprint_of, settle
    from pgrpo_cli.state.paths import as_begun, read_paths, write_paths
    from pgrpo_cli.state.runlog import open_trackers
    from pgrpo_cli.train import train as train_run

    from .diagnosis import diagnosed
    from .display import training_display
    from .profiling import profiled

    recipe = as_begun(run, recipe)
    prepare_determinism(recipe.train)
    device = device_for(recipe, wish)
    if not quiet:
        note(describe(device))
    rewards = build_rewards(
        recipe.rewards, recipe_dir, allow_code,
        run_dir=run.path, allowed_hosts=allowed_hosts, device=device,
    )  # fmt: skip
    checkpoint, problems = latest_checkpoint(run)
    for problem in problems:
        note(f"warning: {problem}; falling back to the one before")
    done = checkpoint.step if checkpoint else 0
    trackers = open_trackers(recipe.log, run.path, recipe.model_dump(mode="json"), first_step=done + 1)
    tokenizer = None
    if checkpoint is None:
        tokenizer = prepare_data(run, recipe, recipe_dir, allow_code=allow_code, quiet=quiet)
    prompts = load_prepared(run.path, "train")
    adapter = checkpoint.path if checkpoint else None
    paths = read_paths(run, device) if checkpoint else None
    policy = load_policy(
        recipe, recipe_dir=recipe_dir, device=device, adapter=adapter, tokenizer=tokenizer, paths=paths
    )
    found = fingerprint_of(run, recipe, recipe_dir)
    for sentence in settle(run, found, step=done if checkpoint else None, accept=accept_changes):
        note(f"warning: {sentence}")
    if paths is None or paths.tokens_per_batch is None:
        policy = replace(policy, paths=paths_with_budgets(policy, recipe, recipe_dir, prompts))
        write_paths(run, policy.paths, device, policy.dtype)
    recipe = with_budgets(recipe, policy.paths.tokens_per_batch, policy.paths.tokens_per_micro_batch)
    if policy.paths.reason:
        note(f"this model takes a slower path: {policy.paths.reason}")
    if checkpoint is not None:
        emit(f"resumed from step {checkpoint.step}")
    if extension is not None:
        note(extension.apply())
    with ExitStack() as stack:
        stack.callback(note_usage, rewards, quiet)
        steps = recipe.train.steps
        display = stack.enter_context(training_display(stderr, steps=steps, done=done, quiet=quiet))
        if profile:
            traced = profiled(display, run.path / "profile", steps=profile, left=steps - done)
            display = stack.enter_context(traced)
        stack.enter_context(stop_request.awaited())
        train_run(
            run, recipe, policy, prompts, rewards,
            checkpoint=checkpoint, observer=diagnosed(display, run, recipe),
            stop_requested=lambda: bool(stop_request), trackers=trackers,
            curve=held_out_curve(run, recipe),
        )  # fmt: skip


def note_usage(rewards: RewardSum, quiet: bool) -> None:
    """Say what rewards such as a judge have used, and what failed, also of a run that stops."""
    from pgrpo_cli.rewards.reward_sum import sentences_about

    for sentence in [] if quiet else sentences_about(rewards):
        note(sentence)


def _train_command(
    recipe: Path,
    run: RunDirectory,
    loaded: Recipe,
    overrides: list[str] | None,
    allow_code: bool = False,
    allowed_hosts: Collection[str] = (),
    device: str | None = None,
) -> str:
    """The command that trains this run, or goes on with it."""

    words = ["pgrpo", "train", str(recipe)]
    if run.path != default_run_dir(loaded):
        words += ["--run-dir", str(run.path)]
    for override in overrides or ():
        words += ["--set", override]
    if allow_code:
        words.append("--allow-code")
    for host in allowed_hosts:
        words += ["--allow-host", host]
    if device is not None:
        words += ["--device", device]
    return shlex.join(words)
