import math
from pathlib import Path

import pytest

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.reward_text import KeywordReward, PersonasReward, RegexReward
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum, Term
from tests.support.rewards import Awaited, Plain, completions, scored, summed


def worth(value):
    """A reward with two parts that is worth `value` to everyone."""
    return Plain(
        lambda completions: [Score(value, {"first": 1.0, "second": 2.0}) for _ in completions],
        parts=("first", "second"),
    )


def test_the_total_is_the_weighted_sum_and_every_part_is_recorded():
    rewards = build_rewards(
        [
            RegexReward(pattern="jazz", weight=2.0),
            KeywordReward(keywords=("sax", "horn"), need="share", weight=-1.0, name="words"),
            PersonasReward(),
        ],
        Path(),
        allow_code=False,
    )
    assert rewards.parts == ("regex", "words", "personas.style", "personas.genre")
    score = scored(rewards, completions("jazz with sax", groups=["terse-jazz"]))[0]
    assert score.parts == {"regex": 1.0, "words": 0.5, "personas.style": 1.0, "personas.genre": 1.0}
    # 2 * 1 - 1 * 0.5 + (-1 + 3 * (0.6 + 0.4)) = 3.5
    assert score.value == pytest.approx(3.5)


def test_scores_keep_the_order_of_the_completions():
    rewards = build_rewards([RegexReward(pattern="x")], Path(), allow_code=False)
    assert [score.value for score in scored(rewards, completions("x", "-", "x", "-"))] == [1, 0, 1, 0]


def test_a_reward_for_other_preference_groups_adds_nothing_and_records_nothing():
    sections = [RegexReward(pattern=".", preference_groups=("b",)), KeywordReward(keywords=("x",), weight=10)]
    rewards = build_rewards(sections, Path(), allow_code=False)
    of_a, of_b = scored(rewards, completions("x", "x", groups=["a", "b"]))
    assert (of_a.value, of_a.parts) == (10.0, {"keyword": 1.0})
    assert (of_b.value, of_b.parts) == (11.0, {"regex": 1.0, "keyword": 1.0})


def test_no_completions_have_no_scores():
    assert scored(build_rewards([RegexReward(pattern=".")], Path(), allow_code=False), []) == []


def test_nan_makes_the_total_nan_and_leaves_its_part_out():
    missing = Plain(lambda completions: [Score(math.nan, {"value": math.nan}) for _ in completions])
    score = scored(summed(worth(5.0), missing), completions("x"))[0]
    assert math.isnan(score.value)
    assert score.parts == {"r0.first": 1.0, "r0.second": 2.0}


def test_nan_of_a_reward_with_weight_0_leaves_the_total_alone():
    score = scored(summed(worth(5.0), worth(math.nan), weights=[1.0, 0.0]), completions("x"))[0]
    assert score.value == 5.0
    assert score.parts["r1.first"] == 1.0


def test_nan_of_a_reward_that_does_not_apply_leaves_the_total_alone():
    term = Term("nan", 1.0, frozenset({"b"}), worth(math.nan))
    assert scored(RewardSum((term,)), completions("x"))[0].value == 0.0


def test_the_sum_is_in_the_order_of_the_recipe_whoever_is_awaited():
    # 0.1 + 0.2 + 0.3 is 0.6000000000000001 from the left, and 0.6 from the right.
    def constant(kind, value):
        return kind(lambda completions: [Score(value, {"value": value}) for _ in completions])

    for kinds in ((Plain, Plain, Plain), (Awaited, Plain, Awaited), (Plain, Awaited, Plain)):
        functions = [constant(kind, value) for kind, value in zip(kinds, (0.1, 0.2, 0.3), strict=True)]
        (score,) = scored(summed(*functions), completions("x"))
        assert score.value == 0.1 + 0.2 + 0.3 != 0.1 + (0.2 + 0.3)
        assert list(score.parts.items()) == [("r0", 0.1), ("r1", 0.2), ("r2", 0.3)]


def test_a_sum_whose_square_is_infinite_is_refused():
    # 1e6 · 1e148 + 2 · 1e100
    with pytest.raises(RewardError) as caught:
        scored(summed(worth(1e148), worth(1e100), weights=[1e6, 2.0]), completions("x"))
    assert "is 1e+154, which is too large (rewards: r0 1e+148, r1 1e+100)" in caught.value.message
    assert scored(summed(worth(1e148), weights=[100.0]), completions("x"))[0].value == 1e150
