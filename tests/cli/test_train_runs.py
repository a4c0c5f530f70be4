"""`prepare`, `train` and `groups` as a user meets them."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import pgrpo_cli.train
from pgrpo_cli.cli.display import LineDisplay, groups_table
from pgrpo_cli.recipe.load import load_recipe, load_resolved
from pgrpo_cli.state.history_store import GroupRow
from pgrpo_cli.state.run import RunDirectory, locked
from tests.support.training import ROWS, files_in, metrics, outcome, pgrpo, steps_in, write_tiny

GROUP_KEYS = {"n", "mean", "std", "first_step", "last_step"}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


@pytest.fixture
def run(recipe: Path) -> Path:
    """A finished run."""
    assert pgrpo("train", recipe, "--run-dir", recipe.parent / "run").exit_code == 0
    return recipe.parent / "run"


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something, once, when a step's line is due."""
    real = LineDisplay.on_step

    def on_step(self: LineDisplay, record: Any, groups: Any) -> None:
        real(self, record, groups)
        if record["step"] == step:
            action()

    monkeypatch.setattr(LineDisplay, "on_step", on_step)


def in_update(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something in the middle of a step."""
    real = pgrpo_cli.train.policy_update

    def update(*arguments: Any, **options: Any) -> Any:
        if options["step"] == step:
            action()
        return real(*arguments, **options)

    monkeypatch.setattr(pgrpo_cli.train, "policy_update", update)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_run_from_start_to_end(recipe: Path) -> None:
    run = recipe.parent / "run"
    result = pgrpo("train", recipe, "--run-dir", run)
    assert (result.exit_code, result.stdout) == (0, f"finished: the adapter is in {run / 'adapter'}\n")
    lines = [line for line in result.stderr.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == [f"{n}/6" for n in range(1, 7)]
    assert all(f"reward {m['reward_mean']:.3f}" in line for m, line in zip(metrics(run), lines, strict=True))
    assert steps_in(run) == ["step-000002", "step-000004", "step-000006"]
    assert load_resolved(run / "recipe.yaml") == load_recipe(recipe)
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "adapter", "checkpoints", "data", "history.sqlite", "metrics.jsonl", "origin.json",
        "paths.json", "recipe.yaml",
    ]  # fmt: skip


def test_the_default_directory_is_named_after_the_recipe(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    result = pgrpo("train", "tiny.yaml", "--set", "train.steps=1")
    assert result.stdout == "finished: the adapter is in runs/tiny/adapter\n"


def test_a_finished_run_says_so_and_is_left_alone(recipe: Path, run: Path) -> None:
    before = files_in(run)
    result = pgrpo("train", recipe, "--run-dir", run)
    assert result.exit_code == 0
    assert f"{run} is finished" in result.stdout
    assert "--fresh" in result.stdout
    assert files_in(run) == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_recipe_is_refused_by_its_keys(recipe: Path, finished: bool) -> None:
    run = recipe.parent / "run"
    assert pgrpo("train", recipe, "--run-dir", run).exit_code == 0
    if not finished:
        (run / "adapter").rename(recipe.parent / "elsewhere")
    before = files_in(run)
    result = pgrpo("train", recipe, "--run-dir", run, "--set", "seed=2", "--set", "rollout.top_k=3")
    assert result.exit_code == 2
    assert "  seed: 1 in the run, 2 in the recipe\n" in result.stderr
    assert "  rollout.top_k: 0 in the run, 3 in the recipe\n" in result.stderr
    assert "learning_rate" not in result.stderr
    assert files_in(run) == before


def test_fresh_starts_beside_and_changes_nothing(recipe: Path, run: Path) -> None:
    before = files_in(run)
    for number in (2, 3):
        result = pgrpo("train", recipe, "--run-dir", run, "--fresh", "--set", "train.steps=1")
        assert result.exit_code == 0, result.stderr
        assert (run.parent / f"run-{number}" / "adapter").is_dir()
    assert files_in(run) == before


def test_the_recipe_of_a_run_that_is_about_to_start_is_safe_from_a_second_trainer(recipe: Path) -> None:
    run = RunDirectory(recipe.parent / "run")
    pgrpo("prepare", recipe, "--run-dir", run.path)
    with locked(run):
        assert pgrpo("train", recipe, "--run-dir", run.path, "--set", "seed=5").exit_code == 2
    assert run.recipe().seed == 1


def test_a_recipe_written_by_hand_is_not_replaced(recipe: Path) -> None:
    mine = recipe.rename(recipe.with_name("recipe.yaml"))
    before = mine.read_bytes()
    result = pgrpo("train", mine, "--run-dir", mine.parent)
    assert result.exit_code == 2
    assert "written by hand" in result.stderr
    assert mine.read_bytes() == before


def test_a_run_directory_that_is_a_file(recipe: Path) -> None:
    result = pgrpo("train", recipe, "--run-dir", recipe)
    assert (result.exit_code, "is a file" in result.stderr) == (2, True)


def test_prepare_then_train(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    prepared = pgrpo("prepare", "tiny.yaml", "--run-dir", "run", "--set", "train.steps=2")
    assert prepared.exit_code == 0
    command = prepared.stderr.splitlines()[-1].removeprefix("Next: ")
    assert command == "pgrpo train tiny.yaml --run-dir run --set train.steps=2"
    data = files_in(Path("run/data"))
    trained = pgrpo(*shlex.split(command)[1:])
    assert trained.exit_code == 0
    assert "(unchanged)" in trained.stderr
    assert files_in(Path("run/data")) == data


def test_ctrl_c_finishes_the_step_and_the_command_it_prints_goes_on(
    recipe: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    with monkeypatch.context() as patched:
        in_update(patched, 4, ctrl_c)
        result = pgrpo("train", "tiny.yaml", "--run-dir", "a run")
    assert result.exit_code == 130
    assert "step 4/6" in result.stderr
    assert "step 5/6" not in result.stderr
    assert "stopped after step 4 of 6; everything is saved" in result.stderr
    command = result.stderr.splitlines()[-1].removeprefix("  Go on with: ")
    assert command == "pgrpo train tiny.yaml --run-dir 'a run'"
    resumed = pgrpo(*shlex.split(command)[1:])
    assert resumed.exit_code == 0
    assert resumed.stdout.splitlines()[0] == "resumed from step 4"
    assert resumed.stdout.count("resumed from step") == 1
    assert outcome(Path("a run")) == outcome(run)


def test_a_second_ctrl_c_stops_at_once(recipe: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        in_update(patched, 4, lambda: (ctrl_c(), ctrl_c()))  # type: ignore[arg-type, return-value]
        result = pgrpo("train", recipe, "--run-dir", run.parent / "other")
    assert result.exit_code == 130
    assert "step 4/6" not in result.stderr
    assert "Go on with: pgrpo train" in result.stderr
    assert steps_in(run.parent / "other") == ["step-000002"]
    resumed = pgrpo("train", recipe, "--run-dir", run.parent / "other")
    assert resumed.stdout.startswith("resumed from step 2\n")
    assert outcome(run.parent / "other") == outcome(run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_the_first_step_makes_none(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pgrpo_cli.model.load as load

    real = load.load_policy

    def load_policy(*arguments: Any, **options: Any) -> Any:
        ctrl_c()
        return real(*arguments, **options)

    monkeypatch.setattr(load, "load_policy", load_policy)
    result = pgrpo("train", recipe, "--run-dir", recipe.parent / "run")
    assert result.exit_code == 130
    assert "step 1/6" not in result.stderr
    assert "stopped before a step was made" in result.stderr


def groups_of(run: Path) -> dict[str, dict[str, Any]]:
    result = pgrpo("groups", run, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_groups_of_a_finished_run(run: Path) -> None:
    groups = groups_of(run)
    assert set(groups) == set(ROWS)
    assert all(set(row) >= GROUP_KEYS for row in groups.values())
    # 6 steps of 3 prompts with 4 completions each.
    assert sum(row["n"] for row in groups.values()) == 72
    assert all(1 <= row["first_step"] <= row["last_step"] <= 6 for row in groups.values())
    table = {words[0]: words for line in pgrpo("groups", run).stdout.splitlines() if (words := line.split())}
    assert set(ROWS) <= set(table)
    often = groups["often"]
    assert table["often"][1:4] == [str(often["prompts"]), f"{often['n']:.0f}", f"{often['mean']:.4f}"]


def test_groups_of_a_running_run(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = recipe.parent / "run", []
    after_step(monkeypatch, 3, lambda: seen.append(groups_of(run)))
    assert pgrpo("train", recipe, "--run-dir", run).exit_code == 0
    assert sum(row["n"] for row in seen[0].values()) == 36
    assert max(row["last_step"] for row in seen[0].values()) == 3


def test_groups_where_there_is_no_run(tmp_path: Path) -> None:
    result = pgrpo("groups", tmp_path / "nowhere", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "does not exist" in result.stderr


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import pgrpo_cli.cli.common as common

    monkeypatch.setattr(common.stderr, "_force_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    yield


def test_a_terminal_gets_a_live_table(recipe: Path, terminal: None) -> None:
    result = pgrpo("train", recipe, "--run-dir", recipe.parent / "run")
    assert result.exit_code == 0, result.stderr
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


def test_help_lists_the_commands() -> None:
    text = pgrpo("--help").stdout
    assert all(f" {command} " in text for command in ("prepare", "train", "groups"))
    assert "--fresh" in pgrpo("train", "--help").stdout
