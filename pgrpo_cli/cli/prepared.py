"""What `prepare` found, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from .common import note, stderr

if TYPE_CHECKING:
    from pgrpo_cli.prepare import PrepareReport


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
        note(f"rejected rows are in {report.rejected_path}")
    for warning in report.warnings:
        note(f"warning: {warning}")
    note(
        f"{report.data_dir}: {report.train_prompts} training prompts"
        + (" (unchanged)" if report.unchanged else "")
    )
