from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.reward_text import PersonasReward
from pgrpo_cli.rewards.base import BuildContext, Completion
from pgrpo_cli.rewards.personas import CORE_TERMS, PERSONAS, build_personas
from pgrpo_cli.rewards.styles import STYLES

CONTEXT = BuildContext(Path(), allow_code=False)


def scored(preference_group, text, **section):
    function = build_personas(PersonasReward(**section), CONTEXT)
    return function([Completion("p1", preference_group, "prompt", text)])[0]


def test_seven_personas_with_unequal_shares_and_every_style_and_genre():
    shares = [persona.share for persona in PERSONAS.values()]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (0.5, 0.03)
    assert {persona.style for persona in PERSONAS.values()} == STYLES.keys()
    assert {persona.genre for persona in PERSONAS.values()} == CORE_TERMS.keys()


def test_value_by_hand():
    # terse-jazz: scale 3, offset -1, difficulty 1.5. Four words: style 1. "jazz" alone: genre 0.6.
    score = scored("terse-jazz", "Play me some jazz")
    assert score.parts == {"style": 1.0, "genre": pytest.approx(0.6)}
    # -1 + 3 * (0.6 * 1^1.5 + 0.4 * 0.6) = 1.52
    assert score.value == pytest.approx(1.52)


def test_difficulty_is_an_exponent_of_the_style_alone():
    # 23 different words: style (40 - 23) / 34 = 0.5, genre 0.
    text = " ".join(f"{a}{b}ee" for a in "bdfgk" for b in "rlnst")[: 23 * 5 - 1]
    score = scored("terse-jazz", text)
    assert score.parts == {"style": 0.5, "genre": 0.0}
    assert score.value == pytest.approx(-1 + 3 * 0.6 * 0.5**1.5)


def test_weights_of_the_section_count():
    # excited-electronic: scale 1, offset 0, difficulty 1; only the genre counts: 1 * techno = 0.6.
    assert scored(
        "excited-electronic", "Try some techno", style_weight=0, genre_weight=1
    ).value == pytest.approx(0.6)


@pytest.mark.parametrize("persona", PERSONAS.values(), ids=lambda persona: persona.name)
def test_no_text_is_worth_the_offset(persona):
    score = scored(persona.name, "")
    assert score.parts == {"style": 0.0, "genre": 0.0}
    assert score.value == persona.offset


@given(st.text(max_size=200), st.sampled_from(sorted(PERSONAS)))
def test_values_stay_in_the_declared_range(text, name):
    low, high = build_personas(PersonasReward(), CONTEXT).value_range
    assert (low, high) == (-1.0, 2.3)  # terse-jazz offset -1; asking-reggae 2 + 0.3 * 1
    assert low <= scored(name, text).value <= high


def test_an_unknown_persona_is_named_with_the_nearest():
    with pytest.raises(RewardError, match=r"'terse-jaz', which .*did you mean 'terse-jazz'.*prompt p1"):
        scored("terse-jaz", "text")


def test_a_preference_group_by_lot_leaves_each_prompt_its_persona():
    function = build_personas(PersonasReward(), CONTEXT)
    text, columns = "Try Kind of Blue by Miles Davis.", {"persona": "terse-jazz"}
    groups = ("terse-jazz", "group-2", "capitals-metal")
    by_name, by_lot, other = function([Completion("p1", group, "prompt", text, columns) for group in groups])
    assert by_name == by_lot
    assert other != by_name
