"""Runs whose histories are of random preference groups: what changes, what does not, and that they go on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.data.history_labels import HistoryLabels
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.state.history_store import read_groups, read_parts
from pgrpo_cli.state.run import run_at
from tests.support.history import read_completions
from tests.support.loop import go
from tests.support.processes import KillPoint, Process
from tests.support.training import metrics, outcome, pgrpo, trained, write_tiny

RANDOM = {"preference_groups": "random"}
BY_GROUP = [
    {"type": "length", "unit": "characters", "max": 6, "preference_groups": ["often"]},
    {
        "type": "length",
        "name": "long",
        "unit": "characters",
        "min": 6,
        "max": 99,
        "preference_groups": ["seldom", "é"],
    },
]


def labels_of(run: Path) -> dict[str, str]:
    """The label of each prompt by its id."""
    recipe = run_at(run).recipe()
    prompts = load_prepared(run, "train")
    labels = HistoryLabels(recipe.history, prompts, recipe.seed).of(prompts)
    return {prompt.prompt_id: label for prompt, label in zip(prompts, labels, strict=True)}


def test_histories_are_those_of_the_drawn_ones_and_the_rest_of_the_named_ones(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(write_tiny(tmp_path, rewards=BY_GROUP, history=RANDOM), run)
    labels, rows = labels_of(run), read_completions(run / "history.sqlite")
    # Prompts and rewards are by the named ones.
    assert {row["preference_group"] for row in rows} == {"often", "seldom", "é"}
    for row in rows:
        assert set(row["parts"]) == ({"length"} if row["preference_group"] == "often" else {"long"})
    histories = {row.preference_group: row for row in read_groups(run / "history.sqlite")}
    assert (
        histories.keys() == {labels[row["prompt_id"]] for row in rows} <= {"random-1", "random-2", "random-3"}
    )
    for label, history in histories.items():
        rewards = [row["reward"] for row in rows if labels[row["prompt_id"]] == label]
        assert (history.n, history.mean) == (len(rewards), pytest.approx(sum(rewards) / len(rewards)))
    # In the last step the histories are those at the end: the advantages follow from them.
    last = [row for row in rows if row["step"] == 6]
    for row in last:
        history = histories[labels[row["prompt_id"]]]
        expected = (row["reward"] - history.mean) / (history.std + 1e-4) if history.std else 0.0
        assert row["advantage"] == pytest.approx(expected, abs=1e-5)
    line = metrics(run)[-1]
    assert set(line["groups"]) == {row["preference_group"] for row in last}
    for label, found in line["random_groups"].items():
        rewards = [row["reward"] for row in last if labels[row["prompt_id"]] == label]
        assert found == {"n": len(rewards), "mean": pytest.approx(sum(rewards) / len(rewards))}


def test_without_it_nothing_is_drawn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(write_tiny(tmp_path), run, "train.steps=1")
    assert "random_groups" not in metrics(run)[0]
    assert {row.preference_group for row in read_groups(run / "history.sqlite")} <= {"often", "seldom", "é"}


@pytest.mark.parametrize("advantage", [{}, {"aggregate": "normalize_then_sum"}])
def test_a_run_that_was_killed_goes_on_exactly(tmp_path: Path, advantage: dict[str, Any]) -> None:
    recipe = write_tiny(tmp_path, history=RANDOM, advantage=advantage)
    trained(recipe, tmp_path / "whole")
    point = KillPoint("os.rename", ".step-000004.tmp")
    process = Process(tmp_path, "train", recipe, "--run-dir", tmp_path / "run", kill_at=point)
    assert process.wait() == -signal.SIGKILL, process.stderr
    assert trained(recipe, tmp_path / "run").stdout.startswith("resumed from step 2\n")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    if advantage:
        assert all(name.startswith("random-") for name in read_parts(tmp_path / "run" / "history.sqlite"))


def test_compare_takes_a_run_and_its_control(tmp_path: Path) -> None:
    """They have the same held-out prompts in the same preference groups."""
    recipe = write_tiny(tmp_path, eval={"num_completions": 2, "bootstrap_samples": 100})
    runs = []
    for seed in (1, 2):
        for name, words in (("named", ()), ("random", ("--set", "history.preference_groups=random"))):
            run = tmp_path / f"{name}-{seed}"
            trained(
                recipe, run, "--set", "data.seed=1", "--set", f"seed={seed}", "--set", "train.steps=2", *words
            )
            assert pgrpo("eval", run).exit_code == 0
            runs.append(run)
    result = pgrpo("compare", *runs, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(method["label"], method["seeds"]) for method in found["methods"]] == [
        ("named", [1, 2]),
        ("random", [1, 2]),
    ]
    groups = {pair["preference_group"] for pair in found["pairs"]}
    assert {"often", "seldom", "é"} <= groups
    shown = pgrpo("groups", runs[1]).stdout
    assert "random-1" in shown and "No estimator is recommended" in shown
    assert "No estimator is recommended" not in pgrpo("groups", runs[0]).stdout
