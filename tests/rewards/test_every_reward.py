"""What holds for every built-in reward that needs no model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.recipe.rewards import Reward
from pgrpo_cli.rewards.base import Completion, RewardFunction, WeighsParts
from pgrpo_cli.rewards.build import build_rewards

TYPES: dict[str, type[RewardBase]] = {
    section.model_fields["type"].default: section for section in get_args(get_args(Reward)[0])
}
# Each type's settings; a type is told apart by what it needs, not left out silently.
SETTINGS: dict[str, dict[str, Any]] = {
    "personas": {"genre_weight": 2.0},
    "regex": {"pattern": r"\w", "count": True, "limit": 3},
    "length": {"max": 3},
    "keyword": {"keywords": ["a", "b"], "need": "share"},
    "readability": {"min": 1, "max": 5},
    "sentiment": {"min": 0.3},
    "recommendation": {"candidates_column": "candidates", "candidate_weight": 0.4, "k": 2},
    "rouge": {"rating_column": "rating"},
    "chrf": {"rating_column": "rating"},
}
ELSEWHERE = {"embedding", "reward_model", "taste", "python", "plugin", "judge"}
"""Types that need a model, picks, code or a server: their own tests hold this."""
COLUMNS = {"target": "It (2017)", "candidates": ["It (2017)", "Ab"], "reference": "a b c", "rating": 0.3}


def test_every_type_is_accounted_for() -> None:
    assert SETTINGS.keys() | (ELSEWHERE & TYPES.keys()) == TYPES.keys()


@pytest.mark.parametrize("name", SETTINGS)
@given(text=st.text(max_size=80) | st.text("ab It.!?1\n“”", max_size=80))
def test_value_range_and_parts_are_as_declared(name: str, text: str) -> None:
    section = TYPES[name](**SETTINGS[name])
    function = built(section)
    assert function.parts == section.parts
    (score,) = function([Completion("p", "terse-jazz", "", text, COLUMNS)])
    assert section.value_range in (None, function.value_range)
    low, high = function.value_range or (-math.inf, math.inf)
    assert low <= score.value <= high
    assert tuple(score.parts) == function.parts
    if isinstance(function, WeighsParts):
        weights = {part: weight for part, weight in function.part_weights.items() if weight}
        assert score.value == pytest.approx(sum(w * score.parts[part] for part, w in weights.items()))


BUILT: dict[str, RewardFunction] = {}


def built(section: Any) -> RewardFunction:
    """Each built once: VADER reads its lexicon when it is."""
    if section.type not in BUILT:
        (term,) = build_rewards([section], Path(), allow_code=False).terms
        assert isinstance(term.function, RewardFunction)
        BUILT[section.type] = term.function
    return BUILT[section.type]


def test_only_the_personas_value_is_no_plain_sum_of_its_parts() -> None:
    plain = {name for name in SETTINGS if isinstance(built(TYPES[name](**SETTINGS[name])), WeighsParts)}
    assert SETTINGS.keys() - plain == {"personas"}
