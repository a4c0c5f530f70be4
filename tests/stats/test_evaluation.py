"""From rows to numbers: hand arithmetic, who counts, and what is said about it."""

from __future__ import annotations

import math
import random

import pytest

from pgrpo_cli.report.sentences import eval_sentence
from pgrpo_cli.stats.estimates import Resampler, differences_of, prompt_values, unless_equal, verdict
from pgrpo_cli.stats.evaluation import summarise
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import Estimate, Summary
from tests.support.results import result_of, rows_of

BOOTSTRAP = Bootstrap(samples=500, seed=2)
NAN = math.nan

# Prompt means, base:  calm a 0.1, b 0.3 -> 0.2;      loud x 0.5, y 0.5, z 0.8 -> 0.6
# Prompt means, tuned: calm a 0.4, b 0.4 -> 0.4;      loud x 0.5, y 0.6, z 1.0 -> 0.7
BASE = {
    "calm": {"a": [0.0, 0.2], "b": [0.3, 0.3]},
    "loud": {"x": [0.5, 0.5], "y": [0.4, 0.6], "z": [0.8, 0.8]},
}
TUNED = {
    "calm": {"a": [0.4, 0.4], "b": [0.2, 0.6]},
    "loud": {"x": [0.5, 0.5], "y": [0.6, 0.6], "z": [1.0, 1.0]},
}


def test_groups_and_means_over_them() -> None:
    summary = summarise(rows_of("base", BASE) + rows_of("tuned", TUNED), BOOTSTRAP)
    assert list(summary.groups) == ["calm", "loud"]
    calm, loud = summary.groups["calm"], summary.groups["loud"]
    assert (calm.base.mean, calm.tuned.mean, calm.difference.mean) == pytest.approx((0.2, 0.4, 0.2))
    assert (loud.base.mean, loud.tuned.mean, loud.difference.mean) == pytest.approx((0.6, 0.7, 0.1))
    assert (calm.base.n, loud.tuned.n) == (2, 3)
    macro, weighted = summary.overall.macro, summary.overall.weighted
    # Macro: (0.2 + 0.6) / 2 and (0.4 + 0.7) / 2.
    # By held-out prompts: (2 * 0.2 + 3 * 0.6) / 5 = 0.44 and (2 * 0.4 + 3 * 0.7) / 5 = 0.58.
    assert (macro.base.mean, macro.tuned.mean, macro.difference.mean) == pytest.approx((0.4, 0.55, 0.15))
    assert (weighted.base.mean, weighted.tuned.mean) == pytest.approx((0.44, 0.58))
    assert summary.weights == {"calm": 2, "loud": 3}
    assert summary.notes == []


def test_weights_of_the_population() -> None:
    rows = rows_of("base", BASE) + rows_of("tuned", TUNED)
    summary = summarise(rows, BOOTSTRAP, weights={"calm": 90, "loud": 10, "absent": 100})
    # 0.9 * 0.2 + 0.1 * 0.6 = 0.24
    assert summary.overall.weighted.base.mean == pytest.approx(0.24)
    # Shares of training are of all training prompts, also of groups without held-out ones: 10 of 200.
    assert summary.weights == {"calm": 90, "loud": 10, "absent": 100}
    assert summary.fairness.minority.preference_groups == ["loud"]
    assert summary.notes == [
        "Without held-out prompts, so not evaluated: absent (50 % of the training prompts)."
    ]


def test_a_group_outside_the_population_has_no_weight() -> None:
    rows = rows_of("base", BASE) + rows_of("tuned", TUNED)
    summary = summarise(rows, BOOTSTRAP, weights={"loud": 3})
    assert summary.overall.weighted.base.mean == pytest.approx(0.6)
    assert summary.weights == {"calm": 0, "loud": 3}


def test_only_prompts_with_a_reward_from_both_count() -> None:
    # Prompt y of the tuned model has no reward at all; x keeps the one that it has.
    tuned = {**TUNED, "loud": {"x": [0.9, NAN], "y": [NAN, NAN], "z": [1.0, 1.0]}}
    summary = summarise(rows_of("base", BASE) + rows_of("tuned", tuned), BOOTSTRAP)
    loud = summary.groups["loud"]
    # base (0.5 + 0.8) / 2, tuned (0.9 + 1.0) / 2
    assert (loud.base.mean, loud.tuned.mean, loud.difference.mean) == pytest.approx((0.65, 0.95, 0.3))
    assert (loud.base.n, loud.tuned.n, loud.difference.n) == (2, 2, 2)
    assert summary.notes == ["3 of 20 completions have no reward (NaN) and are left out."]


def test_a_group_without_rewards_is_named_and_left_out_of_the_means() -> None:
    nothing = {"calm": {"a": [NAN], "b": [NAN]}}
    summary = summarise(rows_of("base", BASE) + rows_of("tuned", {**TUNED, **nothing}), BOOTSTRAP)
    assert math.isnan(summary.groups["calm"].tuned.mean)
    assert summary.overall.macro.tuned.mean == pytest.approx(0.7)
    assert "calm: no prompt has a reward from both" in summary.notes[0]


