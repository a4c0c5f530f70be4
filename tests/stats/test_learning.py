"""Learning curves of methods: areas, thresholds and intervals by hand."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from pgrpo_cli.report.sentences import learning_sentence
from pgrpo_cli.report.tables import learning_table
from pgrpo_cli.stats.comparison import Comparison, Learning, Method
from pgrpo_cli.stats.learning import (
    TrainingRecord,
    curve_notes,
    curve_source,
    learning_of,
    mean_height,
    method_curve,
    over_seeds,
    run_lines,
    steps_until,
)
from pgrpo_cli.stats.result_types import SeedRange


def measured(*values: float, seconds: float = 2.0, start: int = 10) -> TrainingRecord:
    """A held-out curve every ten steps of one preference group, whose mean is the macro mean."""
    steps = range(start, start + 10 * len(values), 10)
    held_out = {step: {"calm": value} for step, value in zip(steps, values, strict=True)}
    return TrainingRecord(held_out=held_out, seconds=dict.fromkeys(range(1, 100), seconds))


def method(label: str, *runs: str, seeds: tuple[int, ...] | None = None) -> Method:
    return Method(label=label, runs=list(runs), seeds=list(seeds or range(len(runs))))


def found(lines: list[Learning], label: str, group: str | None = None) -> Learning:
    return next(line for line in lines if (line.method, line.preference_group) == (label, group))


def test_the_area_is_the_mean_height_over_the_steps_in_common() -> None:
    # From 10 to 20 the mean is 0.5, from 20 to 30 it is 1: (5 + 10) / 20 = 0.75.
    line = [(10, 0.0), (20, 1.0), (30, 1.0)]
    assert mean_height(line, 10, 30) == 0.75
    # From 15 on: 0.75 over 5 steps, 1 over 10: (3.75 + 10) / 15.
    assert mean_height(line, 15, 30) == pytest.approx(13.75 / 15)
    assert mean_height(line, 20, 20) == 1.0
    assert math.isnan(mean_height(line, 5, 30)) and math.isnan(mean_height([], 1, 2))
    runs = {"a": measured(0.0, 1.0, 1.0), "b": measured(1.0, 1.0, start=20)}
    lines = learning_of([method("a", "a"), method("b", "b")], runs)
    # b is measured from 20 to 30, so a counts there alone.
    assert (found(lines, "a").area.mean, found(lines, "b").area.mean) == (1.0, 1.0)
    assert found(lines, "b").area_difference.mean == 0.0


def test_steps_and_seconds_until_the_lower_of_the_last_values() -> None:
    runs = {"slow": measured(0.1, 0.2, 0.3, seconds=3.0), "fast": measured(0.2, 0.3, 0.6)}
    lines = learning_of([method("slow", "slow"), method("fast", "fast")], runs)
    assert {line.threshold for line in lines} == {0.3}
    assert (found(lines, "slow").steps.mean, found(lines, "slow").seconds.mean) == (30, 90)
    assert (found(lines, "fast").steps.mean, found(lines, "fast").seconds.mean) == (20, 40)
    assert [(line.method, line.preference_group) for line in lines] == [
        ("slow", None), ("fast", None), ("slow", "calm"), ("fast", "calm"),
    ]  # fmt: skip
    higher = learning_of([method("slow", "slow"), method("fast", "fast")], runs, threshold=0.5)
    assert (found(higher, "slow").reached, found(higher, "fast").reached) == (0, 1)
    assert math.isnan(found(higher, "slow").steps.mean) and math.isnan(found(higher, "slow").seconds.mean)


def test_steps_of_few_seeds_have_a_range_and_no_interval() -> None:
    # b0 reaches 0.4 at step 10, b1 at step 30; the mean is 20, where an interval would begin below 0.
    runs = {"a": measured(0.4, 0.4, 0.4), "b0": measured(0.4, 0.4, 0.6), "b1": measured(0.1, 0.2, 0.6)}
    lines = learning_of([method("a", "a"), method("b", "b0", "b1")], runs)
    steps, seconds = found(lines, "b").steps, found(lines, "b").seconds
    assert (steps.mean, steps.smallest, steps.largest, steps.n) == (20, 10, 30, 2)
    assert (seconds.mean, seconds.smallest, seconds.largest) == (40, 20, 60)
    methods = [method("a", "a"), method("b", "b0", "b1")]
    made = comparison({"a": runs["a"]}).model_copy(update={"methods": methods, "learning": lines})
    table = learning_table(made, macro_only=True)
    assert table is not None
    assert [(cell.text, cell.detail) for cell in table.rows[1][5:7]] == [
        ("20", "10 to 30"),
        ("40", "20 to 60"),
    ]
    # A single seed has no range, and neither have seeds that do not all reach it.
    assert [(cell.text, cell.detail) for cell in table.rows[0][5:7]] == [("10", ""), ("20", "")]
    assert math.isnan(SeedRange.of([10, math.nan]).largest)


def test_a_threshold_that_rounding_misses_is_reached() -> None:
    assert steps_until([(1, 0.1 + 0.2 - 1e-16), (2, 0.9)], 0.3) == 1
    assert math.isnan(steps_until([(1, 0.2)], 0.3))


def test_intervals_over_seeds_are_students() -> None:
    values = [0.1, 0.4, 0.3]
    limits = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    estimate = over_seeds(values, 0.9)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((limits.low, limits.high), rel=5e-3)
    assert math.isnan(over_seeds([0.3], 0.9).ci_low) and over_seeds([0.3], 0.9).mean == 0.3


def test_areas_are_compared_by_the_test_of_welch_also_with_the_same_seeds() -> None:
    runs = {f"a{i}": measured(i / 10, i / 10) for i in range(3)}
    runs |= {f"b{i}": measured(i / 10 + 0.5, i / 10 + 0.5) for i in range(3)}
    a, b = method("a", "a0", "a1", "a2"), method("b", "b2", "b0", "b1", seeds=(2, 0, 1))
    welch = found(learning_of([a, b], runs), "b").area_difference
    limits = stats.ttest_ind([0.5, 0.6, 0.7], [0.0, 0.1, 0.2], equal_var=False).confidence_interval()
    assert (welch.ci_low, welch.ci_high) == pytest.approx((limits.low, limits.high), rel=5e-3)


@pytest.mark.parametrize("ahead", [0.0, 0.5])
def test_seeds_with_equal_curves_are_no_certainty(ahead: float) -> None:
    # Such as rewards that nobody has earned, or that two seeds have earned alike.
    runs = {"a0": measured(0.0, 0.0), "a1": measured(0.0, 0.0)}
    runs |= {"b0": measured(ahead, ahead), "b1": measured(ahead, ahead)}
    line = found(learning_of([method("a", "a0", "a1"), method("b", "b0", "b1")], runs), "b")
    assert line.area_difference.mean == ahead and math.isnan(line.area_difference.ci_low)
    assert line.area_verdict == "can't tell"
    assert line.area_explanation == "can't tell with 2 seeds, whose mean heights are equal or unknown"


def test_training_rewards_stand_in_unless_every_run_has_a_held_out_curve() -> None:
    points = [(1, "calm", 0.5, 8), (2, "calm", 0.5, 8)]
    runs = {"a": measured(0.1, 0.2), "b": TrainingRecord(points)}
    assert curve_source(runs) == "training"
    assert curve_source({"a": runs["a"]}) == "held-out"
    assert run_lines(runs)["b"][None] == [(1, 0.5), (2, 0.5)]
    # `a` recorded no training rewards, so there is no line that both have.
    assert learning_of([method("a", "a"), method("b", "b")], runs) == []
    assert learning_of([method("a", "a")], {}) == []


def test_the_macro_mean_is_over_the_groups_that_all_runs_have() -> None:
    # Everything that both share is equal; only the longer run drew c, which earns nothing.
    short = [(step, group, 0.8, 4) for step in range(1, 21) for group in "ab"]
    long = [(step, group, 0.8, 4) for step in range(1, 41) for group in "ab"]
    runs = {"short": TrainingRecord(short), "long": TrainingRecord([*long, (5, "c", 0.0, 4)])}
    lines = learning_of([method(label, label) for label in runs], runs)
    assert found(lines, "long").area.mean == pytest.approx(0.8)
    assert found(lines, "long").area_difference.mean == pytest.approx(0)
    assert curve_notes(runs) == [
        "How fast: not all runs have rewards of c on their curves, so the macro mean is over the other 2."
    ]
    assert curve_notes({"short": runs["short"]}) == []
    apart = {"a": TrainingRecord(short), "c": TrainingRecord([(1, "c", 0.5, 4)])}
    assert learning_of([method(label, label) for label in apart], apart) == []
    assert curve_notes(apart)[0].endswith("rewards of a, b, c on their curves, so the macro mean is missing.")


def test_a_held_out_step_without_a_group_has_no_macro_mean() -> None:
    # hard has no reward at step 10.
    held_out = {0: {"easy": 0.5, "hard": 0.25}, 10: {"easy": 0.6}, 20: {"easy": 0.75, "hard": 0.25}}
    lines = run_lines({"a": TrainingRecord(held_out=held_out)})["a"]
    assert lines[None] == [(0, 0.375), (20, 0.5)]
    assert lines["easy"] == [(0, 0.5), (10, 0.6), (20, 0.75)]


def test_the_band_is_the_range_of_the_seeds() -> None:
    curve = method_curve([[(1, 0.0), (2, 1.0), (3, 5.0)], [(1, 1.0), (2, 3.0)]])
    assert (curve.steps, curve.mean, curve.low, curve.high) == ((1, 2), (0.5, 2.0), (0.0, 1.0), (1.0, 3.0))


def comparison(runs: dict[str, TrainingRecord]) -> Comparison:
    methods = [method(label, label) for label in runs]
    return Comparison(
        reference=methods[0].label, confidence=0.95, by=[], methods=methods, runs=[], pairs=[],
        standardised=[], notes=[], learning=learning_of(methods, runs),
    )  # fmt: skip


def test_the_table_says_whose_rewards_they_are() -> None:
    held_out = comparison({"slow": measured(0.1, 0.2), "fast": measured(0.2, 0.6)})
    table = learning_table(held_out, macro_only=True)
    assert table is not None and table.title == "How fast: macro mean, held-out prompts during training"
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["slow", "0.150", "", "", "0.200", "20", "40", "1 of 1"],
        ["fast", "0.400", "+0.250", "can't tell", "0.200", "10", "20", "1 of 1"],
    ]
    whole = learning_table(held_out)
    assert whole is not None and [row[0].text for row in whole.rows] == ["macro mean"] * 2 + ["calm"] * 2
    points = [(1, "calm", 0.5, 8), (2, "calm", 0.5, 8)]
    training = comparison({"a": TrainingRecord(points), "b": TrainingRecord(points)})
    assert "not of held-out prompts" in learning_sentence(training)
    assert "over seeds alone, each by itself without a correction" in learning_sentence(training)
