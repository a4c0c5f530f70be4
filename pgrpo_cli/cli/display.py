"""What a person sees while a run trains: a live view on a terminal, a line a step elsewhere, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pgrpo_cli.state.history_store import GroupRow


class LineDisplay:
    """One plain line a step."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps = console, steps

    def on_phase(self, step: int, phase: str) -> None:
        """Phases are not shown."""

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """Print the step's numbers."""
        reward = record["reward_mean"]
        self._console.print(
            f"step {record['step']}/{self._steps}  reward {'-' if reward is None else f'{reward:.3f}'}  "
            f"loss {record['loss']:+.4f}  grad {record['grad_norm']:.3f}  lr {record['learning_rate']:.2e}  "
            f"length {record['completion_length_mean']:.1f}  {record['seconds']['total']:.1f} s",
            soft_wrap=True,
        )

    def on_message(self, text: str) -> None:
        """Print a note about the run."""
        self._console.print(Text(text), soft_wrap=True)


class QuietDisplay(LineDisplay):
    """Notes only."""

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """Nothing."""


class LiveDisplay(LineDisplay):
    """A progress bar with what is being done, and a table of the preference groups."""

    def __init__(self, console: Console, steps: int, done: int) -> None:
        super().__init__(console, steps)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[phase]:<8}"),
            TextColumn("reward {task.fields[reward]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("train", total=steps, completed=done, phase="", reward="-")
        self._first_means: dict[str, float] = {}
        self._groups: Mapping[str, Any] = {}
        self._latest: dict[str, float] = {}
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def on_phase(self, step: int, phase: str) -> None:
        """Show what the step is doing."""
        self._progress.update(self._task, phase=phase)

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """Advance the bar and the table."""
        reward = record["reward_mean"]
        text = "-" if reward is None else f"{reward:.3f}"
        self._progress.update(self._task, completed=record["step"], reward=text)
        for name, group in record["groups"].items():
            self._first_means.setdefault(name, group["mean"])
            self._latest[name] = group["mean"]
        self._groups = groups

    def _render(self) -> Group:
        rows = sorted(self._groups.items(), key=lambda item: (-item[1].n, item[0]))
        table = Table("preference group", box=None, pad_edge=False)
        for heading in ("prompts", "mean", "spread", "latest", "since start"):
            table.add_column(heading, justify="right")
        for name, stats in rows:
            latest = self._latest.get(name)
            change = None if latest is None else latest - self._first_means[name]
            table.add_row(
                name, str(stats.prompts), f"{stats.mean:.3f}", f"{stats.std:.3f}",
                "-" if latest is None else f"{latest:.3f}", "-" if change is None else f"{change:+.3f}",
            )  # fmt: skip
        return Group(table, self._progress) if rows else Group(self._progress)


@contextmanager
def training_display(console: Console, *, steps: int, done: int, quiet: bool) -> Iterator[LineDisplay]:
    """The display that fits: live on a terminal, lines elsewhere, notes only if quiet."""
    if quiet:
        yield QuietDisplay(console, steps)
    elif console.is_terminal:
        display = LiveDisplay(console, steps, done)
        with display.live:
            yield display
    else:
        yield LineDisplay(console, steps)


def groups_table(rows: list[GroupRow]) -> Table:
    """The reward history as a table of 80 columns; `first` and `last` are steps. Long names are folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preference group", overflow="fold")
    for heading in ("prompts", "rewards", "mean", "spread", "within", "between", "first", "last"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.preference_group, str(row.prompts), f"{row.n:.0f}", f"{row.mean:.4f}", _number(row.std),
            _root(row.within_variance), _root(row.between_variance), str(row.first_step), str(row.last_step),
        )  # fmt: skip
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _root(variance: float | None) -> str:
    return "-" if variance is None else f"{max(variance, 0.0) ** 0.5:.4f}"