def test_a_group_with_one_prompt_is_named_and_has_no_interval() -> None:
    lonely = {"calm": {"a": [0.5]}}
    summary = summarise(
        rows_of("base", {**BASE, **lonely}) + rows_of("tuned", {**TUNED, **lonely}), BOOTSTRAP
    )
    for estimate in (summary.groups["calm"].tuned, summary.overall.macro.tuned):
        assert not math.isnan(estimate.mean) and math.isnan(estimate.ci_low)
    assert not math.isnan(summary.groups["loud"].tuned.ci_low)
    assert summary.notes[0].startswith("calm: a single held-out prompt gives no interval")


def test_the_order_of_rows_does_not_matter() -> None:
    rows = rows_of("base", BASE) + rows_of("tuned", TUNED)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert summarise(shuffled, BOOTSTRAP) == summarise(rows, BOOTSTRAP)


def test_preference_groups_do_not_disturb_each_other() -> None:
    alone = summarise(
        rows_of("base", {"loud": BASE["loud"]}) + rows_of("tuned", {"loud": TUNED["loud"]}), BOOTSTRAP
    )
    both = summarise(rows_of("base", BASE) + rows_of("tuned", TUNED), BOOTSTRAP)
    assert alone.groups["loud"] == both.groups["loud"]


def test_a_model_is_no_different_from_itself() -> None:
    values = prompt_values(rows_of("tuned", TUNED), "tuned")
    difference = Resampler(BOOTSTRAP).mean(differences_of(values, values), dict.fromkeys(values, 1.0))
    same = unless_equal(difference, equal=True)
    assert (same.mean, same.ci_low, same.ci_high) == (0, 0, 0)
    assert verdict(same) == "no difference"
    # Equal rewards of other completions may be chance.
    assert verdict(unless_equal(difference, equal=False)) == "can't tell"


def prompts_of(base: list[float], tuned: list[float]) -> Summary:
    """One prompt for each reward."""
    both = [{"g": {f"p{i}": [reward] for i, reward in enumerate(found)}} for found in (base, tuned)]
    return summarise(rows_of("base", both[0]) + rows_of("tuned", both[1]), BOOTSTRAP)


def test_no_spread_is_no_certainty() -> None:
    # Two prompts that gain alike: 2^-1; it takes six, 2^-5 = 0.03.
    assert verdict(prompts_of([0.5] * 2, [1.0] * 2).groups["g"].difference) == "can't tell"
    assert verdict(prompts_of([0.5] * 5, [1.0] * 5).overall.macro.difference) == "can't tell"
    assert verdict(prompts_of([0.5] * 6, [1.0] * 6).groups["g"].difference) == "ahead"


def test_a_note_names_groups_whose_few_prompts_gain_alike() -> None:
    gains = {"few": [0.5] * 2, "enough": [0.5] * 6, "varying": [0.1, 0.2]}
    made = [
        {g: {f"{g}{i}": [gain * on] for i, gain in enumerate(own)} for g, own in gains.items()}
        for on in (0, 1)
    ]
    summary = summarise(rows_of("base", made[0]) + rows_of("tuned", made[1]), BOOTSTRAP)
    assert math.isnan(summary.overall.macro.difference.ci_low)
    assert summary.notes[0] == (
        "Held-out prompts of few all gain alike, and are so few that this may be chance: means over "
        "preference groups may have no interval. Hold out more prompts."
    )


def test_no_success_of_either_model_is_no_proof_of_no_difference() -> None:
    summary = prompts_of([0.0] * 12, [0.0] * 12)
    for difference in (summary.groups["g"].difference, summary.overall.macro.difference):
        assert (difference.mean, verdict(difference)) == (0, "can't tell")


def gains_of(summary: Summary) -> list[Estimate]:
    """All differences between both models in an evaluation of two preference groups, h a minority."""
    details = [*summary.details.values(), summary.macro_detail]
    worst, minority = summary.fairness.worst, summary.fairness.minority
    assert worst is not None and minority.preference_groups == ["h"]
    return [
        *(contrast.difference for contrast in (*summary.groups.values(), summary.overall.weighted)),
        *(detail.parts["style"].difference for detail in details),
        *(detail.effect for detail in details),
        *(worst.gain, minority.minority, minority.majority, minority.gap),
    ]


def test_equal_completions_are_no_difference_and_equal_rewards_of_others_may_be_chance() -> None:
    rewards = {g: {f"{g}{i}": [0.0] for i in range(8)} for g in "gh"}
    weights = {"g": 95, "h": 5}
    same = [row for which in ("base", "tuned") for row in rows_of(which, rewards, "answer to {prompt}")]
    assert {verdict(gain) for gain in gains_of(summarise(same, BOOTSTRAP, weights))} == {"no difference"}
    others = rows_of("base", rewards) + rows_of("tuned", rewards)
    assert {verdict(gain) for gain in gains_of(summarise(others, BOOTSTRAP, weights))} == {"can't tell"}
    result = result_of(rewards, rewards)
    assert result.matrix is not None
    assert verdict(result.matrix.margin.difference) == "can't tell"
    assert "no difference" not in eval_sentence(result)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.3, "ahead"),
        (-0.3, -0.01, "behind"),
        (-0.1, 0.3, "can't tell"),
        (0.0, 0.3, "can't tell"),
        (NAN, NAN, "can't tell"),
        (0.0, 0.0, "no difference"),
        (5e-17, 6e-17, "no difference"),
        (-6e-17, -5e-17, "no difference"),
    ],
)
def test_verdicts(low: float, high: float, expected: str) -> None:
    assert verdict(Estimate(mean=(low + high) / 2, ci_low=low, ci_high=high, n=5)) == expected
