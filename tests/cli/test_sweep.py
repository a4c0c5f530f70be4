"""`pgrpo sweep`: the plan, and runs in processes of their own that may fail, go on, and be stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import pgrpo_cli
from pgrpo_cli.cli import sweep as module
from pgrpo_cli.cli.app import app
from pgrpo_cli.paths import path_of
from pgrpo_cli.state.run import RunDirectory, claim
from pgrpo_cli.verbs.sweep import plan_sweep
from tests.support.recipes import changed
from tests.support.runs import add_checkpoint

RECIPE = changed(
    name="tiny",
    model__quantization={"type": "none"},
    model__compute_dtype="float32",
    adapter__r=2,
    data__source={"type": "personas", "prompts": 14, "eval_prompts_per_group": 2},
    rewards=[{"type": "length", "unit": "characters", "max": 8}],
    rollout={"num_generations": 2, "max_completion_tokens": 4},
    train={"steps": 1, "prompts_per_step": 2, "learning_rate": 0.05, "warmup_steps": 0, "save_every": 1},
    eval={"num_completions": 2, "bootstrap_samples": 100},
)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(pgrpo_cli.__file__).parents[1]))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    return Path("tiny.yaml")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Processes that record the words after `pgrpo` and end as `codes` says, by run directory."""
    found: dict[str, Any] = {"calls": [], "codes": {}, "body": "pass"}
    call = module._Child.call

    def scripted(self: Any, words: Sequence[str]) -> int:
        assert list(words[:4]) == [sys.executable, "-P", "-m", "pgrpo_cli"]
        found["calls"].append(list(words[4:]))
        run = words[words.index("--run-dir") + 1]
        code = found["codes"].get(Path(run).name, 0)
        ending = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
        return call(self, [sys.executable, "-c", f"import os, sys, time\n{found['body']}\n{ending}"])

    monkeypatch.setattr(module._Child, "call", scripted)
    return found


