"""Runs that normalise each part of their rewards by itself: what they record, and that they go on exactly."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.algo.estimators import PRESETS
from pgrpo_cli.errors import Interrupted
from pgrpo_cli.rewards.base import Completion, Score
from pgrpo_cli.state.history_store import read_groups, read_parts
from tests.support.history import read_completions
from tests.support.loop import Watcher, go
from tests.support.processes import KillPoint, Process
from tests.support.rewards import Plain, summed
from tests.support.training import outcome, pgrpo, trained, write_tiny

REWARDS = [
    {"type": "length", "unit": "characters", "max": 6},
    {"type": "regex", "pattern": "[aeiou]", "count": True, "limit": 4, "weight": 0.5},
    {"type": "regex", "name": "seldom", "pattern": "e", "weight": 2, "preference_groups": ["seldom", "é"]},
    {"type": "keyword", "keywords": ["the"], "weight": 0},
]
APART = {"aggregate": "normalize_then_sum"}


def tiny(folder: Path, **sections: Any) -> Path:
    return write_tiny(folder, **{"rewards": REWARDS, "advantage": APART, **sections})


def test_every_part_has_a_history_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(tiny(tmp_path), run)
    rows, parts = read_completions(run / "history.sqlite"), read_parts(run / "history.sqlite")
    served = {"often": ["length", "regex"], "seldom": ["length", "regex", "seldom"]}
    served["é"] = served["seldom"]
    assert {group: [row.part for row in found] for group, found in parts.items()} == served
    assert parts.keys() == {row.preference_group for row in read_groups(run / "history.sqlite")}
    for group, found in parts.items():
        for row in found:
            values = [r["parts"][row.part] for r in rows if r["preference_group"] == group]
            assert (row.n, row.mean) == (len(values), pytest.approx(math.fsum(values) / len(values)))
    # In the last step the histories are those at the end: the advantages follow from them.
    weights = {"length": 1, "regex": 0.5, "seldom": 2}
    for r in rows:
        if r["step"] == 6:
            terms = [
                weights[row.part] * (r["parts"][row.part] - row.mean) / (row.std + 1e-4)
                for row in parts[r["preference_group"]]
                if row.std
            ]
            assert r["advantage"] == pytest.approx(sum(terms), abs=1e-5)


def test_groups_show_the_parts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(tiny(tmp_path), run)
    text = pgrpo("groups", run).stdout
    assert [line.split()[0] for line in text.splitlines()[1:12]] == [
        "often", "length", "regex", "seldom", "length", "regex", "seldom", "é", "length", "regex", "seldom",
    ]  # fmt: skip
    found = json.loads(pgrpo("groups", run, "--json").stdout)
    assert set(found["often"]["parts"]) == {"length", "regex"}
    # The advice is on what the advantages are made from: the mean over the parts' histories.
    numbers = [part for group in found.values() for part in group["parts"].values()]
    predicted = [part["efficiency"]["pgrpo"] for part in numbers if part["efficiency"]]
    assert predicted
    assert f"pgrpo {sum(predicted) / len(predicted):.2f}, grpo" in text.splitlines()[-1]
    assert found["often"]["parts"]["length"]["n"] == found["often"]["n"]
    trained(tiny(tmp_path, advantage={}), tmp_path / "plain")
    plain = json.loads(pgrpo("groups", tmp_path / "plain", "--json").stdout)
    assert "parts" not in plain["often"]


def test_a_run_that_stops_goes_on_exactly(tmp_path: Path) -> None:
    recipe = tiny(
        tmp_path, history={"kind": {"type": "ema", "decay": 0.9}, "update": "after", "min_count": 4}
    )
    go(recipe, tmp_path / "whole", "train.save_every=3")
    with pytest.raises(Interrupted):
        go(recipe, tmp_path / "run", "train.save_every=3", watcher=Watcher(stop_after=3))
    assert len(read_parts(tmp_path / "run" / "history.sqlite")) > 0
    go(recipe, tmp_path / "run", "train.save_every=3")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_that_was_killed_goes_on_exactly(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    trained(recipe, tmp_path / "whole")
    # Step 4 is done and its parts are in the store when it dies: they go back to those of step 2.
    point = KillPoint("os.rename", ".step-000004.tmp")
    process = Process(tmp_path, "train", recipe, "--run-dir", tmp_path / "run", kill_at=point)
    assert process.wait() == -signal.SIGKILL, process.stderr
    assert trained(recipe, tmp_path / "run").stdout.startswith("resumed from step 2\n")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_one_reward_of_weight_one_is_trained_alike_in_both_orders(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    go(recipe, tmp_path / "summed")
    go(recipe, tmp_path / "apart", "advantage.aggregate=normalize_then_sum")
    one, other = (outcome(tmp_path / name) for name in ("summed", "apart"))
    assert one["metrics"] == other["metrics"]
    assert one["tables"]["completions"] == other["tables"]["completions"]
    assert one["adapter"]["adapter_model.safetensors"] == other["adapter"]["adapter_model.safetensors"]


def test_a_missing_part_leaves_the_signal_of_the_others(tmp_path: Path) -> None:
    def lengths(completions: Sequence[Completion]) -> list[Score]:
        return [Score(float(len(c.text)), {"value": float(len(c.text))}) for c in completions]

    def gone(completions: Sequence[Completion]) -> list[Score]:
        return [Score(math.nan, {}) for _ in completions]

    recipe = write_tiny(tmp_path, advantage=APART)
    go(recipe, tmp_path / "run", "train.steps=2", rewards=summed(Plain(lengths), Plain(gone)))
    rows = read_completions(tmp_path / "run" / "history.sqlite")
    # The sum is unknown, the advantage is not.
    assert {row["reward"] for row in rows} == {None}
    assert sum(row["advantage"] != 0 for row in rows) > 12
    parts = read_parts(tmp_path / "run" / "history.sqlite")
    assert {row.part for found in parts.values() for row in found} == {"r0"}


@pytest.mark.parametrize("estimator", PRESETS)
def test_every_estimator_trains(tmp_path: Path, estimator: str) -> None:
    advantage = {**APART, "estimator": estimator, "renormalize": True}
    go(tiny(tmp_path, advantage=advantage), tmp_path / "run", "train.steps=1")
    rows = read_completions(tmp_path / "run" / "history.sqlite")
    # Centred and of unit variance over the step.
    assert sum(row["advantage"] for row in rows) == pytest.approx(0, abs=1e-4)
    assert sum(row["advantage"] ** 2 for row in rows) / 11 == pytest.approx(1, abs=1e-2)
