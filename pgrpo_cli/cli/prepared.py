"""What `prepare` found, for people."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

from rich.table import Table

from .common import note, stderr

if TYPE_CHECKING:
    from pgrpo_cli.prepare import PrepareReport

_SHOWN_REJECTED = 5


def show_report(report: PrepareReport) -> None:
    """Print the counts a preference group, what was rejected and why, and warnings; all to standard error."""
    table = Table("preference group", box=None, pad_edge=False)
    for heading in ("train prompts", "share", "eval prompts", "tokens mean", "tokens max"):
        table.add_column(heading, justify="right")
    for group in report.groups:
        table.add_row(
            group.preference_group, str(group.train_prompts), f"{group.share:.1%}", str(group.eval_prompts),
            f"{group.tokens_mean:.0f}", str(group.tokens_max),
        )  # fmt: skip
    stderr.print(table)
    for reason, count in report.rejected.items():
        note(f"rejected: {count} x {reason}")
    if report.rejected:
        for line in _first_rejected(report):
            note(f"  {line}")
        note(f"all rejected rows, with their reasons: {report.rejected_path}")
    for warning in report.warnings:
        note(f"warning: {warning}")
    note(
        f"{report.data_dir}: {report.train_prompts} training prompts"
        + (" (unchanged)" if report.unchanged else "")
    )


def _first_rejected(report: PrepareReport) -> list[str]:
    """Where the first few rejected rows stand, and what is wrong with them."""
    with report.rejected_path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, _SHOWN_REJECTED)]
    places = (f"{row['file']}:{row['line']}" if row["line"] else row["file"] for row in rows)
    return [f"{place}: {row['reason']}" for place, row in zip(places, rows, strict=True)]
