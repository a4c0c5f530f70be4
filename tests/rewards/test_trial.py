import math
from pathlib import Path

import pytest

from pgrpo_cli.recipe.reward_text import LengthReward, ReadabilityReward, RecommendationReward
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.trial import try_rewards
from tests.support.rewards import Awaited, Plain, completions, summed


def test_every_reward_by_itself_and_weighted():
    sections = [
        LengthReward(max=1, slack=4, weight=2),
        RecommendationReward(preference_groups=("b",), target_column="t", weight=10),
        ReadabilityReward(max=0, weight=-1),
    ]
    rewards = build_rewards(sections, Path(), allow_code=False)
    (trial,) = try_rewards(rewards, completions("Go to bed", groups=["a"]))
    # Three words are 2 over: 1 - 2/4. Grade: 0.39 * 3 + 11.8 - 15.59 = -2.62.
    length, readability = trial.rewards
    assert (length.label, length.value, length.weight, length.weighted) == ("length", 0.5, 2, 1)
    assert length.value_range == (0, 1)
    assert [(part.name, part.value, part.weight, part.weighted) for part in readability.parts] == [
        ("value", 1, -1, -1),
        ("grade", pytest.approx(-2.62), 0, 0),
    ]
    assert trial.total == pytest.approx(2 * 0.5 - 1)


def test_parts_of_a_sum_add_up_to_the_total():
    rewards = build_rewards([RecommendationReward(weight=3)], Path(), allow_code=False)
    (completion,) = completions("Alien, then Heat")
    completion = type(completion)("p", "a", "", completion.text, {"target": "Heat"})
    (trial,) = try_rewards(rewards, [completion])
    (reward,) = trial.rewards
    # 3 * (0.7 * 1 + 0.3 / 2); nothing is known of the candidates, which count nothing.
    assert [part.weighted for part in reward.parts] == pytest.approx([2.1, 0.45, 0])
    assert math.isnan(reward.parts[-1].value)
    assert trial.total == reward.weighted == pytest.approx(2.55)


def test_parts_of_another_reward_have_no_known_weight_and_an_awaited_one_is_awaited():
    scores = [Score(2.0, {"x": 1.0})]
    rewards = summed(Plain(lambda c: scores, parts=("x", "y")), Awaited(lambda c: scores, parts=("x",)))
    (trial,) = try_rewards(rewards, completions("text"))
    assert [part.weight for reward in trial.rewards for part in reward.parts] == [None, None, None]
    assert trial.rewards[0].parts[0].weighted is None
    assert math.isnan(trial.rewards[0].parts[1].value)
    assert trial.total == 4.0


def test_no_reward_makes_no_total_unless_it_has_no_weight():
    missing = Plain(lambda c: [Score(math.nan, {"value": math.nan})])
    (trial,) = try_rewards(summed(missing), completions("text"))
    assert math.isnan(trial.total)
    assert math.isnan(trial.rewards[0].weighted)
    (trial,) = try_rewards(summed(missing, weights=[0]), completions("text"))
    assert (trial.total, trial.rewards[0].weighted) == (0, 0)
