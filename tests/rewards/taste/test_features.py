import math

import pytest

from pgrpo_cli.rewards.taste.features import Answer, measured, readable_features

FEATURES = {feature.name: feature for feature in readable_features()}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        # Counts are ln(1 + n).
        ("length", "Tea or coffee?", math.log(4)),
        ("length", "", 0),
        # Six words in two sentences.
        ("sentence_length", "Tea is mild. Coffee is not.", math.log(4)),
        # Two of four lines.
        ("lists", "Buy:\n- tea\n- milk\nThat is all.", 0.5),
        ("lists", "Tea.", 0),
        ("questions", "Tea? Or coffee?", math.log(3)),
        ("questions", "お茶ですか？", math.log(2)),
        ("exclamations", "Tea!!", math.log(3)),
        ("exclamations", "お茶！！", math.log(3)),
        # One of four letters: the root of 1/4.
        ("capitals", "Teas", 0.5),
        ("capitals", "...", 0),
        # Two formal words (would, kindly) of the three that count: 0.6 · 2/3.
        ("formality", "I would kindly wait.", 0.4),
        # One contraction of the two that count: -0.4 · 1/2.
        ("formality", "I don't.", -0.2),
        # 0.39 · 1 + 11.8 · 1 - 15.59 for a word of one syllable, which is cut off at -3.
        ("difficulty", "Tea.", -3),
        ("difficulty", "123", 0),
        ("enthusiasm", "Wow, amazing", math.log(3)),
        ("address", "Your tea", math.log(2)),
        ("emoji", "Tea 🎵🎵", math.log(3)),
        # `recommend` and `music` of which, music, recommend; `do` and `you` are too short.
        ("taken_up", "I recommend music.", 2 / 3),
    ],
)
def test_each_feature_by_hand(name: str, text: str, value: float) -> None:
    answer = Answer(text, "Which music do you recommend?")
    assert FEATURES[name].measure(answer) == pytest.approx(value)


def test_sentiment_is_vaders() -> None:
    pytest.importorskip("vaderSentiment")
    assert FEATURES["sentiment"].measure(Answer("A great day", "")) > 0.5
    assert FEATURES["sentiment"].measure(Answer("A terrible day", "")) < -0.3


def test_every_answer_has_a_row_of_numbers() -> None:
    rows = measured(
        readable_features(), [("", ""), ("x" * 100_000, "y"), ("\0\x1b[2J\ud7ff", "?"), ("é" * 9, "é")]
    )
    assert rows.shape == (4, len(FEATURES))
    assert (abs(rows) < 100).all()


def test_words_for_more_and_less_differ() -> None:
    said = [words for feature in FEATURES.values() for words in (feature.more, feature.less)]
    assert len(set(said)) == len(said)
