"""`pgrpo eval`: what training did to whom, on held-out prompts, by a judge of pairs, and on general tasks.

Each stage is kept when it is done, so a failure loses nothing of earlier stages: the same call continues.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from pgrpo_cli.diagnosis.finding import Diagnosis
from pgrpo_cli.diagnosis.rules import diagnose
from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.eval.alignment import evaluate_target, policy_of
from pgrpo_cli.eval.judge import judge_target, judge_to_ask
from pgrpo_cli.eval.lm_eval import run_tasks, tasks_to_run
from pgrpo_cli.eval.targets import (
    EvalTarget,
    eval_target,
    has_judged,
    has_tasks,
    kept_result,
    kept_with_tasks,
)
from pgrpo_cli.model.load.precision import device_for
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.report.page import eval_page
from pgrpo_cli.state.curve import read_curve
from pgrpo_cli.state.files import atomic_write
from pgrpo_cli.state.history_store import read_curves
from pgrpo_cli.state.results import kept_results, require_writable, table_path, write_table
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.run_view import view_of
from pgrpo_cli.stats.result_types import CurvePoint, EvalResult

from .callbacks import Callbacks
from .source import RecipeOrRun, StrPath, resolve


@dataclass(frozen=True)
class Evaluation:
    """What was found about an adapter of a run."""

    target: EvalTarget
    result: EvalResult

    @property
    def path(self) -> Path:
        """The result as JSON."""
        return self.target.path

    @property
    def table(self) -> Path:
        """Its completions as an Arrow table."""
        return table_path(self.target.path)

    @property
    def page(self) -> Path:
        """The report as a page."""
        return self.target.page


def evaluate(
    source: RecipeOrRun,
    *,
    run_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    checkpoint: int | None = None,
    fresh: bool = False,
    allow_code: bool = False,
    allowed_hosts: Collection[str] = (),
    device: str | None = None,
    callbacks: Callbacks | None = None,
) -> Evaluation:
    """Evaluate the newest adapter of a run, or that of the `checkpoint` after a step, against the base model.

    An evaluation that the run keeps is taken as it is, unless `fresh` asks for another one. The run is named
    by its path or by its recipe, whose `eval` may differ from the run's. Other options are those of `train`.
    Raises PgrpoError, which says what was found and what to do.
    """
    callbacks = callbacks or Callbacks()
    run, recipe, recipe_dir = resolve(source, run_dir, overrides, callbacks.on_message, must_exist=True)
    target = eval_target(run, recipe, recipe_dir, checkpoint)
    callbacks.on_run(target.run, target.recipe)
    on_note, progress = callbacks.on_note, callbacks.on_progress
    result = None if fresh else kept_result(target)
    writable = _writable(target, result, on_note)
    judge = judge_to_ask(target, result, allowed_hosts)
    for warning in target.warnings:
        on_note(f"warning: {warning}")
    if result is not None:
        on_note(f"{target.path} holds this evaluation already; --fresh samples again")
    earlier = kept_with_tasks(target) if result is None else None
    tasks = tasks_to_run(
        target, result or (None if fresh else earlier), allow_code=allow_code, on_note=on_note
    )
    if tasks is not None:
        require_writable(target.run)
    chosen = device_for(target.recipe, device) if result is None or tasks is not None else None
    if chosen is not None:
        on_note(describe(chosen))
    # Both models stay in memory between the two only if there are tasks: a judge may need the room.
    policy = None if tasks is None else cache(partial(policy_of, target, chosen))
    if result is None:
        result = evaluate_target(
            target,
            policy=policy,
            allow_code=allow_code,
            allowed_hosts=allowed_hosts,
            device=chosen,
            others=() if fresh else kept_results(target.run),
            lm_eval=earlier.lm_eval if earlier else None,
            progress=progress,
            on_note=on_note,
        )
    elif writable:
        # It may have been lost, or the evaluation be older than tables are.
        write_table(result, target.path)
    if writable:
        # What comes after it may fail: the page of what there is stays.
        _write_page(target, result)
    if tasks is not None and policy is not None:
        result = run_tasks(target, result, tasks, policy(), progress=progress, on_note=on_note)
        policy.cache_clear()
    if judge is not None:
        result = judge_target(target, result, judge, progress=progress, on_note=on_note)
    if tasks is not None or judge is not None:
        _write_page(target, result)
    return Evaluation(target, result)


def _writable(target: EvalTarget, result: EvalResult | None, on_note: Callable[[str], None]) -> bool:
    """Whether the run takes a page and a table. Raises CheckpointError if not, and more is to be made."""
    try:
        require_writable(target.run)
    except CheckpointError as error:
        done = result and has_judged(target.recipe.eval, result) and has_tasks(target.recipe.eval, result)
        if not done:
            raise
        on_note(f"warning: {error.message}: its page and table stay as they are")
        return False
    return True


def _write_page(target: EvalTarget, result: EvalResult) -> None:
    run = target.run
    atomic_write(target.page, eval_page(result, _curves(run), _diagnosis(run), read_curve(run)))


def _curves(run: RunDirectory) -> list[CurvePoint]:
    return read_curves(run.history_path) if run.history_path.is_file() else []


def _diagnosis(run: RunDirectory) -> Diagnosis | None:
    """What is found in the run's training; None where its record is missing."""
    return diagnose(view_of(run)) if run.history_path.is_file() else None
