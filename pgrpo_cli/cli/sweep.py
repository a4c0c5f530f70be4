"""`sweep`: the runs of a grid one after another, each in a process of its own.

One process per run gives all memory back between runs, the GPU's too, which no clean-up inside one process
promises after an out-of-memory; and a run that crashes or is killed for memory costs itself only. It is in a
process group of its own, so that Ctrl-C reaches it once, through here, and not a second time from the
terminal, which would stop it at once instead of after its step.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from pgrpo_cli.errors import Interrupted, PgrpoError, RunError

from .common import (
    AllowCodeOption,
    AllowHostOption,
    DeviceOption,
    ForceOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    option,
    path_parser,
)
from .interrupts import STOP_SIGNALS, exit_code, forwarded_signals
from .terminal import emit, note, show_table

if TYPE_CHECKING:
    from pgrpo_cli.verbs.sweep import PlannedRun, Sweep

_STOPPED = {ending: n for n in STOP_SIGNALS for ending in (exit_code(n), -n)}
"""The signal that ended a run, by how it ended."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(sweep)


def sweep(
    recipe: RecipeArgument,
    grid: Annotated[
        list[str] | None,
        option(
            "--grid",
            "KEY=VALUE,VALUE",
            "A recipe key and the values to try; with several, every combination. Repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        option("--seeds", "N|LIST", "How many seeds, from the recipe's on, or which: 3, or 0,1,7."),
    ] = None,
    control: Annotated[
        Literal["random_groups"] | None,
        option(
            "--control",
            "random_groups",
            "Beside each run, one whose prompts share reward histories by chance (the paper's ablation).",
        ),
    ] = None,
    overrides: SetOption = None,
    runs_dir: Annotated[
        Path,
        typer.Option(
            "--runs-dir",
            metavar="DIR",
            parser=path_parser("--runs-dir"),
            help="Where the runs are, one directory per run.",
        ),
    ] = Path("runs"),
    evaluate: Annotated[bool, typer.Option("--eval", help="Evaluate each run when it is trained.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    allow_code: AllowCodeOption = False,
    force: ForceOption = False,
    allow_host: AllowHostOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train every combination of values and seeds, one run after another; the same command resumes."""
    from pgrpo_cli.verbs.sweep import plan_sweep

    plan = plan_sweep(recipe, grid or (), seeds, overrides or (), runs_dir, control)
    if dry_run or not quiet:
        _show_plan(plan, evaluate)
    if dry_run:
        return
    _refuse_other_runs(plan)
    flags = {"--allow-code": allow_code, "--force": force, "--quiet": quiet}
    options = [option for option, chosen in flags.items() if chosen]
    for host in allow_host or ():
        options += ["--allow-host", host]
    if device is not None:
        options += ["--device", device]
    failed = _run_all(plan, recipe, evaluate, options)
    emit(f"{len(plan.runs) - len(failed)} of {len(plan.runs)} runs are done")
    done = [str(run.path) for run in plan.runs if run.path not in failed]
    if len(done) > 1 and not quiet:
        note(f"Next: {shlex.join(['pgrpo', 'compare', *done])}")
    if failed:
        told = "\n".join(f"  {path}: {reason}" for path, reason in failed.items())
        raise PgrpoError(
            f"{len(failed)} of {len(plan.runs)} runs failed:\n{told}",
            remedy="Their messages stand above. The same command tries them again and skips what is done.",
        )


def _show_plan(plan: Sweep, evaluate: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "status", "overrides"):
        table.add_column(heading, overflow="fold")
    for run in plan.runs:
        status = _status(run, evaluate)
        table.add_row(str(run.path), status, " ".join(run.overrides))
    show_table(table)
    for line in plan.notes:
        note(line)


def _status(run: PlannedRun, evaluate: bool) -> str:
    """For the plan; what cannot be read is found out by the run itself."""
    try:
        return run.status(evaluated=evaluate)
    except PgrpoError:
        return "damaged"


def _refuse_other_runs(plan: Sweep) -> None:
    """Raises RunError before the first run where another recipe made some of them."""
    found = []
    for run in plan.runs:
        with suppress(PgrpoError):
            found.append(run.obstacle())
    if told := "\n".join(f"  {obstacle}" for obstacle in found if obstacle):
        raise RunError(
            f"the sweep cannot go on with these runs:\n{told}",
            remedy="Take another --runs-dir or --set name=NAME, or move those folders away.",
        )


def _run_all(plan: Sweep, recipe: Path, evaluate: bool, options: Sequence[str]) -> dict[Path, str]:
    """Why each run failed that did. Raises Interrupted when the user stops the sweep."""
    failed: dict[Path, str] = {}
    child = _Child()
    with forwarded_signals(child.send):
        for number, run in enumerate(plan.runs, 1):
            status = _status(run, evaluate)
            told = f"[{number}/{len(plan.runs)}] {run.path}"
            if status == "done":
                note(f"{told}: done already")
                continue
            note(told)
            for words in _commands(run, recipe, status, evaluate, options):
                code = child.call([sys.executable, "-P", "-m", "pgrpo_cli", *words])
                if signum := child.stopped or _STOPPED.get(code):
                    raise Interrupted(
                        f"stopped in {run.path}; what is finished stays",
                        remedy="The same command continues.",
                        exit_code=exit_code(signum),
                    )
                if code:
                    failed[run.path] = f"`pgrpo {words[0]}` ended with {_ending(code)}"
                    note(f"{run.path}: {failed[run.path]}; continuing with the next run")
                    break
    return failed


def _commands(
    run: PlannedRun, recipe: Path, status: str, evaluate: bool, options: Sequence[str]
) -> Iterator[list[str]]:
    """The words after `pgrpo`: train, unless that is done, then evaluate if that is wanted."""
    if "$" in str(run.path):
        # A variable in the path is expanded already, and the name of what is there is not expanded again.
        run.path.mkdir(parents=True, exist_ok=True)
    settings = [word for override in run.overrides for word in ("--set", override)]
    words = [_literal(recipe), "--run-dir", _literal(run.path), *settings, *options]
    if status != "trained":
        yield ["train", *words]
    if evaluate:
        # Data that `train` has prepared in spite of a warning are there.
        yield ["eval", *(word for word in words if word != "--force")]


def _literal(path: Path) -> str:
    """The word that a command reads as this path, which is no option and not the home directory of a user."""
    return os.path.join(".", path)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"signal {name}" + (": out of memory?" if name == "SIGKILL" else "")


class _Child:
    """Runs one process at a time and passes signals on to it."""

    def __init__(self) -> None:
        self.stopped = 0
        """The latest signal that was sent."""
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, words: Sequence[str]) -> int:
        """The exit code; negative for a signal."""
        if self.stopped:
            return exit_code(self.stopped)
        self._process = subprocess.Popen(words, process_group=0)
        if self.stopped:
            # A signal that came while the process was being made.
            self._process.send_signal(self.stopped)
        try:
            return self._process.wait()
        finally:
            self._process = None

    def send(self, signum: int) -> None:
        """The first lets the run finish its step, the second stops it at once; no further run begins."""
        self.stopped = signum
        if self._process is not None:
            self._process.send_signal(signum)