def pgrpo(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


GRID = ("--grid", "advantage.estimator=grpo,pgrpo", "--seeds", "2")


def test_a_dry_run_shows_the_plan_and_makes_nothing(recipe: Path, played: dict[str, Any]) -> None:
    result = pgrpo("sweep", recipe, *GRID, "--dry-run")
    assert result.exit_code == 0, result.output
    for name in ("grpo-seed0", "grpo-seed1", "pgrpo-seed0", "pgrpo-seed1"):
        assert f"runs/tiny-{name}" in result.stdout
    assert "data.seed=0: runs that differ in their seeds alone" in result.stderr
    assert played["calls"] == [] and not Path("runs").exists()


def test_the_plan_has_the_controls(recipe: Path, played: dict[str, Any]) -> None:
    result = pgrpo("sweep", recipe, "--control", "random_groups", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "runs/tiny-random_groups" in result.stdout
    assert "history.preference_groups=random" in result.stdout.replace("\n", "").replace(" ", "")
    assert "`pgrpo compare` takes both" in result.stderr.replace("\n", " ")
    assert pgrpo("sweep", recipe, "--control", "other").exit_code == 2


def test_a_run_that_fails_does_not_stop_the_rest(recipe: Path, played: dict[str, Any]) -> None:
    played["codes"] = {"tiny-grpo-seed1": 1, "tiny-pgrpo-seed0": -9}
    result = pgrpo("sweep", recipe, *GRID, "--eval", "--set", "train.steps=2", "--allow-code")
    assert result.exit_code == 1
    assert [(words[0], words[3]) for words in played["calls"]] == [
        ("train", "./runs/tiny-grpo-seed0"),
        ("eval", "./runs/tiny-grpo-seed0"),
        ("train", "./runs/tiny-grpo-seed1"),
        ("train", "./runs/tiny-pgrpo-seed0"),
        ("train", "./runs/tiny-pgrpo-seed1"),
        ("eval", "./runs/tiny-pgrpo-seed1"),
    ]
    assert played["calls"][0][4:] == [
        "--set", "train.steps=2", "--set", "advantage.estimator=grpo", "--set", "seed=0",
        "--set", "data.seed=0", "--allow-code",
    ]  # fmt: skip
    assert "2 of 4 runs are done" in result.stdout
    assert "runs/tiny-grpo-seed1: `pgrpo train` ended with exit code 1" in result.stderr
    assert "runs/tiny-pgrpo-seed0: `pgrpo train` ended with signal SIGKILL: out of memory?" in result.stderr
    assert "Next: pgrpo compare runs/tiny-grpo-seed0 runs/tiny-pgrpo-seed1" in result.stderr


def test_data_are_forced_where_they_are_prepared(recipe: Path, played: dict[str, Any]) -> None:
    assert pgrpo("sweep", recipe, "--seeds", "1", "--eval", "--force", "--quiet").exit_code == 0
    train, evaluation = played["calls"]
    # `eval` prepares nothing, and has no such option.
    assert train[-2:] == ["--force", "--quiet"] and evaluation[-1] == "--quiet"
    assert "--force" not in evaluation


@pytest.mark.parametrize("name", ["-x", "~x", "a$b"])
def test_a_run_reads_the_paths_as_the_sweep_did(
    recipe: Path, played: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = recipe.rename(f"{name}.yaml")
    Path(name).mkdir()
    result = pgrpo("sweep", f"./{file}", "--runs-dir", f"./{name}", "--seeds", "1", "--quiet")
    assert result.exit_code == 0, result.output
    ((command, read, _, run, *_),) = played["calls"]
    assert command == "train" and not read.startswith("-")
    assert path_of(read, "RECIPE") == file
    assert path_of(run, "--run-dir") == Path(name, "tiny-seed0")


@pytest.mark.parametrize(("ended", "code"), [(130, 130), (143, 143), (-15, 143), (129, 129)])
def test_a_run_that_was_stopped_stops_the_sweep(
    recipe: Path, played: dict[str, Any], ended: int, code: int
) -> None:
    played["codes"] = {"tiny-grpo-seed1": ended}
    result = pgrpo("sweep", recipe, *GRID)
    assert result.exit_code == code
    assert len(played["calls"]) == 2
    assert "stopped in runs/tiny-grpo-seed1" in result.stderr
    assert "The same command continues." in result.stderr


@pytest.mark.parametrize(("signum", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_reaches_the_run_once_and_no_further_run_begins(
    recipe: Path, played: dict[str, Any], tmp_path: Path, signum: str, code: int
) -> None:
    # The run counts signals; it is in another process group, so it gets those that are passed on alone.
    played["body"] = (
        "import signal\n"
        "got = []\n"
        f"signal.signal(signal.{signum}, lambda *a: got.append(1))\n"
        f"open({str(tmp_path / 'up')!r}, 'w').close()\n"
        "end = time.monotonic() + 60\n"
        "while not got and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "apart = os.getpgid(0) != os.getpgid(os.getppid())\n"
        f"open({str(tmp_path / 'got')!r}, 'w').write(f'{{len(got)}} {{apart}}')"
    )

    def interrupt() -> None:
        while not (tmp_path / "up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.Signals[signum])

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.getsignal(signal.Signals[signum])
    result = pgrpo("sweep", recipe, *GRID, "--quiet")
    thread.join()
    assert result.exit_code == code
    assert (tmp_path / "got").read_text() == "1 True"
    assert len(played["calls"]) == 1
    assert signal.getsignal(signal.Signals[signum]) is before


def test_a_grid_with_a_mistake_starts_nothing(recipe: Path, played: dict[str, Any]) -> None:
    result = pgrpo("sweep", recipe, "--grid", "advantage.estimator=grpo,pgrqo")
    assert result.exit_code == 2
    assert "did you mean" in result.stderr
    assert played["calls"] == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("advantage.clip=3", "was made with other values of advantage.clip"),
        ("train.steps=2", "has done 3 steps, and train.steps is 2 now"),
    ],
)
def test_runs_of_another_recipe_are_refused_before_the_first_run(
    recipe: Path, played: dict[str, Any], change: str, why: str
) -> None:
    words = ("sweep", recipe, "--seeds", "2", "--set", "train.steps=4")
    planned = plan_sweep(recipe, [], "2", ["train.steps=4"]).runs[1]
    run = RunDirectory(planned.path)
    claim(run, planned.recipe, Path())
    add_checkpoint(run, 3, "x")
    settings = ("--set", change)
    result = pgrpo(*words, *settings)
    assert result.exit_code == 2
    assert played["calls"] == []
    told = " ".join(result.stderr.split())
    assert f"runs/tiny-seed1 {why}" in told
    assert "--runs-dir" in told and "--set name=" in told and "--fresh" not in told
    # The plan may be looked at, and its own recipe continues the runs.
    assert pgrpo(*words, *settings, "--dry-run").exit_code == 0
    assert pgrpo(*words).exit_code == 0 and len(played["calls"]) == 2


@pytest.mark.slow
def test_real_runs_are_made_once_and_can_be_compared(recipe: Path) -> None:
    words = ("sweep", recipe, *GRID, "--eval", "--quiet")
    first = pgrpo(*words)
    assert first.exit_code == 0, first.output
    again = pgrpo(*words)
    assert again.exit_code == 0 and again.stderr.count("done already") == 4
    runs = sorted(Path("runs").iterdir())
    compared = pgrpo("compare", *runs, "--json")
    assert compared.exit_code == 0, compared.output
    assert '"advantage.estimator"' in compared.stdout and '"seeds": 2' in compared.stdout
