"""The recipes that come with data of their own work out of the box: prepared, then scored."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.recipe.load import load_recipe, sample_data, shipped_recipes
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.trial import try_rewards
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.tokenizer import byte_tokenizer

RECIPES = {name: path for name, path in shipped_recipes().items() if sample_data(path)}


def test_these_recipes_bring_data() -> None:
    assert {"house-styles", "my-chats", "thumbs"} <= RECIPES.keys()


@pytest.mark.parametrize("path", RECIPES.values(), ids=RECIPES)
def test_its_rows_are_prepared_and_can_be_scored(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    report = prepare_data(recipe, tmp_path, path.parent, byte_tokenizer())
    assert report.rejected == {}
    assert all(group.train_prompts and group.eval_prompts for group in report.groups)
    rewards = build_rewards(recipe.rewards, path.parent, allow_code=False)
    prompts = [*load_prepared(tmp_path, "train"), *load_prepared(tmp_path, "eval")]
    texts = ("Yes.", "We regret that the matter must be postponed until Friday, regarding your contract!")
    trials = try_rewards(
        rewards,
        [
            Completion(p.prompt_id, p.preference_group, p.prompt, text, p.columns, p.messages)
            for p in prompts
            for text in texts
        ],
    )
    assert not any(math.isnan(trial.total) for trial in trials)
    # A reward that cannot tell a short text from a formal one would teach nobody.
    for first, second in zip(trials[::2], trials[1::2], strict=True):
        assert first.total != second.total
