"""What a person sees while a run trains: a live view on a terminal, else one line per step, or nothing."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

from pgrpo_cli.state.history_store import GroupRow, PartRow

if TYPE_CHECKING:
    from pgrpo_cli.algo.types import GroupStats


class LineDisplay:
    """One plain line per step."""

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
        self._console.print(text, soft_wrap=True)


class QuietDisplay(LineDisplay):
    """Notes only."""

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class _Seen:
    """A preference group that this process has trained on: its statistics and two means of a step."""

    stats: GroupStats
    first_mean: float
    latest_mean: float


class LiveDisplay(LineDisplay):
    """A progress bar with what is being done, and a table of the preference groups, as many as fit.

    Those with the most rewards come first, of those that this process has trained on.
    """

    _KEPT = 1000
    """Preference groups remembered: more than a terminal shows, few enough to sort at every frame."""

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
        self._seen: dict[str, _Seen] = {}
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def on_phase(self, step: int, phase: str) -> None:
        """Show what the step is doing."""
        self._progress.update(self._task, phase=phase)

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """Advance the bar and the table."""
        reward = record["reward_mean"]
        text = "-" if reward is None else f"{reward:.3f}"
        self._progress.update(self._task, completed=record["step"], reward=text)
        # Another thread draws: it sees the groups before this step or after it.
        seen = dict(self._seen)
        # `groups` are those of the histories: under the control of random ones, these.
        for name, group in record.get("random_groups", record["groups"]).items():
            first_mean = seen[name].first_mean if name in seen else group["mean"]
            seen[name] = _Seen(groups[name], first_mean, group["mean"])
        self._seen = dict(_most_seen(seen, self._KEPT))

    def _render(self) -> Group:
        seen = self._seen
        # Beside them stand the table's head, the progress bar and the line of the cursor.
        rows = _most_seen(seen, max(self._console.height - 3, 1))
        table = Table(box=None, pad_edge=False)
        which = "preference group" if len(rows) == len(seen) else "preference group (most seen)"
        table.add_column(which, no_wrap=True)
        for heading in ("prompts", "mean", "spread", "latest", "since start"):
            table.add_column(heading, justify="right")
        for name, group in rows:
            stats = group.stats
            table.add_row(
                name, str(stats.prompts), f"{stats.mean:.3f}", f"{stats.std:.3f}",
                f"{group.latest_mean:.3f}", f"{group.latest_mean - group.first_mean:+.3f}",
            )  # fmt: skip
        return Group(table, self._progress) if rows else Group(self._progress)


def _most_seen(groups: Mapping[str, _Seen], count: int) -> list[tuple[str, _Seen]]:
    return heapq.nsmallest(count, groups.items(), key=lambda item: (-item[1].stats.n, item[0]))


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


def groups_table(rows: list[GroupRow], parts: Mapping[str, list[PartRow]] | None = None) -> Table:
    """The reward history as a table of 80 columns; `first` and `last` are steps. Long names are folded.

    `parts` by preference group stand indented below theirs; one of which no whole reward is known comes last.
    """
    parts = parts or {}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preference group", overflow="fold")
    for heading in ("prompts", "rewards", "mean", "spread", "within", "between", "first", "last"):
        table.add_column(heading, justify="right")
    whole = {row.preference_group: row for row in rows}
    for group in dict.fromkeys([*whole, *parts]):
        if group in whole:
            table.add_row(group, *_cells(whole[group]))
        else:
            table.add_row(group)
        for part in parts.get(group, ()):
            table.add_row(f"  {part.part}", *_cells(part))
    return table


def efficiency_table(by_G: Mapping[int, Mapping[str, float]]) -> Table:
    """The predicted efficiency of each estimator by number of completions per prompt."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("predicted efficiency")
    for G in by_G:
        table.add_column(f"G = {G}", justify="right")
    for name in next(iter(by_G.values())):
        table.add_row(name, *(f"{of_estimators[name]:.2f}" for of_estimators in by_G.values()))
    return table


def _cells(row: GroupRow) -> tuple[str, ...]:
    return (
        str(row.prompts), f"{row.n:.0f}", f"{row.mean:.4f}", _number(row.std),
        _root(row.within_variance), _root(row.between_variance), str(row.first_step), str(row.last_step),
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _root(variance: float | None) -> str:
    return "-" if variance is None else f"{max(variance, 0.0) ** 0.5:.4f}"
