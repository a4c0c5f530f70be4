"""Areas under held-out curves by prompt: by hand, and as lines of a comparison."""

from __future__ import annotations

import pytest
from scipy import stats

from pgrpo_cli.stats.comparison import Method
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.learning import TrainingRecord, area_pairs, curve_notes, learning_of

BOOTSTRAP = Bootstrap(samples=2000, seed=5)


def progress(*curves: tuple[float, ...], steps: tuple[int, ...] = (0, 10, 20)) -> TrainingRecord:
    """A held-out curve of one preference group; each of `curves` is a prompt's."""
    prompts = {
        step: {"calm": {f"p{i}": curve[at] for i, curve in enumerate(curves)}}
        for at, step in enumerate(steps)
    }
    means = {step: sum(found["calm"].values()) / len(curves) for step, found in prompts.items()}
    held_out = {step: {"calm": mean} for step, mean in means.items()}
    return TrainingRecord(held_out=held_out, prompts=prompts)


def method(label: str, *runs: str) -> Method:
    return Method(label=label, runs=list(runs), seeds=list(range(len(runs))))


def test_the_value_of_a_prompt_is_the_mean_height_of_its_curve() -> None:
    # (0 + 1)/2 and (1 + 1)/2: 0.75, and with b 1.5 and 2.5: 2; the second prompt 0 and 3.
    runs = {
        "a": progress((0.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        "b": progress((1.0, 2.0, 3.0), (3.0, 3.0, 3.0)),
    }
    pair = area_pairs([method("a", "a"), method("b", "b")], runs, BOOTSTRAP)["b", "calm"]
    assert (pair.reference_mean, pair.run_mean) == (0.375, 2.5)
    assert pair.difference == (1.25 + 3.0) / 2 and pair.n == 2


def test_a_single_seed_has_an_interval_over_prompts() -> None:
    base = [(0.0, 0.1 * i, 0.2 * i) for i in range(12)]
    ahead = [(0.0, a + 0.5 + 0.02 * i, b + 0.5 - 0.01 * i) for i, (_, a, b) in enumerate(base)]
    runs = {"a": progress(*base), "b": progress(*ahead)}
    methods = [method("a", "a"), method("b", "b")]
    pairs = area_pairs(methods, runs, BOOTSTRAP)
    gains = [(y[0] + 2 * y[1] + y[2] - x[0] - 2 * x[1] - x[2]) / 4 for x, y in zip(base, ahead, strict=True)]
    limits = stats.ttest_1samp(gains, 0).confidence_interval()
    pair = pairs["b", None]
    assert pair.p_value == pytest.approx(stats.ttest_1samp(gains, 0).pvalue, rel=1e-3)
    assert (pair.ci_low, pair.ci_high) == pytest.approx((limits.low, limits.high), abs=0.02)
    lines = {
        (line.method, line.preference_group): line
        for line in learning_of(methods, runs, areas_by_prompt=pairs)
    }
    line = lines["b", None]
    assert (line.area_difference.mean, line.area_difference.ci_low) == (pair.difference, pair.ci_low)
    assert (line.area_verdict, line.area_explanation) == ("ahead", "ahead")
    assert line.area_difference.mean == pytest.approx(line.area.mean - lines["a", None].area.mean)
    assert (lines["a", None].area_verdict, lines["a", None].area_explanation) == (None, "")


def test_alike_curves_and_noisy_ones_are_not_told_apart() -> None:
    curves = [(0.0, 0.1 * i, 0.3) for i in range(6)]
    noise = [(0.0, 0.1 * i, 0.3 + (-1) ** i * 0.2) for i in range(6)]
    runs = {"a": progress(*curves), "b": progress(*curves), "c": progress(*noise)}
    pairs = area_pairs([method(name, name) for name in runs], runs, BOOTSTRAP)
    # Equal rewards of other completions may be chance.
    assert pairs["b", None].explanation == "can't tell with 6 prompts, whose rewards are all equal"
    assert pairs["c", None].verdict == "can't tell"
    assert pairs["c", None].explanation.startswith("can't tell with 6 prompts")


def test_only_steps_and_prompts_that_all_runs_have_count() -> None:
    runs = {
        "a": progress((9.0, 1.0, 1.0), (9.0, 2.0, 2.0)),
        "b": progress((1.5, 1.5), (2.5, 2.5), (70.0, 70.0), steps=(10, 20)),
    }
    pair = area_pairs([method("a", "a"), method("b", "b")], runs, BOOTSTRAP)["b", None]
    assert pair.difference == 0.5 and pair.n == 2


def test_prompts_without_a_reward_at_an_end_are_counted() -> None:
    runs = {name: progress((0.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) for name in "ab"}
    assert curve_notes(runs) == []
    del runs["a"].prompts[20]["calm"]["p1"], runs["b"].prompts[0]["calm"]["p2"]
    assert curve_notes(runs) == [
        "How fast: 2 of 3 prompts have no reward at the first or the last step of a run. Differences of mean "
        "heights leave them out; mean heights do not."
    ]
    (pair, _) = area_pairs([method(name, name) for name in "ab"], runs, BOOTSTRAP).values()
    assert pair.n == 1


def test_prompts_that_only_some_runs_have_are_not_said_to_lack_a_reward() -> None:
    runs = {
        "a": progress((0.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        "b": progress((0.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    }
    left_out = "Differences of mean heights leave them out; mean heights do not."
    assert curve_notes(runs) == [f"How fast: 1 of 3 prompts is on the curves of some runs only. {left_out}"]
    del runs["a"].prompts[20]["calm"]["p1"]
    assert curve_notes(runs) == [
        f"How fast: 1 of 3 prompts is on the curves of some runs only. {left_out}",
        "How fast: 1 of 2 prompts has no reward at the first or the last step of a run. " + left_out,
    ]


def test_curves_that_do_not_tell_prompts_apart_are_compared_over_seeds() -> None:
    whole = progress((0.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    runs = {"a": whole, "b": TrainingRecord(held_out=whole.held_out)}
    methods = [method("a", "a"), method("b", "b")]
    assert area_pairs(methods, runs, BOOTSTRAP) == {} == area_pairs(methods, {}, BOOTSTRAP)
    (line,) = (n for n in learning_of(methods, runs) if n.method == "b" and n.preference_group is None)
    assert line.area_verdict == "can't tell" and "one seed" in line.area_explanation
