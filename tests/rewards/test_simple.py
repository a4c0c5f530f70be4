import time
from pathlib import Path

import pytest

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.rewards import KeywordReward, LengthReward, RegexReward
from pgrpo_cli.rewards.base import BuildContext, Completion
from pgrpo_cli.rewards.simple import LENGTH_UNITS, build_keyword, build_length, build_regex

CONTEXT = BuildContext(Path(), allow_code=False)


def value(function, text):
    return function([Completion("p", "g", "", text)])[0].value


@pytest.mark.parametrize(
    ("section", "text", "expected"),
    [
        ({"pattern": r"\d+"}, "no", 0.0),
        ({"pattern": r"\d+"}, "a 1 b 22", 1.0),
        ({"pattern": "jazz"}, "Jazz", 0.0),
        ({"pattern": "jazz", "ignore_case": True}, "Jazz", 1.0),
        ({"pattern": "o", "count": True, "limit": 4}, "foo", 0.5),
        ({"pattern": "o", "count": True, "limit": 4}, "oooooo", 1.0),
    ],
)
def test_regex(section, text, expected):
    assert value(build_regex(RegexReward(**section), CONTEXT), text) == expected


def test_counting_stops_at_the_limit():
    # There are a million and one places where nothing is found.
    section = RegexReward(pattern="", count=True, limit=3)
    assert value(build_regex(section, CONTEXT), "a" * 1_000_000) == 1.0


@pytest.mark.parametrize(
    ("pattern", "text", "why"),
    [
        # Each way to split 40 letters among the repetitions is tried: 2^39.
        ("(a+)+$", "a" * 40 + "b", "3 seconds of processor time"),
        # Memory for each of the repetitions of nothing.
        ("(?:(?:(?:a|){1000}){1000}){1000}b", "a" * 20, "512 MiB of memory"),
    ],
)
def test_a_pattern_without_an_end_is_stopped_and_named(pattern, text, why):
    function, begun = build_regex(RegexReward(name="mine", pattern=pattern), CONTEXT), time.monotonic()
    with pytest.raises(RewardError) as caught:
        value(function, text)
    assert time.monotonic() - begun < 60
    assert f"reward 'mine': the pattern \"{pattern}\" on a completion of {len(text)} char" in str(
        caught.value
    )
    assert why in caught.value.message
    assert "`a+b`" in str(caught.value.remedy)
    # The next pattern is matched as ever.
    assert value(build_regex(RegexReward(pattern="a+b"), CONTEXT), text + "b") == 1.0


@pytest.mark.parametrize(
    ("words", "expected"),
    # min 4, max 6, slack 4
    [(4, 1.0), (6, 1.0), (3, 0.75), (1, 0.25), (0, 0.0), (7, 0.75), (10, 0.0), (30, 0.0)],
)
def test_length_falls_linearly_outside_the_interval(words, expected):
    function = build_length(LengthReward(min=4, max=6, slack=4), CONTEXT)
    assert value(function, " ".join(["word"] * words)) == expected


@pytest.mark.parametrize(("unit", "expected"), [("characters", 18), ("words", 3), ("sentences", 2)])
def test_length_units(unit, expected):
    assert LENGTH_UNITS[unit]("Bread. Butter now!") == expected


def test_every_unit_of_the_schema_is_known():
    assert set(LengthReward.model_fields["unit"].annotation.__args__) == LENGTH_UNITS.keys()


@pytest.mark.parametrize(
    ("need", "text", "expected"),
    [
        ("any", "A CELLO plays", 1.0),
        ("any", "cellos", 0.0),
        ("share", "cello and string quartet", 2 / 3),
        ("share", "nothing", 0.0),
        ("share", "cello, harp, string-quartet", 1.0),
    ],
)
def test_keyword(need, text, expected):
    section = KeywordReward(keywords=("cello", "harp", "string quartet"), need=need)
    assert value(build_keyword(section, CONTEXT), text) == pytest.approx(expected)
