"""The recipes that come with data of their own work out of the box: prepared, then scored."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import pytest

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.errors import DataError
from pgrpo_cli.feedback.file import read_feedback
from pgrpo_cli.recipe.load import load_recipe, sample_data, shipped_recipes
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.trial import try_rewards
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.tokenizer import byte_tokenizer

RECIPES = {name: path for name, path in shipped_recipes().items() if sample_data(path)}


def test_these_recipes_bring_data() -> None:
    assert {"dinner", "house-styles", "my-chats", "my-taste", "thumbs"} <= RECIPES.keys()


def test_the_picks_of_my_taste_follow_their_rule() -> None:
    folder = RECIPES["my-taste"].parent / "my-taste"
    made = runpy.run_path(str(folder / "make_picks.py"))["picks"]()
    assert [json.loads(line) for line in (folder / "taste.jsonl").read_text().splitlines()] == made
    found = read_feedback(folder / "taste.jsonl")
    assert (len(found.picks), found.problems) == (40, ())
    # Picked: five words of an answer without a sign before two words with a ! and a ?.
    rule = runpy.run_path(str(folder / "make_picks.py"))["dislike"]
    assert (rule("You could read Dune now."), rule("Read! Dune?")) == (5, 18)


@pytest.mark.parametrize("path", RECIPES.values(), ids=RECIPES)
def test_its_rows_are_prepared_and_can_be_scored(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    report = prepare_data(recipe, tmp_path, path.parent, byte_tokenizer())
    assert report.rejected == {}
    assert all(group.train_prompts and group.eval_prompts for group in report.groups)
    rewards = build_rewards(recipe.rewards, path.parent, allow_code=True)
    prompts = [*load_prepared(tmp_path, "train"), *load_prepared(tmp_path, "eval")]
    texts = ("Yes.", "We regret that the wine must be postponed until the 20th, regarding your contract!")
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


@pytest.mark.parametrize(
    ("name", "groups", "rewards"),
    [
        ("helpsteer2", ("coherence", "verbosity"), ()),
        ("ultrafeedback", ("honesty", "truthfulness"), ("rewards=[{type: rouge}]",)),
        ("personalllm", ("model 1", "model 2"), ("rewards=[{type: rouge}]",)),
    ],
)
def test_sets_that_ask_one_prompt_for_several_groups_say_who_asks(
    name: str, groups: tuple[str, ...], rewards: tuple[str, ...], tmp_path: Path
) -> None:
    """Rows as the source makes them; without `data.conditioning` they are refused."""
    rows = [
        {"prompt": f"Question {n}?", "preference_group": group, "reference": f"{group} {n}"}
        for n in range(20)
        for group in groups
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"data.source={{type: jsonl, path: {tmp_path / 'rows.jsonl'}}}"
    recipe = load_recipe(shipped_recipes()[name], [source, *rewards])
    report = prepare_data(recipe, tmp_path / "run", tmp_path, byte_tokenizer())
    assert report.rejected == {}
    plain = load_recipe(shipped_recipes()[name], [source, *rewards, "data.conditioning={type: prompt}"])
    with pytest.raises(DataError, match="cannot tell who asks"):
        prepare_data(plain, tmp_path / "other", tmp_path, byte_tokenizer())
