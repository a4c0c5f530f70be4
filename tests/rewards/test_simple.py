import math
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.reward_text import (
    KeywordReward,
    LengthReward,
    ReadabilityReward,
    RegexReward,
    SentimentReward,
)
from pgrpo_cli.rewards.base import BuildContext, Completion
from pgrpo_cli.rewards.simple import (
    LENGTH_UNITS,
    build_keyword,
    build_length,
    build_readability,
    build_regex,
    build_sentiment,
    flesch_kincaid_grade,
    syllables,
)

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


@pytest.mark.parametrize("unit", LENGTH_UNITS)
@pytest.mark.parametrize("text", ["", "   ", "...", "\n- \n"])
def test_who_likes_it_short_still_wants_an_answer(unit, text):
    # Without the rule 1, or 0.7 with a least length of 3.
    for section in (LengthReward(unit=unit, max=40), LengthReward(unit=unit, min=3, max=40)):
        assert value(build_length(section, CONTEXT), text) == 0.0
    assert value(build_length(LengthReward(max=1), CONTEXT), "42") == 1.0


@pytest.mark.parametrize(("unit", "expected"), [("characters", 18), ("words", 3), ("sentences", 2)])
def test_length_units(unit, expected):
    assert LENGTH_UNITS[unit]("Bread. Butter now!") == expected


def test_japanese_is_counted_and_searched_by_characters():
    text = "私は寿司が好きです。とても美味しいです。"
    # Nine and nine letters in two sentences.
    assert {unit: count(text) for unit, count in LENGTH_UNITS.items()} == {
        "characters": 20, "words": 18, "sentences": 2
    }  # fmt: skip
    assert value(build_keyword(KeywordReward(keywords=("寿司",)), CONTEXT), text) == 1.0


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


@pytest.mark.parametrize(("text", "expected"), [("Plain text.", 0.0), ("A **bold** word.", 1.0), ("", 0.0)])
def test_a_keyword_of_signs_is_looked_for_as_it_is(text, expected):
    assert value(build_keyword(KeywordReward(keywords=("**",)), CONTEXT), text) == expected


def test_a_blank_keyword_is_refused():
    with pytest.raises(ValidationError, match="' ' is blank"):
        KeywordReward(keywords=("jazz", " "))


def scored(function, text):
    return function([Completion("p", "g", "", text)])[0]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(("make", 1), ("makes", 1), ("table", 2), ("tables", 2), ("whole", 1), ("boxes", 2), ("tree", 1)),
        *(("jumped", 1), ("wanted", 2), ("watches", 2), ("clothes", 1), ("beautiful", 3), ("the", 1)),
        *(("rhythm", 1), ("hmm", 1), ("don't", 1), ("Café", 2), ("banana", 3), ("music", 2), ("red", 1)),
    ],
)
def test_syllables(word, expected):
    assert syllables(word) == expected


def test_the_grade_by_hand():
    # 6 words, 1 sentence, 6 syllables: 0.39 * 6 + 11.8 * 1 - 15.59 = -1.45
    assert flesch_kincaid_grade("The cat sat on the mat.") == pytest.approx(-1.45)
    # 4 words, 2 sentences, 2 + 3 + 3 + 3 = 11 syllables: 0.39 * 2 + 11.8 * 11 / 4 - 15.59 = 17.64
    assert flesch_kincaid_grade("Music banana. Potato gorilla!") == pytest.approx(17.64)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"max": 0}, 1.0),
        # -1.45 is 1.55 grades below 0.1 and 5 below 3.55
        ({"min": 0.1}, 1 - 1.55 / 5),
        ({"min": 0.1, "slack": 2}, 1 - 1.55 / 2),
        ({"min": 3.55, "max": 9}, 0.0),
        ({"min": -1.5, "max": -1.4}, 1.0),
    ],
)
def test_readability_falls_linearly_outside_the_interval(section, expected):
    score = scored(build_readability(ReadabilityReward(**section), CONTEXT), "The cat sat on the mat.")
    assert score.value == pytest.approx(expected)
    assert score.parts == {"value": score.value, "grade": pytest.approx(-1.45)}


@pytest.mark.parametrize("text", ["", "  \n", "123 !?", "🙂"])
def test_a_text_without_a_word_has_no_grade_and_is_worth_nothing(text):
    score = scored(build_readability(ReadabilityReward(max=100), CONTEXT), text)
    assert score.value == 0.0
    assert math.isnan(score.parts["grade"])


def test_sentiment_by_hand():
    # VADER's lexicon gives "good" 1.9; the compound score is 1.9 / sqrt(1.9^2 + 15) = 0.4404.
    score = scored(build_sentiment(SentimentReward(min=0.6404), CONTEXT), "good")
    assert score.parts == {"value": pytest.approx(0.8), "compound": 0.4404}
    # Negated it is 1.9 * -0.74: -1.406 / sqrt(1.406^2 + 15) = -0.3412.
    score = scored(build_sentiment(SentimentReward(max=-0.3), CONTEXT), "not good")
    assert score.parts == {"value": 1.0, "compound": -0.3412}


def test_a_text_that_says_nothing_it_knows_is_neutral():
    function = build_sentiment(SentimentReward(min=-0.1, max=0.1), CONTEXT)
    assert [scored(function, text).value for text in ("1 2 3", "The table.")] == [1.0, 1.0]


def test_a_text_that_says_nothing_at_all_has_no_sentiment_but_emoji_have():
    function = build_sentiment(SentimentReward(min=-1), CONTEXT)
    assert [scored(function, text).value for text in ("", " \n", "...", "😀")] == [0.0, 0.0, 0.0, 1.0]


@given(st.text(max_size=300) | st.text("abe .!?\n", max_size=300))
def test_values_stay_in_the_declared_range(text):
    for function in (
        build_readability(ReadabilityReward(min=2, max=4), CONTEXT),
        build_sentiment(SentimentReward(min=0.5), CONTEXT),
    ):
        low, high = function.value_range
        score = scored(function, text)
        assert low <= score.value <= high
        assert score.value == score.parts["value"]
        assert tuple(score.parts) == function.parts


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(RecipeError, match=r"'sentiment' needs the package vaderSentiment") as caught:
        build_sentiment(SentimentReward(min=0), CONTEXT)
    assert caught.value.remedy == "pip install 'pgrpo-cli[text]'"
