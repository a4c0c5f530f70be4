"""What a person sees while a run trains, and the table of its preference groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import pgrpo_cli.cli.terminal
from pgrpo_cli.cli.display import groups_table
from pgrpo_cli.state.history_store import GroupRow
from tests.support.training import trained, write_tiny


def test_a_terminal_gets_a_live_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgrpo_cli.cli.terminal.stderr, "_force_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    result = trained(write_tiny(tmp_path), tmp_path / "run")
    assert "step 1/6" not in result.stderr
    last_frame = result.stderr[result.stderr.rindex("preference group") :]
    for text in ("since start", "often", "seldom", "6/6", "ETA"):
        assert text in last_frame


def shown(*rows: GroupRow) -> list[str]:
    """Lines of the table, as wide as a pipe."""
    console = Console(width=80)
    with console.capture() as captured:
        console.print(groups_table(list(rows)))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_preference_group_seen_once_has_no_spread_to_show() -> None:
    row = GroupRow("one", 1, 0.5, None, 3, 3, 1, None, None)
    assert shown(row)[-1].split() == ["one", "1", "1", "0.5000", "-", "-", "-", "3", "3"]


def test_the_table_shows_whole_names_and_numbers() -> None:
    row = GroupRow("asking-questions", 1234567.0, -0.5, 0.25, 1, 10000, 154320, 0.04, 0.09)
    assert shown(row)[-1].split() == [
        "asking-questions", "154320", "1234567", "-0.5000", "0.2500", "0.2000", "0.3000", "1", "10000",
    ]  # fmt: skip
    long = GroupRow("n" * 50, 1, 0.5, None, 3, 3, 1, None, None)
    assert "".join(shown(long)).count("n") >= 50
