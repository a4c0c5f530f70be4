"""Wins, ties and losses by a judge, counted by hand; and what is said about them."""

from __future__ import annotations

import math

import pytest

from pgrpo_cli.report.more_tables import judged_table
from pgrpo_cli.report.sentences import judged_sentence
from pgrpo_cli.stats.completions import judged_of, outcome
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import Judged, JudgedPair

NAN = math.nan
WIN, LOSS, FIRST, SECOND, TIE = (1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


def pair(group: str, prompt: str, shown: tuple[float, float], index: int = 0) -> JudgedPair:
    return JudgedPair(
        prompt_id=prompt,
        preference_group=group,
        completion_index=index,
        shown_first=shown[0],
        shown_second=shown[1],
    )


def judged(*pairs: JudgedPair, users: dict[str, str] | None = None) -> Judged:
    return judged_of(pairs, {"model": "small"}, Resampler(Bootstrap(samples=500, seed=3), users or {}))


@pytest.mark.parametrize(
    ("shown", "worth"),
    [
        (WIN, 1.0), (LOSS, 0.0), (FIRST, 0.5), (SECOND, 0.5), (TIE, 0.5), ((1.0, 0.5), 0.5),
        ((0.5, 0.0), 0.5), ((NAN, 1.0), NAN), ((0.0, NAN), NAN), ((NAN, NAN), NAN),
    ],
)  # fmt: skip
def test_only_a_preference_in_both_orders_counts(shown: tuple[float, float], worth: float) -> None:
    assert outcome(pair("calm", "a", shown)) == pytest.approx(worth, nan_ok=True)


def test_shares_are_means_over_prompts_and_groups_count_once() -> None:
    found = judged(
        # calm: prompt a wins once and loses once, prompt b ties by contradiction, c was not compared.
        pair("calm", "a", WIN), pair("calm", "a", LOSS, 1), pair("calm", "b", FIRST),
        pair("calm", "c", (NAN, 1.0)),
        pair("loud", "x", WIN), pair("loud", "y", WIN), pair("loud", "z", TIE), pair("loud", "w", WIN),
    )  # fmt: skip
    calm, loud, macro = found.groups["calm"], found.groups["loud"], found.macro
    # calm: wins (1/2 + 0)/2, ties (0 + 1)/2, losses (1/2 + 0)/2, win rate (1/2 + 1/2)/2.
    assert [calm.win.mean, calm.tie.mean, calm.loss.mean, calm.win_rate.mean] == [0.25, 0.5, 0.25, 0.5]
    assert (calm.win_rate.n, calm.pairs, calm.contradictions, calm.failed) == (2, 4, 1, 1)
    assert [loud.win.mean, loud.tie.mean, loud.loss.mean, loud.win_rate.mean] == [0.75, 0.25, 0.0, 0.875]
    # Macro: (0.25 + 0.75)/2, (0.5 + 0.875)/2.
    assert [macro.win.mean, macro.win_rate.mean] == [0.5, 0.6875]
    assert (macro.pairs, macro.contradictions, macro.failed) == (8, 1, 1)
    assert 0 <= macro.win_rate.ci_low < 0.6875 < macro.win_rate.ci_high <= 1


def test_a_share_of_which_all_agree_has_an_interval() -> None:
    found = judged(*(pair("calm", str(i), WIN) for i in range(10)))
    assert found.macro.win_rate.mean == 1.0
    # Clopper and Pearson at 10 of 10: 0.025^(1/10) = 0.6915.
    assert found.macro.win_rate.ci_low == pytest.approx(0.6915, abs=1e-4)
    assert judged_sentence(found) == (
        "The judge small prefers the tuned model: win rate over 1 preference group 100 % [69..100]."
    )


def test_a_judge_that_only_looks_at_the_order_says_nothing() -> None:
    found = judged(*(pair("calm", str(i), FIRST) for i in range(50)))
    assert [found.macro.win.mean, found.macro.tie.mean, found.macro.loss.mean] == [0.0, 1.0, 0.0]
    assert found.macro.win_rate.mean == 0.5 and found.macro.contradictions == 50
    told = judged_sentence(found)
    assert "does not tell the models apart" in told
    assert "In 50 of 50 pairs the order decided, which makes them ties." in told


def test_prompts_of_one_user_are_resampled_together() -> None:
    pairs = [pair("calm", str(i), WIN if i < 10 else LOSS) for i in range(20)]
    users = {str(i): f"user {i // 5}" for i in range(20)}
    alone, together = judged(*pairs).macro.win_rate, judged(*pairs, users=users).macro.win_rate
    assert together.ci_high - together.ci_low > 1.5 * (alone.ci_high - alone.ci_low)


def test_a_group_that_was_not_compared_is_left_out_and_counted() -> None:
    found = judged(pair("calm", "a", WIN), pair("calm", "b", LOSS), pair("loud", "x", (NAN, NAN)))
    assert math.isnan(found.groups["loud"].win_rate.mean) and found.groups["loud"].failed == 1
    assert found.macro.win_rate.mean == 0.5 and found.macro.failed == 1
    assert "In 1 of 3 pairs it did not say, which leaves them out." in judged_sentence(found)
    table = judged_table(found)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["calm", "50 %", "0 %", "50 %", "50 %", "can't tell", "2", "0", "0"],
        ["loud", "n/a", "n/a", "n/a", "n/a", "can't tell", "1", "0", "1"],
        ["macro mean", "50 %", "0 %", "50 %", "50 %", "can't tell", "3", "0", "1"],
    ]
