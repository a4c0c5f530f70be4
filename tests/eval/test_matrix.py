"""Which rewards a matrix has, and what it asks them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.eval.matrix import MOST_GROUPS, cross_scores, group_rewards
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Completion, Score
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.scoring import Scorer
from tests.support.recipes import changed
from tests.support.rewards import Plain, summed

LENGTH = {"type": "length", "unit": "characters", "max": 4}
LIMITED = {**LENGTH, "name": "short", "preference_groups": ["terse-jazz"]}
CODE = {"type": "python", "name": "code", "file": "mine.py"}


def labels(
    rewards: list[dict[str, Any]], tmp_path: Path, mode: Any = "auto", groups: int = 7
) -> list[str] | None:
    (tmp_path / "mine.py").write_text(
        "def reward(prompts, completions, **columns): return [0] * len(prompts)"
    )
    sections = Recipe.model_validate(changed(rewards=rewards)).rewards
    found = group_rewards(build_rewards(sections, tmp_path, True), sections, mode, groups)
    return None if found is None else [term.label for term in found.terms]


def test_only_rewards_that_depend_on_the_group(tmp_path: Path) -> None:
    assert labels([{"type": "personas"}, LENGTH, LIMITED], tmp_path) == ["personas", "short"]
    assert labels([{"type": "personas", "weight": 0}, LIMITED], tmp_path) == ["short"]
    assert labels([LENGTH], tmp_path) is None


def test_code_only_if_asked(tmp_path: Path) -> None:
    assert labels([{"type": "personas"}, CODE], tmp_path) == ["personas"]
    assert labels([{"type": "personas"}, CODE], tmp_path, True) == ["personas", "code"]
    assert labels([CODE], tmp_path) is None


@pytest.mark.parametrize(
    ("mode", "groups", "expected"),
    [
        (False, 7, None),
        ("auto", 1, None),
        (True, 1, None),
        ("auto", MOST_GROUPS, ["personas"]),
        ("auto", MOST_GROUPS + 1, None),
        (True, MOST_GROUPS + 1, ["personas"]),
    ],
)
def test_when_there_is_a_matrix(tmp_path: Path, mode: Any, groups: int, expected: list[str] | None) -> None:
    assert labels([{"type": "personas"}], tmp_path, mode, groups) == expected


def test_each_text_is_put_to_each_group() -> None:
    def reward(completions: Sequence[Completion]) -> list[Score]:
        assert all((c.prompt_id, c.columns) == ("p", {"k": 1}) for c in completions)
        return [Score(float(c.text.count(c.preference_group)), {}) for c in completions]

    completions = [Completion("p", "a", "prompt", text, {"k": 1}) for text in ("aab", "b")]
    with Scorer(summed(Plain(reward))) as scorer:
        assert cross_scores(scorer, completions, ["a", "b"]) == {"a": [2.0, 0.0], "b": [1.0, 1.0]}
