"""`eval` and `compare`: what training did, to whom, and whether that is noise."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgrpo_cli.errors import CheckpointError, RunError
from pgrpo_cli.paths import try_to_write

from .common import (
    AllowCodeOption,
    AllowHostOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    RunDirOption,
    SetOption,
    path_parser,
)
from .eval_shown import result_json, show_comparison, show_result, shown_progress, task_progress
from .failures import keep_traces_in
from .terminal import emit, note

if TYPE_CHECKING:
    from pgrpo_cli.diagnosis.finding import Diagnosis
    from pgrpo_cli.eval.targets import EvalTarget
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.state.run import RunDirectory
    from pgrpo_cli.stats.result_types import CurvePoint, EvalResult


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("eval")(evaluate)
    app.command()(compare)


def evaluate(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE_OR_RUN",
            parser=path_parser("RECIPE_OR_RUN"),
            help="A recipe, or a run directory.",
            show_default=False,
        ),
    ],
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    checkpoint: Annotated[
        int | None,
        typer.Option(
            "--checkpoint",
            metavar="STEP",
            min=1,
            help="Evaluate the checkpoint after that step. Default: the newest adapter.",
            show_default=False,
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
    from pgrpo_cli.eval.alignment import evaluate_target, policy_of
    from pgrpo_cli.eval.judge import judge_target, judge_to_ask
    from pgrpo_cli.eval.lm_eval import run_tasks, tasks_to_run
    from pgrpo_cli.eval.targets import eval_target, kept_result
    from pgrpo_cli.model.load.precision import device_for
    from pgrpo_cli.pretrained.device import describe
    from pgrpo_cli.state.results import kept_results, require_writable, table_path, write_table

    subject = eval_target(*_run_and_recipe(target, run_dir, overrides or ()), checkpoint)
    keep_traces_in(subject.run.path)
    result = None if fresh else kept_result(subject)
    told = (lambda text: None) if quiet else note
    writable = _writable(subject, result, told)
    judge = judge_to_ask(subject, result, allow_host or ())
    for warning in subject.warnings:
        told(f"warning: {warning}")
    if result is not None:
        told(f"{subject.path} holds this evaluation already; --fresh samples again")
    tasks = tasks_to_run(subject, result, allow_code=allow_code, on_note=told)
    if tasks is not None:
        require_writable(subject.run)
    chosen = device_for(subject.recipe, device) if result is None or tasks is not None else None
    if chosen is not None:
        told(describe(chosen))
    # Both models stay in memory between the two only if there are tasks: a judge may need the room.
    policy = None if tasks is None else cache(partial(policy_of, subject, chosen))
    with shown_progress(quiet=quiet) as progress:
        if result is None:
            result = evaluate_target(
                subject,
                policy=policy,
                allow_code=allow_code,
                allowed_hosts=allow_host or (),
                device=chosen,
                others=() if fresh else kept_results(subject.run),
                progress=progress,
                on_note=told,
            )
        elif writable:
            # It may have been lost, or the evaluation be older than tables are.
            write_table(result, subject.path)
        if writable:
            # What comes after it may fail: the page of what there is stays.
            _write_page(subject, result)
        if tasks is not None and policy is not None:
            result = run_tasks(
                subject, result, tasks, policy(), progress=task_progress(progress), on_note=told
            )
            policy.cache_clear()
        if judge is not None:
            result = judge_target(subject, result, judge, progress=partial(progress, "judge"), on_note=told)
    if tasks is not None or judge is not None:
        _write_page(subject, result)
    if as_json:
        emit(result_json(result, path=subject.path, table=table_path(subject.path), report=subject.page))
    else:
        show_result(result)
    told(f"Report: {subject.page}")
    told(f"Completions: {table_path(subject.path)}")
    if not subject.chosen:
        path = shlex.quote(str(subject.run.path))
        told(f"Next: open it in a browser, or compare runs with pgrpo compare OTHER_RUN {path}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            parser=path_parser("RUN"),
            help="Two or more runs; the first is the reference.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            parser=path_parser("--html"),
            help="Where the page goes. Default: compare.html in the last run.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="KEY",
            help="Recipe key that tells methods apart; runs alike in it are seeds of one. Repeatable. "
            "Default: whatever differs besides seed, if seeds share it.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="REWARD",
            help="Time how long learning curves take to reach it. Default: the methods' lowest last value.",
            show_default=False,
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
    allow_host: AllowHostOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show which run serves whom better on the same held-out prompts, evaluating runs where needed."""
    from pgrpo_cli.compare import compare as compare_results
    from pgrpo_cli.compare import entrants_of, refuse_fewer_than_two
    from pgrpo_cli.report.page import comparison_page
    from pgrpo_cli.state.curve import training_record
    from pgrpo_cli.state.files import atomic_write
    from pgrpo_cli.state.run import run_at

    # What would be refused in the end is refused before minutes of sampling.
    refuse_fewer_than_two(len(runs))
    if html is not None and not html.parent.is_dir():
        raise RunError(f"{html.parent}: there is no such folder", remedy="Make it, or name another file.")
    page = html or runs[-1] / "compare.html"
    if page.parent.is_dir():
        _try_to_write(page)
    labels = _labels(runs)
    directories = {label: run_at(path) for label, path in zip(labels, runs, strict=True)}
    with shown_progress(quiet=quiet) as progress:
        told = (lambda text: None) if quiet else note
        entrants = entrants_of(
            directories,
            allow_code=allow_code,
            allowed_hosts=allow_host or (),
            on_note=told,
            progress=progress,
        )
    evaluated = {entrant.label: entrant for entrant in entrants}
    records = {label: training_record(run) for label, run in directories.items()}
    comparison = compare_results([evaluated[label] for label in labels], by or (), records, threshold)
    results = {label: entrant.result for label, entrant in evaluated.items()}
    atomic_write(page, comparison_page(comparison, results, records))
    if as_json:
        found = json.loads(comparison.model_dump_json())
        paths = {label: str(run.path) for label, run in directories.items()}
        emit(json.dumps({**found, "paths": paths, "html": str(page)}, indent=2))
    else:
        show_comparison(comparison)
    if not quiet:
        note(f"Page: {page}")
        note("Next: open it in a browser.")


