"""Parts, win rates, who improves and effect sizes, by hand; what intervals of shares cover, by simulation."""

from __future__ import annotations

import math

import pytest
import torch

from pgrpo_cli.report.more_tables import overview_table
from pgrpo_cli.report.sentences import eval_sentence
from pgrpo_cli.stats.estimates import Resampler, win_verdict
from pgrpo_cli.stats.evaluation import base_spreads, standardised, summarise, win_values
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import EvalRow
from pgrpo_cli.verbs.compare import Entrant, compare_evaluations
from tests.support.results import result_of, rows_of

BOOTSTRAP = Bootstrap(samples=500, seed=2)
NAN = math.nan
BASE = {"calm": {"a": [0.0, 0.2], "b": [0.3, 0.3]}, "loud": {"x": [0.5, 0.5], "y": [0.4, 0.6]}}
TUNED = {"calm": {"a": [0.4, 0.1], "b": [0.3, 0.1]}, "loud": {"x": [0.5, 0.5], "y": [0.7, 0.7]}}


def rows(base: object = BASE, tuned: object = TUNED) -> list[EvalRow]:
    return rows_of("base", base) + rows_of("tuned", tuned)  # type: ignore[arg-type]


def test_wins_are_counted_over_all_pairs_of_completions_of_a_prompt() -> None:
    values = win_values(rows())
    # a: 0.4 beats both, 0.1 beats 0.0 and loses to 0.2: 3 of 4. b: 0.3 ties twice, 0.1 loses twice: 1 of 4.
    assert values["calm"] == {"a": 0.75, "b": 0.25}
    # x: four ties; y: four wins.
    assert values["loud"] == {"x": 0.5, "y": 1.0}


def test_completions_without_a_reward_win_and_lose_nothing() -> None:
    values = win_values(rows({"g": {"a": [0.1, NAN], "b": [0.1]}}, {"g": {"a": [NAN, 0.3], "b": [NAN]}}))
    assert values == {"g": {"a": 1.0}}


def test_details_of_a_group_and_over_groups() -> None:
    summary = summarise(rows(), BOOTSTRAP)
    calm, loud = summary.details["calm"], summary.details["loud"]
    assert (calm.win_rate.mean, loud.win_rate.mean) == (0.5, 0.75)
    # Means: a 0.1 -> 0.25, b 0.3 -> 0.2; x 0.5 -> 0.5, y 0.5 -> 0.7.
    assert (calm.improved.mean, loud.improved.mean) == (0.5, 0.5)
    assert (calm.units, loud.units, summary.macro_detail.units) == (2, 2, 4)
    assert summary.macro_detail.win_rate.mean == pytest.approx(0.625)
    # calm gains 0.025 with base rewards 0, 0.2, 0.3, 0.3, variance 0.02; loud gains 0.1, variance 0.02 / 3.
    effects = 0.025 / math.sqrt(0.02), 0.1 / math.sqrt(0.02 / 3)
    assert (calm.effect.mean, loud.effect.mean) == pytest.approx(effects)
    assert summary.macro_detail.effect.mean == pytest.approx(sum(effects) / 2)
    gain = summary.groups["calm"].difference
    assert calm.effect.ci_low == pytest.approx(gain.ci_low / math.sqrt(0.02))
    # The rows' only part equals their reward.
    assert calm.parts["style"] == summary.groups["calm"]
    assert summary.macro_detail.parts["style"].difference.mean == pytest.approx(0.0625)
    assert 0 <= calm.win_rate.ci_low <= 0.5 <= calm.win_rate.ci_high <= 1


def test_a_part_that_one_group_lacks_counts_where_it_is() -> None:
    made = [row.model_copy(update={"parts": {}}) if row.preference_group == "calm" else row for row in rows()]
    summary = summarise(made, BOOTSTRAP)
    assert summary.details["calm"].parts == {}
    assert summary.macro_detail.parts["style"].difference.mean == pytest.approx(0.1)


def test_gains_count_in_the_spread_of_the_base_model_by_hand() -> None:
    # The variance of {0, 1} is 0.5; what the tuned model's rewards scatter by does not matter.
    found = rows({"g": {"a": [0.0, 1.0]}, "flat": {"b": [2.0, 2.0]}, "one": {"c": [1.0, NAN]}}, {})
    assert base_spreads(found) == pytest.approx({"g": math.sqrt(0.5), "flat": 0.0, "one": 0.0})
    gains = {"g": {"a": 1.5}, "flat": {"b": 1.0}, "one": {"c": 0.0}}
    # A group without a spread counts 0 where nothing has changed. Where it has changed, the others alone say
    # nothing about all.
    unchanged = {**gains, "flat": {"b": 0.0}}
    assert standardised(unchanged, base_spreads(found)) == {
        "g": {"a": 1.5 / math.sqrt(0.5)},
        "flat": {"b": 0.0},
        "one": {"c": 0.0},
    }
    assert standardised(gains, base_spreads(found)) == {}


def test_a_group_that_collapses_from_equal_rewards_is_not_hidden() -> None:
    base = {"g": {"a": [0.0, 1.0], "b": [1.0, 0.0]}, "flat": {"c": [1.0, 1.0], "d": [1.0, 1.0]}}
    tuned = {"g": {"a": [1.0, 1.0], "b": [1.0, 0.0]}, "flat": {"c": [0.0, 0.0], "d": [0.0, 0.0]}}
    result = result_of(base, tuned)
    assert math.isnan(result.macro_detail.effect.mean) and math.isnan(result.fairness.jain)
    assert any(note.startswith("Rewards of flat are all equal before training") for note in result.notes)
    assert "In standard deviations" not in eval_sentence(result)
    cells = [[cell.text for cell in row] for row in overview_table(result).rows]
    assert ["Jain's index", "n/a", "unknown: base rewards of flat have no spread"] in cells


