from pathlib import Path
from typing import get_args

import pytest

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.reward_text import PersonasReward, RegexReward
from pgrpo_cli.recipe.rewards import Reward
from pgrpo_cli.rewards.base import RewardFunction
from pgrpo_cli.rewards.build import BUILDERS, build_rewards


def test_every_reward_type_of_the_schema_has_a_factory():
    assert set(get_args(get_args(Reward)[0])) == set(BUILDERS)


def test_two_rewards_of_one_name_are_refused():
    sections = [RegexReward(pattern="a"), RegexReward(pattern="b")]
    with pytest.raises(RecipeError, match=r"rewards\[0\] and rewards\[1\].*'regex'"):
        build_rewards(sections, Path(), allow_code=False)


def test_every_factory_makes_a_reward(tmp_path):
    rewards = build_rewards([PersonasReward(), RegexReward(pattern="a")], tmp_path, allow_code=False)
    assert all(isinstance(term.function, RewardFunction) for term in rewards.terms)