def _writable(subject: EvalTarget, result: EvalResult | None, told: Callable[[str], None]) -> bool:
    """Whether the run takes a page and a table. Raises CheckpointError if not, and more is to be made."""
    from pgrpo_cli.eval.targets import has_judged, has_tasks
    from pgrpo_cli.state.results import require_writable

    try:
        require_writable(subject.run)
    except CheckpointError as error:
        done = result and has_judged(subject.recipe, result) and has_tasks(subject.recipe, result)
        if not done:
            raise
        told(f"warning: {error.message}: its page and table stay as they are")
        return False
    return True


def _try_to_write(page: Path) -> None:
    try:
        try_to_write(page.parent)
    except OSError as error:
        raise RunError(
            f"{page.parent} cannot be written: {error.strerror}",
            remedy="Name another place for the page: --html FILE.",
        ) from error


def _write_page(subject: EvalTarget, result: EvalResult) -> None:
    from pgrpo_cli.report.page import eval_page
    from pgrpo_cli.state.curve import read_curve
    from pgrpo_cli.state.files import atomic_write

    run = subject.run
    atomic_write(subject.page, eval_page(result, _curves(run), _diagnosis(run), read_curve(run)))


def _run_and_recipe(
    target: Path, run_dir: Path | None, overrides: Sequence[str]
) -> tuple[RunDirectory, Recipe, Path]:
    """The run that `target` (a recipe or a run) stands for, its recipe, and where relative paths start."""
    from pgrpo_cli.recipe.load import load_recipe
    from pgrpo_cli.state.run import run_at

    from .train import default_run_dir

    if target.is_dir():
        if run_dir is not None and run_dir != target:
            raise RunError(
                f"{target} is a directory and --run-dir names {run_dir}: which one?",
                remedy="Name the run once; with --run-dir, give the recipe.",
            )
        run = run_at(target)
        # Raises RunError with a remedy if the directory is no run.
        run.recipe()
        return run, load_recipe(run.recipe_path, overrides, note), run.recipe_dir
    recipe = load_recipe(target, overrides, note)
    return run_at(run_dir or default_run_dir(recipe)), recipe, target.parent


def _labels(runs: Sequence[Path]) -> list[str]:
    """The runs' directory names, or their paths where two different runs have one name."""
    paths = {run.resolve() for run in runs}
    if len({path.name for path in paths}) == len(paths):
        return [run.resolve().name for run in runs]
    return [str(run) for run in runs]


def _curves(run: RunDirectory) -> list[CurvePoint]:
    from pgrpo_cli.state.history_store import read_curves

    return read_curves(run.history_path) if run.history_path.is_file() else []


def _diagnosis(run: RunDirectory) -> Diagnosis | None:
    """What is found in the run's training; None where its record is missing."""
    from pgrpo_cli.diagnosis.rules import diagnose
    from pgrpo_cli.state.run_view import view_of

    return diagnose(view_of(run)) if run.history_path.is_file() else None
