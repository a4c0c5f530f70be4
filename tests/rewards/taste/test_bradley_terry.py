"""The model of picks, on features of which the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

from pgrpo_cli.rewards.taste import bradley_terry
from pgrpo_cli.rewards.taste.bradley_terry import (
    OTHERS,
    PRIOR_SCALE,
    Comparisons,
    fit,
    predictability,
)


def comparisons(users: list[str], first: list[list[float]], second: list[list[float]], shares: list[float]):
    return Comparisons(tuple(users), np.array(first), np.array(second), np.array(shares))


# One feature, ±1 in every answer: mean 0, deviation 1, so a difference of 2 in favour of the first one.
def won(shares: list[float], users: list[str] | None = None) -> Comparisons:
    count = len(shares)
    return comparisons(users or ["ana"] * count, [[1.0]] * count, [[-1.0]] * count, shares)


def test_the_weight_of_one_feature_solves_its_equation() -> None:
    # 9 of 12 won. The mode in b = w + v, which has a Laplace prior of scale s: the derivative of
    # 9 ln sigma(2b) + 3 ln sigma(-2b) - |b|/s is 2 (9 - 12 sigma(2b)) - 1/s = 0: at 0 it is 6 - 5.
    expected = brentq(lambda b: 2 * (9 - 12 / (1 + math.exp(-2 * b))) - 1 / PRIOR_SCALE, 0, 3)
    assert fit(won([1] * 9 + [0] * 3)).weights["ana"][0] == pytest.approx(expected, rel=1e-3)
    # 8 of 12: the derivative at 0 is 4 - 5, so the mode is 0.
    assert fit(won([1] * 8 + [0] * 4)).weights["ana"][0] == 0


def test_a_tie_is_half_a_win_each_way() -> None:
    assert fit(won([0.5] * 20)).weights["ana"][0] == pytest.approx(0, abs=1e-9)
    weight = fit(won([1] * 10 + [0.5] * 10)).weights["ana"]
    assert weight[0] > 0.1
    assert fit(won([0.5] * 10 + [1] * 10)).weights["ana"] == pytest.approx(weight)
    # Two ties say as much as a win and a loss.
    assert fit(won([1] * 15 + [0] * 5)).weights["ana"] == pytest.approx(weight, rel=1e-4)


def test_the_order_in_which_answers_are_shown_does_not_matter() -> None:
    shown = comparisons(["a"] * 30, [[1.0], [-1.0], [1.0]] * 10, [[-1.0], [1.0], [-1.0]] * 10, [1, 0, 0] * 10)
    weight = fit(won([1, 1, 0] * 10, ["a"] * 30)).weights["a"]
    assert weight[0] > 0.1
    assert fit(shown).weights["a"] == pytest.approx(weight, rel=1e-4)


def test_users_share_what_they_have_in_common_and_differ_in_the_rest() -> None:
    # Ana and ben win alike, cleo the other way round; dora has one pick only, and it is a tie.
    found = fit(won([1] * 6 + [1] * 6 + [0] * 6 + [0.5], ["ana"] * 6 + ["ben"] * 6 + ["cleo"] * 6 + ["dora"]))
    weights = {user: float(of_user[0]) for user, of_user in found.weights.items()}
    assert weights["ana"] == pytest.approx(weights["ben"], rel=1e-5)
    assert weights["ana"] > weights["dora"] > 0 > weights["cleo"]


def test_others_tell_what_is_shared_and_have_no_taste_of_their_own() -> None:
    found = fit(won([0.5] + [1] * 8, ["ana"] + [OTHERS] * 8))
    assert found.weights.keys() == {"ana"}
    assert found.weights["ana"][0] > 0.3
    assert predictability(won([1] * 8, ["ana"] + [OTHERS] * 7)).keys() == {"ana"}


def test_contributions_are_in_deviations_and_what_is_outside_of_the_picks_costs() -> None:
    found = fit(won([1, 1, 0] * 10))
    at = {x: found.contributions("ana", np.array([[x]]))[0] for x in (-1.0, 1.0, 3.0, -3.0)}
    # The utility of the answers at ±1 is ±w, whose deviation is w.
    assert (at[-1.0], at[1.0]) == (pytest.approx([-1]), pytest.approx([1]))
    # Two deviations outside cost two, on the liked side and on the other one.
    assert (at[3.0], at[-3.0]) == (pytest.approx([1 - 2]), pytest.approx([-1 - 2]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_on_the_side_that_is_liked_it_costs_beyond_what_was_picked(sign: float) -> None:
    # Answers at 0 to 3: 2 wins over 1 twice and over 0, 1 wins over 0, and 3 loses once to 2, ten times each:
    # more is liked, though never 3. In deviations from the mean, 3 is (3 - 2) / scale outside, and 0 is not.
    first = [[sign * x] for x in (2, 2, 2, 1, 2)]
    second = [[sign * x] for x in (1, 1, 0, 0, 3)]
    found = fit(comparisons(["a"] * 50, first * 10, second * 10, [1] * 50))
    scale = np.std([*first, *second])
    at = [found.contributions("a", np.array([[sign * x]]))[0, 0] for x in range(4)]
    assert at[0] < at[1] < at[2]
    assert at[3] == pytest.approx(at[2] - 1 / scale)
    ends = [(sign * x - np.mean([*first, *second])) / scale for x in (0, 2)]
    assert np.ravel(found.ranges["a"]) == pytest.approx(sorted(ends))
    # A step along the scale is worth 1 / scale deviations of a utility that has one feature.
    assert at[1] - at[0] == pytest.approx(1 / scale)


@pytest.mark.parametrize(("often", "end"), [(1, 2.0), (2, 5.0)])
def test_one_pick_alone_does_not_move_the_end_of_what_is_liked(often: int, end: float) -> None:
    # 2 is picked over 1 ten times, and 5 once or twice.
    first, second = [[2.0]] * 10 + [[5.0]] * often, [[1.0]] * (10 + often)
    found = fit(comparisons(["a"] * (10 + often), first, second, [1] * (10 + often)))
    answers = [*first, *second]
    assert found.ranges["a"][1] == pytest.approx((end - np.mean(answers)) / np.std(answers))


def test_a_feature_that_never_differs_counts_nothing() -> None:
    found = fit(comparisons(["a"] * 2, [[1.0, 7.0]] * 2, [[-1.0, 7.0]] * 2, [1, 1]))
    assert found.contributions("a", np.array([[0.0, 99.0]])) == pytest.approx(np.zeros((1, 2)))


def test_answers_that_are_all_alike_are_worth_the_same() -> None:
    found = fit(comparisons(["a"], [[1.0]], [[1.0]], [1]))
    assert found.contributions("a", np.array([[5.0]])) == pytest.approx(np.zeros((1, 1)))


def test_what_a_feature_decides_is_predicted_and_a_coin_is_not() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40, 3))
    clear = comparisons(
        ["ana"] * 40, first.tolist(), second.tolist(), (first[:, 0] > second[:, 0]).astype(float)
    )
    found = predictability(clear)["ana"]
    assert (found.picks, found.judged) == (40, 40)
    assert found.accuracy >= 0.85
    assert found.better_than_chance
    coin = comparisons(["ben"] * 40, first.tolist(), second.tolist(), np.arange(40) % 2)
    assert not predictability(coin)["ben"].better_than_chance


@pytest.mark.parametrize(("count", "enough"), [(9, False), (10, True)])
def test_ten_picks_are_the_least(count: int, enough: bool) -> None:
    found = predictability(won([1] * count))["ana"]
    assert (found.right, found.better_than_chance) == (count, enough)


def test_the_same_pair_again_is_no_new_evidence() -> None:
    # Ten pairs, each picked four times alike, and each with a feature that no other pair has.
    pairs = [n // 4 for n in range(40)]
    first = np.eye(10)[pairs]
    shares = np.array([1, 1, 1, 1, 0, 0, 0, 0] * 5, dtype=float)
    told = Comparisons(("a",) * 40, first, np.zeros((40, 10)), shares, tuple(pairs))
    assert predictability(told)["a"].accuracy == 0.5
    untold = Comparisons(("a",) * 40, first, np.zeros((40, 10)), shares)
    assert predictability(untold)["a"].accuracy == 1


def test_four_pairs_are_too_few_however_often_they_are_picked_alike() -> None:
    # Of four pairs, a coin picks the same side each time once in eight times, more often than once in twenty.
    few = replace(won([1] * 40), pairs_N=tuple(n % 4 for n in range(40)))
    found = predictability(few)["ana"]
    assert (found.right, found.by_luck, found.better_than_chance) == (40, 40, False)
    assert predictability(replace(few, pairs_N=tuple(n % 20 for n in range(40))))["ana"].better_than_chance


def test_a_coin_is_taken_for_a_taste_once_in_twenty_times(monkeypatch: pytest.MonkeyPatch) -> None:
    # With 19 flips a coin's picks are the best of 20 equal draws once in 20 times; ties only make it rarer.
    # P(Binomial(30, 1/20) > 5) = 0.003. Ten pairs, four times each: to a binomial interval most had a taste.
    monkeypatch.setattr(bradley_terry, "FLIPS", 19)
    rng = np.random.default_rng(0)
    pairs = [n // 4 for n in range(40)]
    accepted = 0
    for _ in range(30):
        first, second = rng.normal(size=(2, 10, 10))[:, pairs]
        shares = rng.integers(0, 2, 10).astype(float)[pairs]
        coin = Comparisons(("a",) * 40, first, second, shares, tuple(pairs))
        accepted += predictability(coin)["a"].better_than_chance
    assert accepted <= 5


def test_of_many_picks_the_latest_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bradley_terry, "MOST_JUDGED", 12)
    found = predictability(won([0] * 30 + [1] * 12 + [0] * 30, ["ana"] * 42 + ["ben"] * 30))
    assert [(user.picks, user.judged) for user in found.values()] == [(12, 12), (12, 12)]


def test_a_pick_is_predicted_by_others_only() -> None:
    # A feature of its own for each pick tells its outcome to a model that has seen it, and to no other.
    first = np.eye(8)
    shares = np.array([1, 0] * 4, dtype=float)
    found = predictability(comparisons(["a"] * 8, first.tolist(), np.zeros((8, 8)).tolist(), shares))["a"]
    assert found.accuracy == 0.5


def test_ties_and_single_picks_are_no_evidence() -> None:
    found = predictability(won([0.5, 0.5, 1], ["ana", "ana", "ben"]))
    assert (found["ana"].picks, found["ana"].judged) == (2, 0)
    assert not found["ana"].better_than_chance
    assert not found["ben"].better_than_chance
