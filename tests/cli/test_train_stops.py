"""Ctrl-C: the step at hand is finished and saved, and the command that is printed goes on."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pgrpo_cli.training
from pgrpo_cli.verbs import train as verb
from tests.support.training import outcome, pgrpo, steps_in, trained, write_tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


@pytest.fixture
def whole(recipe: Path) -> dict[str, Any]:
    """What an uninterrupted run leaves."""
    trained(recipe, recipe.parent / "whole")
    return outcome(recipe.parent / "whole")


def in_update(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Do something in the middle of a step."""
    real = pgrpo_cli.training.policy_update

    def update(*arguments: Any, **options: Any) -> Any:
        if options["step"] == step:
            action()
        return real(*arguments, **options)

    monkeypatch.setattr(pgrpo_cli.training, "policy_update", update)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_finishes_the_step_and_the_command_it_prints_goes_on(
    recipe: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    with monkeypatch.context() as patched:
        in_update(patched, 4, ctrl_c)
        result = pgrpo("train", "tiny.yaml", "--run-dir", "a run")
    assert result.exit_code == 130
    assert "step 4/6" in result.stderr
    assert "step 5/6" not in result.stderr
    assert "stopped after step 4 of 6; everything is saved" in result.stderr
    assert not Path("a run/adapter").exists()
    command = result.stderr.splitlines()[-1].removeprefix("  Go on with: ")
    assert command == "pgrpo train tiny.yaml --run-dir 'a run'"
    resumed = pgrpo(*shlex.split(command)[1:])
    assert resumed.exit_code == 0
    assert resumed.stdout.splitlines()[0] == "resumed from step 4"
    assert resumed.stdout.count("resumed from step") == 1
    assert outcome(Path("a run")) == whole


def test_a_second_ctrl_c_stops_at_once(
    recipe: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recipe.parent / "run"
    with monkeypatch.context() as patched:
        in_update(patched, 4, lambda: (ctrl_c(), ctrl_c()))  # type: ignore[func-returns-value]
        result = pgrpo("train", recipe, "--run-dir", run)
    assert result.exit_code == 130
    assert "step 4/6" not in result.stderr
    assert "Go on with: pgrpo train" in result.stderr
    assert steps_in(run) == ["step-000002"]
    assert trained(recipe, run).stdout.startswith("resumed from step 2\n")
    assert outcome(run) == whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_the_first_step_makes_none(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verb.load_policy

    def load_policy(*arguments: Any, **options: Any) -> Any:
        ctrl_c()
        return real(*arguments, **options)

    monkeypatch.setattr(verb, "load_policy", load_policy)
    result = pgrpo("train", recipe, "--run-dir", recipe.parent / "run")
    assert result.exit_code == 130
    assert "step 1/6" not in result.stderr
    assert "stopped at once" in result.stderr
    assert "Go on with: pgrpo train" in result.stderr


INTERRUPTING = """
import os, signal
calls = []

def reward(prompts, completions, **columns):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return [float(len(c)) for c in completions]
"""


def test_the_command_that_goes_on_allows_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny(tmp_path, rewards=[{"type": "python", "file": "mine.py"}])
    (tmp_path / "mine.py").write_text(INTERRUPTING.replace("== 3", "== 0"))
    trained(recipe, tmp_path / "whole", "--allow-code")
    (tmp_path / "mine.py").write_text(INTERRUPTING)
    monkeypatch.chdir(tmp_path)
    stopped = pgrpo("train", "tiny.yaml", "--allow-code")
    assert "stopped after step 3 of 6" in stopped.stderr
    command = stopped.stderr.splitlines()[-1].removeprefix("  Go on with: ")
    assert command == "pgrpo train tiny.yaml --allow-code"
    assert pgrpo(*shlex.split(command)[1:]).stdout.startswith("resumed from step 3\n")
    # The stop made a checkpoint of its own.
    ours, theirs = outcome(tmp_path / "runs" / "tiny"), outcome(tmp_path / "whole")
    assert ours.pop("checkpoints") != theirs.pop("checkpoints")
    assert ours == theirs
