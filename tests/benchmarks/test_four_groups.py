"""The study of small generation groups: its runs, its measure, its power, and its tables."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks import four_groups
from benchmarks.four_groups import (
    ESTIMATORS,
    GROUPS,
    RATES,
    RECIPE,
    SHAPES,
    TUNING_SEEDS,
    Run,
    areas,
    best_rate,
    captured,
    compared_runs,
    detectable,
    macro,
    record_of,
    tables,
    tuning_runs,
)
from benchmarks.study import Records, lines_of, train_all
from pgrpo_cli.recipe.load import load_recipe
from tests.support.training import write_tiny

BUMP = {3e-4: 0.0, 6e-4: 0.2, 1.2e-3: 0.1}


def record(*, ends: dict[str, float], start: float = 0.0) -> dict[str, Any]:
    """A run whose curve is flat from `start` for 8 steps, then rises to `ends` over 8 more; two prompts."""

    def point(step: int, values: dict[str, float]) -> dict[str, Any]:
        return {"step": step, "groups": {g: {f"{g}-0": v, f"{g}-1": v} for g, v in values.items()}}

    flat = dict.fromkeys(GROUPS, start)
    return {"curve": [point(0, flat), point(8, flat), point(16, ends)]}


def same(value: float) -> dict[str, Any]:
    return record(ends=dict.fromkeys(GROUPS, value))


def tuned(bump: dict[float, float] = BUMP) -> Records:
    runs = [Run(e, G, rate, s) for e in ESTIMATORS for G in SHAPES for rate in bump for s in TUNING_SEEDS]
    return {run.name: same(0.4 + bump[run.rate] + (run.seed == TUNING_SEEDS[1]) * 0.04) for run in runs}


def test_the_area_is_the_mean_height_of_the_curve() -> None:
    # 0 for 8 of 16 steps, then from 0 to v in 8: the mean height is v / 4.
    found = areas(record(ends={"red": 0.8, "blue": 0.4, "green": 0.0, "white": 0.0}))
    assert found["red"] == pytest.approx([0.2, 0.2]) and found["green"] == [0.0, 0.0]
    # Each preference group once: (0.2 + 0.1 + 0 + 0) / 4.
    assert macro(found) == pytest.approx(0.075)


@pytest.mark.parametrize(
    ("ends", "is_captured"),
    [((0.9, 0.1, 0.1, 0.0), True), ((0.9, 0.4, 0.0, 0.0), False), ((0.4, 0.0, 0.0, 0.0), False)],
)
def test_a_run_is_captured_if_the_majority_alone_is_served(
    ends: tuple[float, ...], is_captured: bool
) -> None:
    assert captured(record(ends=dict(zip(GROUPS, ends, strict=True)))) == is_captured


def test_every_shape_has_32_completions_and_tuning_has_prompts_of_its_own() -> None:
    assert {G * P for G, P in SHAPES.items()} == {32}
    counts = dict.fromkeys(GROUPS, 0)
    for line in lines_of(RECIPE.parent / "training.jsonl"):
        counts[line["preference_group"]] += 1
    total = sum(counts.values())
    assert {name: round(n / total, 2) for name, n in counts.items()} == GROUPS
    texts = {
        name: {row["prompt"].split(" for the ")[0] for row in lines_of(RECIPE.parent / f"{name}.jsonl")}
        for name in ("training", "held-out", "tuning")
    }
    assert not texts["training"] & (texts["held-out"] | texts["tuning"])
    assert not texts["held-out"] & texts["tuning"]


def test_overrides_are_valid_and_arms_differ_in_nothing_else() -> None:
    for G in SHAPES:
        grpo, pgrpo = (load_recipe(RECIPE, list(Run(e, G, 6e-4, 0).overrides())) for e in ESTIMATORS)
        assert grpo.resolved_loss.aggregation == pgrpo.resolved_loss.aggregation == "constant"
        assert grpo.model_copy(update={"advantage": pgrpo.advantage}) == pgrpo
    tuning = load_recipe(RECIPE, list(Run("grpo", 2, 6e-4, TUNING_SEEDS[0]).overrides()))
    assert tuning.data.source.model_dump()["eval_path"] == "tuning.jsonl"


def test_the_best_rate_is_that_of_the_largest_area_and_one_beyond_an_end_is_tried() -> None:
    assert best_rate(tuned(), "pgrpo", 2) == 6e-4
    assert {run.rate for run in tuning_runs(tuned())} == set(RATES)
    at_the_end = tuned({3e-4: 0.0, 6e-4: 0.1, 1.2e-3: 0.2})
    assert {run.rate for run in tuning_runs(at_the_end)} == {*RATES, 2.4e-3}
    assert {run.rate for run in tuning_runs(tuned({3e-4: 0.3, 6e-4: 0.1, 1.2e-3: 0.2}))} == {*RATES, 1.5e-4}
    with pytest.raises(SystemExit, match="has not been tuned"):
        compared_runs({}, 1)


def test_the_detectable_difference_by_hand() -> None:
    # Five seeds a side, 8 degrees of freedom: t(0.975) = 2.306, t(0.8) = 0.889; 3.195 * 0.1 * sqrt(2 / 5).
    assert detectable(0.1, 5) == pytest.approx(3.195 * 0.1 * math.sqrt(0.4), abs=2e-4)
    assert detectable(0.1, 20) < detectable(0.1, 10) < detectable(0.1, 5)


def test_tables_of_what_there_is() -> None:
    records = tuned()
    assert "Area, mean" not in tables(records)
    for run in compared_runs(records, 3):
        ahead = 0.4 if (run.estimator, run.num_generations) == ("pgrpo", 2) else 0.0
        ends = {g: 0.4 + ahead + 0.04 * run.seed + 0.01 * i for i, g in enumerate(GROUPS)}
        records[run.name] = record(ends=ends)
    text = tables(records)
    # Ends differ by 0.4 with 2 completions per prompt, areas by a quarter of that.
    assert "| 2 | +0.100 [" in text and "| 4 | +0.000 [" in text
    assert "0 of 3" in text


def test_a_run_leaves_a_record(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_tiny(tmp_path, eval={"every": 2}, train={"steps": 2, "prompts_per_step": 2})
    monkeypatch.setattr(four_groups, "RECIPE", recipe)
    run = Run("pgrpo", 2, 1e-3, 0)
    from benchmarks.study import Results

    names: set[str] = set()

    def record_and_see(run: Run, path: Any) -> dict[str, Any]:
        names.update(lines_of(path / "eval" / "curve.jsonl")[0]["groups"])
        monkeypatch.setattr(four_groups, "GROUPS", dict.fromkeys(names, 0.5))
        return record_of(run, path)

    results = Results(tmp_path / "runs.json")
    monkeypatch.setitem(SHAPES, 2, 2)
    train_all([run], results, tmp_path / "runs", 1, record_and_see, lambda text: None)
    kept = results.records[run.name]
    assert [point["step"] for point in kept["curve"]] == [0, 2] and len(kept["training_reward"]) == 2
    assert set(areas(kept)) == names