def test_a_group_that_stays_without_a_spread_counts_0_in_both() -> None:
    base = {"g": {"a": [0.0, 1.0], "b": [1.0, 0.0]}, "flat": {"c": [1.0, 1.0], "d": [1.0, 1.0]}}
    tuned = {**base, "g": {"a": [1.0, 1.0], "b": [1.0, 0.0]}}
    results = [result_of(base, base), result_of(base, tuned, run="other")]
    (pair,) = compare_evaluations([Entrant(result.run, result) for result in results]).standardised
    # Half a reward in one of two prompts is a gain of 0.25; the deviation of {0, 1, 1, 0} is √(1/3).
    assert pair.difference == pytest.approx(0.25 * math.sqrt(3) / 2)
    assert results[1].macro_detail.effect.mean == pytest.approx(pair.difference)


def test_rounding_is_no_spread_to_count_gains_in() -> None:
    base = {"flat": {"a": [0.1 + 0.2, 0.3], "b": [0.3, 0.1 + 0.2]}, "g": {"c": [0.0, 1.0], "d": [1.0, 0.0]}}
    assert base_spreads(rows(base, {}))["flat"] == 0
    better = {**base, "flat": {"a": [0.5, 0.4], "b": [0.3, 0.4]}}
    results = [result_of(base, base), result_of(base, better, run="other")]
    comparison = compare_evaluations([Entrant(result.run, result) for result in results])
    # In units of a rounding error the change would be huge, and without the group it would be hidden.
    assert comparison.standardised == []
    assert "other: rewards of flat are all equal before training" in " ".join(comparison.notes)


def test_users_are_the_unit_where_one_has_several_prompts() -> None:
    base = {"g": {p: [0.0] for p in "abcd"}}
    tuned = {"g": {"a": [0.0], "b": [0.0], "c": [1.0], "d": [1.0]}}
    by_prompt = summarise(rows(base, tuned), BOOTSTRAP)
    by_user = summarise(rows(base, tuned), BOOTSTRAP, users={"a": "u", "b": "u", "c": "v", "d": "v"})
    assert (by_prompt.unit, by_user.unit) == ("prompt", "user")
    assert by_user.details["g"].units == 2 and by_user.groups["g"].difference.n == 4
    assert by_user.groups["g"].difference.mean == by_prompt.groups["g"].difference.mean
    assert by_user.groups["g"].difference.ci_low < by_prompt.groups["g"].difference.ci_low
    one = summarise(rows(base, tuned), BOOTSTRAP, users=dict.fromkeys("abcd", "u"))
    assert math.isnan(one.groups["g"].difference.ci_low)
    assert one.notes[0].startswith("g: all 4 held-out prompts are from one user")
    # A user a prompt is nothing else than a prompt.
    alone = summarise(rows(base, tuned), BOOTSTRAP, users={p: f"user of {p}" for p in "abcd"})
    assert alone == by_prompt


def test_a_share_of_which_all_are_alike_is_not_certain() -> None:
    resampler = Resampler(BOOTSTRAP)
    eight = resampler.share({"g": {f"p{i}": 1.0 for i in range(8)}}, {"g": 1})
    # Clopper and Pearson, 8 of 8: 0.025^(1/8).
    assert (eight.mean, eight.ci_high) == (1.0, 1.0) and eight.ci_low == pytest.approx(0.630583, abs=1e-6)
    # Two groups of 8 and 2, each counted once: worth 1 / (1/4/8 + 1/4/2) = 6.4 units.
    both = {"g": {f"p{i}": 1.0 for i in range(8)}, "h": {"q": 1.0, "r": 1.0}}
    assert resampler.share(both, {"g": 1, "h": 1}).ci_low == pytest.approx(0.025 ** (1 / 6.4), abs=1e-9)
    # Two groups that agree in different directions.
    apart = {"g": {f"p{i}": 1.0 for i in range(3)}, "h": {f"q{i}": 0.0 for i in range(3)}}
    found = resampler.share(apart, {"g": 1, "h": 1})
    assert found.ci_low < 0.3 and found.ci_high > 0.7


@pytest.mark.parametrize(("prompts", "says"), [(4, "can't tell"), (5, "can't tell"), (6, "ahead")])
def test_a_judge_that_prefers_one_model_in_each_of_few_prompts(prompts: int, says: str) -> None:
    values = {"g": {f"p{i}": 1.0 for i in range(prompts)}}
    assert win_verdict(Resampler(BOOTSTRAP).share(values, {"g": 1})) == says


@pytest.mark.parametrize(("truth", "prompts"), [(0.5, 10), (0.8, 12), (0.95, 20)])
def test_coverage_of_a_share(truth: float, prompts: int) -> None:
    generator = torch.Generator().manual_seed(3)
    resampler = Resampler(Bootstrap(samples=200, seed=1))
    hits, trials = 0, 300
    for _ in range(trials):
        drawn = (torch.rand(prompts, generator=generator) < truth).double().tolist()
        found = resampler.share({"g": dict(zip(map(str, range(prompts)), drawn, strict=True))}, {"g": 1})
        hits += found.ci_low <= truth <= found.ci_high
    # A share of few prompts takes few values, so no interval covers exactly 95 %.
    assert hits / trials >= 0.91
