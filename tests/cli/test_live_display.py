"""The live table: the preference groups that fit, most seen first, however many there are."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pgrpo_cli.cli.display import LiveDisplay


def display_of(height: int, steps: int = 100) -> LiveDisplay:
    console = Console(file=io.StringIO(), width=80, height=height, force_terminal=True, color_system=None)
    return LiveDisplay(console, steps, 0)


def stats(n: int) -> Any:
    return SimpleNamespace(n=n, prompts=n // 4, mean=0.5, std=0.25)


def record(step: int, means: dict[str, float]) -> dict[str, Any]:
    groups = {name: {"mean": mean} for name, mean in means.items()}
    return {"step": step, "reward_mean": 0.5, "groups": groups}


def frame(display: LiveDisplay) -> list[str]:
    """The lines of the terminal."""
    with display._console.capture() as captured:
        display._console.print(display._render())
    return captured.get().splitlines()


def test_a_group_is_shown_with_its_first_and_latest_mean() -> None:
    display = display_of(20)
    assert len(frame(display)) == 1
    display.on_step(record(1, {"a": 0.25, "b": 0.5}), {"a": stats(4), "b": stats(4)})
    display.on_step(record(2, {"a": 0.75}), {"a": stats(8), "unrewarded": stats(4)})
    head, first, second, bar = frame(display)
    assert head.split()[:3] == ["preference", "group", "prompts"]
    assert first.split() == ["a", "2", "0.500", "0.250", "0.750", "+0.500"]
    assert second.split() == ["b", "1", "0.500", "0.250", "0.500", "+0.000"]
    assert "2/100" in bar


def test_histories_of_drawn_preference_groups_are_shown_in_place_of_the_named_ones() -> None:
    display = display_of(20)
    line = record(1, {"a": 0.25}) | {"random_groups": {"random-1": {"mean": 0.25}}}
    display.on_step(line, {"random-1": stats(4)})
    assert frame(display)[1].split() == ["random-1", "1", "0.500", "0.250", "0.250", "+0.000"]


@pytest.mark.parametrize("height", [4, 10, 24])
def test_more_groups_than_fit_leave_the_head_and_the_bar_on_the_terminal(height: int) -> None:
    display = display_of(height)
    for step in range(1, 101):
        name = f"user-{step:03d} with a name that is so long that it would take two lines of the table"
        display.on_step(record(step, {name: 0.5}), {name: stats(4 * step)})
    lines = frame(display)
    # The cursor stands below them.
    assert len(lines) == height - 1
    assert lines[0].startswith("preference group (most seen)")
    most = [f"user-{i:03d}" for i in range(100, 103 - height, -1)]
    assert [line.split()[0] for line in lines[1:-1]] == most
    assert "100/100" in lines[-1]


def test_what_is_remembered_is_bounded_and_holds_the_most_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveDisplay, "_KEPT", 5)
    display = display_of(24)
    seen: dict[str, int] = {}
    for step in range(1, 201):
        name = f"user-{step * step % 37:02d}"
        seen[name] = seen.get(name, 0) + 4
        display.on_step(record(step, {name: 0.5}), {name: stats(seen[name])})
        most = sorted(seen, key=lambda name: (-seen[name], name))[:5]
        assert list(display._seen) == most
    assert [line.split()[0] for line in frame(display)[1:-1]] == most
