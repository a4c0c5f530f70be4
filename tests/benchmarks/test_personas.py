"""The study of the personas: choosing rates, measures by hand, and a run of its own kind in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import personas, personas_runs
from benchmarks.personas_runs import RATES, Run, chosen_rates, compared_runs, record_of, tuning_runs
from benchmarks.personas_tables import methods_of, persona_of, tables
from benchmarks.study import Results, train_all
from pgrpo_cli.rewards.personas import PERSONAS
from tests.support.training import write_tiny


def record(run: Run, *, last: float, reward: float = 0.5) -> dict[str, Any]:
    """Of a run whose held-out prompts are at 0, then 1 after 10 steps, then `last` after 20."""
    prompts = [f"eval-{name}-{number:04d}" for name in PERSONAS for number in range(6)]
    # Every second prompt of a persona is higher by 0.5, and by some hundredths more with each seed.
    extra = {p: (0.5 + run.seed / 100) * (int(p[-1]) % 2) for p in prompts}
    values = ((0, 0.0), (10, 1.0), (20, last))
    return {
        "method": run.method,
        "rate": run.rate,
        "seed": run.seed,
        "curve": [{"step": step, "prompts": {p: v + extra[p] for p in prompts}} for step, v in values],
        "training_reward": [9.0] * 10 + [reward] * 10,
        "entropy": [2.0] * 20,
        "length": [20.0] * 20,
        "loss": [-0.25] * 20,
        "weights": {"a": 0.5, "b": None},
    }


def test_the_rate_is_that_of_the_higher_training_reward_late_in_the_run() -> None:
    # Over the whole run the first rate would win: 9 and 0.1 against 9 and 0.2 differ late only.
    rewards = dict(zip(RATES, (0.1, 0.3, 0.2), strict=True))
    records = {run.name: record(run, last=2.0, reward=rewards[run.rate]) for run in tuning_runs(["grpo"])}
    assert chosen_rates(["grpo"], records) == {"grpo": RATES[1]}
    assert tuning_runs(["grpo", "pgrpo"])[:2] == [Run("grpo", RATES[1], 0), Run("pgrpo", RATES[1], 0)]


def test_the_persona_is_in_the_prompt_whatever_its_preference_group() -> None:
    assert {persona_of(f"eval-{name}-0011") for name in PERSONAS} == set(PERSONAS)


def test_measures_and_differences_by_hand() -> None:
    ends = {"grpo": 1.0, "pgrpo": 3.0}
    runs = [*tuning_runs(list(ends)), *compared_runs(dict.fromkeys(ends, RATES[1]), 3)]
    records = {run.name: record(run, last=ends[run.method]) for run in runs}
    methods = methods_of(dict.fromkeys(ends, RATES[1]), records)
    # The mean over seeds of half of 0.50, 0.51, 0.52 comes to every point: 0.255.
    assert methods["grpo"].mean("base") == pytest.approx(0.255)
    assert methods["grpo"].mean("final") == pytest.approx(1.255)
    # (0 + 1) / 2 over the first half and (1 + 3) / 2 over the second: 1.25; with grpo 0.75.
    assert methods["pgrpo"].mean("area") == pytest.approx(1.25 + 0.255)
    assert methods["grpo"].mean("area", ["terse-jazz"]) == pytest.approx(0.75 + 0.255)
    text = tables(methods, records)
    assert "| `pgrpo` − `grpo` | +0.500 [+0.489..+0.511] ahead | +2.000 [+1.989..+2.011] ahead |" in text
    assert "| `pgrpo`, 0.0012, seed 1 | 0.255 → 1.255 → 3.255 | +0.25 | 2.00 | 20 | 0.50 |" in text


def test_methods_without_all_seeds_are_left_out() -> None:
    runs = compared_runs({"grpo": RATES[0], "pgrpo": RATES[0]}, 3)[:5]
    records = {run.name: record(run, last=1.0) for run in runs}
    assert set(methods_of({"grpo": RATES[0], "pgrpo": RATES[0]}, records)) == {"grpo"}


def test_further_seeds_of_a_method_count_where_the_other_has_them_too() -> None:
    """Only on seed 3 would the difference be another one."""
    ends = {"grpo": 1.0, "pgrpo": 3.0}
    rates = dict.fromkeys(ends, RATES[1])
    runs = [*tuning_runs(list(ends)), *compared_runs(rates, 3), Run("pgrpo", RATES[1], 3)]
    records = {run.name: record(run, last=99.0 if run.seed == 3 else ends[run.method]) for run in runs}
    methods = methods_of(rates, records)
    assert {name: len(method.records) for name, method in methods.items()} == {"grpo": 3, "pgrpo": 4}
    # Means are over the seeds that all have: 3, and half of 0.50, 0.51, 0.52.
    assert methods["pgrpo"].mean("final") == pytest.approx(3.255)
    text = tables(methods, records)
    assert "| `pgrpo` − `grpo` | +0.500 [+0.489..+0.511] ahead | +2.000 [+1.989..+2.011] ahead |" in text
    # Had seed 0 chosen with luck, the others would not know: 3 - 1 again, of seeds 1 and 2 alone.
    for run in runs:
        if run.seed == 0 and run.method == "grpo":
            records[run.name] = record(run, last=7.0)
    text = tables(methods_of(rates, records), records)
    assert text.count("| +2.000 [") == 1
    # A gap ends the row: seed 4 without seed 3 is left out.
    records[Run("grpo", RATES[1], 4).name] = record(Run("grpo", RATES[1], 4), last=1.0)
    assert len(methods_of(rates, records)["grpo"].records) == 3


def test_runs_are_trained_once_and_leave_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personas_runs, "RECIPE", write_tiny(tmp_path, eval={"every": 2}))
    monkeypatch.setattr(personas_runs, "SETTINGS", ("train.steps=2", "data.seed=0"))
    told: list[str] = []
    run = Run("pgrpo, random groups", 1e-3, 3)
    path = tmp_path / "results.json"
    train_all([run], Results(path), tmp_path / "runs", 1, record_of, told.append)
    kept = json.loads(path.read_text())[run.name]
    assert [point["step"] for point in kept["curve"]] == [0, 2]
    assert len(kept["training_reward"]) == len(kept["loss"]) == 2
    assert "seed=3" in kept["overrides"] and "train.learning_rate=0.001" in kept["overrides"]
    assert (kept["method"], kept["rate"], kept["seed"]) == ("pgrpo, random groups", 1e-3, 3)
    assert told == [f"{run.name} is done; 1 of 1"]
    train_all([run], Results(path), tmp_path / "nowhere", 1, record_of, told.append)
    assert len(told) == 1 and not (tmp_path / "nowhere").exists()
    with pytest.raises(SystemExit, match="failed: grpo-2-seed0"):
        monkeypatch.setattr(personas_runs, "SETTINGS", ("train.steps=none",))
        train_all([Run("grpo", 2.0, 0)], Results(path), tmp_path / "runs", 1, record_of, told.append)
    assert "train.steps" in told[-1]


def test_tables_of_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text("<!-- personas -->\n<!-- /personas -->\n")
    arguments = ["personas.py", "--tables", "--results", str(path), "--write", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="has no method with 3 seeds"):
        personas.main()
    runs = [*tuning_runs(["grpo"]), *compared_runs({"grpo": RATES[1]}, 3)]
    path.write_text(json.dumps({run.name: record(run, last=1.0, reward=run.rate % 2.4e-3) for run in runs}))
    personas.main()
    assert "| `grpo` | 0.0012 |" in page.read_text() and "`pgrpo`" not in page.read_text()
