"""Where picks place a person, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.conversation.placement import SHARPNESS, most_telling, posterior

ONE = np.array([1.0, 1.0])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_before_the_first_pick_all_are_as_likely_as_nobody() -> None:
    empty = np.zeros((0, 2))
    assert posterior(empty, empty, [], ONE).tolist() == pytest.approx([1 / 3] * 3)


def test_one_pick_by_hand() -> None:
    # Group 0 likes the first answer by one standard deviation, group 1 the second by one.
    # Likelihoods of picking the first: σ(2), σ(-2), and ½ for nobody; they add up to 1.5.
    found = posterior(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), [1.0], ONE)
    assert found.tolist() == pytest.approx([_sigmoid(SHARPNESS) / 1.5, _sigmoid(-SHARPNESS) / 1.5, 0.5 / 1.5])


def test_rewards_count_in_their_own_standard_deviations() -> None:
    small = posterior(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), [1.0], ONE)
    large = posterior(np.array([[100.0, 0.0]]), np.array([[0.0, 1.0]]), [1.0], np.array([100.0, 1.0]))
    assert large.tolist() == pytest.approx(small.tolist())


def test_a_tie_is_half_a_pick_each_way() -> None:
    # ½ log σ(2) + ½ log σ(-2) for group 0, log ½ for group 1, whose reward is the same for both.
    found = posterior(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]), [0.5], ONE)
    tied = math.sqrt(_sigmoid(2) * _sigmoid(-2))
    assert found.tolist() == pytest.approx([tied / (tied + 1), 0.5 / (tied + 1), 0.5 / (tied + 1)])


def test_a_reward_that_tells_nothing_speaks_for_nobody() -> None:
    scale = np.array([0.0, math.nan])
    found = posterior(np.array([[math.nan, 1.0]]), np.array([[0.0, 0.0]]), [1.0], scale)
    assert found.tolist() == pytest.approx([1 / 3] * 3)


def test_the_pair_that_tells_most_is_the_one_on_which_groups_differ() -> None:
    # Pair 0: both groups like the first answer. Pair 1: they differ. Pair 2: neither cares.
    first = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    second = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert most_telling(first, second, ONE, np.array([0.5, 0.5, 0.0])) == 1


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from([0.0, 0.5, 1.0])), max_size=30))
def test_probabilities_add_up_and_do_not_depend_on_which_answer_stood_first(
    picks: list[tuple[float, float, float]],
) -> None:
    first = np.array([[a, b] for a, b, _ in picks]).reshape(-1, 2)
    second = np.zeros_like(first)
    shares = [share for *_, share in picks]
    found = posterior(first, second, shares, ONE)
    assert found.sum() == pytest.approx(1)
    turned = posterior(second, first, [1 - share for share in shares], ONE)
    assert turned.tolist() == pytest.approx(found.tolist())
