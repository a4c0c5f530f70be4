import asyncio

import pytest

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.rewards import PluginReward
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.rewards.build import build_rewards
from tests.support.rewards import completions, scored


class Shouting:
    parts = ("value",)
    value_range = (0.0, 1.0)

    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def __call__(self, completions):
        return [Score(float(c.text.isupper()) * self.threshold, {}) for c in completions]


class Whispering(Shouting):
    async def __call__(self, completions):
        await asyncio.sleep(0)
        return [Score(float(c.text.islower()), {}) for c in completions]


def not_a_reward():
    return object()


@pytest.fixture
def packaging(tmp_path, monkeypatch):
    """An installed package, as importlib.metadata sees one, that registers this module's classes."""
    info = tmp_path / "shouting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (tmp_path / "shouting_rewards.py").write_text(
        f"from {__name__} import Shouting as shouting, Whispering as whispering, not_a_reward\n"
    )
    (info / "entry_points.txt").write_text(
        "[pgrpo.rewards]\nshouting = shouting_rewards:shouting\nodd = shouting_rewards:not_a_reward\n"
        "gone = shouting_rewards:gone\nwhispering = shouting_rewards:whispering\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def build(tmp_path, **section):
    return build_rewards([PluginReward(**section)], tmp_path, allow_code=True)


def test_an_entry_point_is_built_with_its_options(packaging, tmp_path):
    rewards = build(tmp_path, plugin="shouting", options={"threshold": 0.25})
    scores = scored(rewards, completions("LOUD", "quiet"))
    assert [score.value for score in scores] == [0.25, 0.0]


def test_a_plugin_may_be_awaited(packaging, tmp_path):
    rewards = build(tmp_path, plugin="whispering")
    scores = scored(rewards, completions("LOUD", "quiet"), batch=1)
    assert [score.value for score in scores] == [0.0, 1.0]


def test_an_unknown_name_is_answered_with_the_nearest(packaging, tmp_path):
    with pytest.raises(RecipeError, match=r"registers 'shoutin'.*did you mean 'shouting'\?") as caught:
        build(tmp_path, plugin="shoutin")
    assert "registered now: gone, odd, shouting, whispering" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"plugin": "shouting", "options": {"loudness": 1}}, "TypeError"),
        ({"plugin": "gone"}, "AttributeError"),
        ({"plugin": "odd"}, "made a object, which is no reward"),
    ],
)
def test_a_plugin_that_cannot_be_built_is_explained(packaging, tmp_path, section, said):
    with pytest.raises(RecipeError, match=said) as caught:
        build(tmp_path, **section)
    assert section["plugin"] in str(caught.value)
