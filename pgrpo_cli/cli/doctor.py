"""`doctor`: why a run does not learn, in plain words, and what to change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from .common import JsonOption, RunArgument
from .terminal import emit, say, stdout

if TYPE_CHECKING:
    from pgrpo_cli.diagnosis.finding import Diagnosis, Finding

_STYLES = {"problem": "bold red", "warning": "yellow", "note": "bold"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(doctor)


def doctor(
    run: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Say what keeps a run from learning, and what to change. A finding is no failure: the exit code is 0."""
    from pgrpo_cli.diagnosis.progress import reassurances
    from pgrpo_cli.diagnosis.rules import diagnose
    from pgrpo_cli.state.run import run_at
    from pgrpo_cli.state.run_view import view_of

    view = view_of(run_at(run))
    diagnosis, normal = diagnose(view), list(reassurances(view))
    if as_json:
        found = {
            "run": str(run),
            "step": view.step,
            "findings": [finding.as_json() for finding in diagnosis.findings],
            "answered": diagnosis.answered,
            "unanswered": dict(diagnosis.unanswered),
            "normal": normal,
        }
        emit(json.dumps(found, indent=2))
        return
    _show(diagnosis, view.step)
    _list("Not a fault:", normal)
    if diagnosis.findings:
        say(
            "\nA run that has begun keeps its recipe: try a change with `pgrpo train RECIPE --fresh --set …`."
        )


def _show(diagnosis: Diagnosis, step: int) -> None:
    after = f"after {step} step{'' if step == 1 else 's'}"
    if diagnosis.findings:
        say(f"{len(diagnosis.findings)} finding{'' if len(diagnosis.findings) == 1 else 's'} {after}:")
    else:
        say(f"Nothing found {after}.")
    for finding in diagnosis.findings:
        _show_finding(finding)
    _list("Checked:" if not diagnosis.findings else "Checked, with the findings above:", diagnosis.answered)
    _list("Not checked:", [f"{asks} ({why})" for asks, why in diagnosis.unanswered.items()])


def _show_finding(finding: Finding) -> None:
    head = Text.assemble("\n", (finding.severity, _STYLES[finding.severity]), f": {finding.rule}")
    stdout.print(head)
    say(f"  {finding.says}")
    say(f"  What to do: {finding.remedy}")


def _list(heading: str, lines: list[str] | tuple[str, ...]) -> None:
    if lines:
        say(f"\n{heading}")
        for line in lines:
            say(f"  - {line}")
