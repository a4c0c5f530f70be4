import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.rewards.styles import SENTENCE, STYLES, textness

SAMPLES = {
    "terse": "Miles Davis. Enjoy.",
    "flowing": "You could begin with a slow record, and let it run while the evening falls, so that "
    "the room, which was loud until now, becomes quiet",
    "excited": "Wow!! This is amazing, you will love it!!!",
    "asking": "How about some dub? Would you like it loud?",
    "bulleted": "- Nas\n- Eminem\n- Drake",
    "capitals": "TURN UP THE VOLUME AND PLAY METALLICA",
    "formal": "I would recommend the second sonata; please consider it.",
}


def test_there_is_a_sample_of_every_style():
    assert SAMPLES.keys() == STYLES.keys()


@pytest.mark.parametrize("style", STYLES)
def test_a_sample_of_a_style_scores_high_in_it_and_higher_than_the_others(style):
    scores = {name: STYLES[style](text) * textness(text) for name, text in SAMPLES.items()}
    assert scores[style] >= 0.75
    # Any short text is terse: only the flowing sample is long.
    others = {"flowing"} if style == "terse" else SAMPLES.keys() - {style}
    assert all(scores[style] > scores[other] + 0.1 for other in others)


@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        # 23 words: (40 - 23) / (40 - 6) = 0.5
        ("terse", " ".join(["word"] * 23), 0.5),
        ("terse", "Six words are all it takes", 1.0),
        ("terse", " ".join(["word"] * 40), 0.0),
        # One sentence of 28 words is full length (0.6); 3 commas of 6 joints give half of 0.4.
        ("flowing", ", ".join(["word"] * 4) + " word" * 24, 0.6 + 0.2),
        # 5 words a sentence: nothing for length; "and" is the one joint of 6: 0.4 / 6.
        ("flowing", "bread and butter for all. more bread for us all.", 0.4 / 6),
        # One mark: (1 - e^-0.5) / (1 - e^-2.5).
        ("excited", "Fine!", (1 - math.exp(-0.5)) / (1 - math.exp(-2.5))),
        # Two emphatic words are worth one mark.
        ("excited", "great fun", (1 - math.exp(-0.5)) / (1 - math.exp(-2.5))),
        ("excited", "!!!!!!!", 1.0),
        # One question mark of 2 (0.2), one of two sentences asks (0.2), "what" of 4 address words (0.05).
        ("asking", "What now? Nothing.", 0.2 + 0.2 + 0.05),
        ("asking", "कैसे हो?", 0.2 + 0.4),
        # "you": half a word of address out of 2.
        ("asking", "See you there", 0.2 * 0.5 / 2),
        # Two lines: half of 0.25; one bullet of 3: 0.1; half of the lines: 0.175; bullets imply 0.1.
        ("bulleted", "Music\n- Nas", 0.1 + 0.125 + 0.1 + 0.175),
        ("bulleted", "1. Nas\n2) Drake\n* Tupac", 1.0),
        ("bulleted", "Some music: Nas", 0.1),
        # 9 of 20 letters are capitals: sqrt(0.45 / 0.9).
        ("capitals", "ABCDEFGHI abcdefghijk", math.sqrt(0.5)),
        ("capitals", "quiet", 0.0),
        # No contraction (0.4), "would" and "recommend" are 2 of 3 (0.4).
        ("formal", "I would recommend this", 0.8),
        # One contraction halves 0.4.
        ("formal", "It's good", 0.2),
        ("formal", "Don't! It’s bad!", 0.0),
    ],
)
def test_scores_by_hand(style, text, expected):
    assert STYLES[style](text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("   \n", 0.0),
        ("!!! ??? 123", 0.0),
        ("a b c d", 0.0),  # single letters are no words
        ("Jazz.", 0.5),
        ("Miles Davis", 1.0),
        ("私は寿司が好きです", 1.0),
        ("नीति सीधी थी", 1.0),  # half of the signs are vowels
        # 3 of 8 words differ: (0.375 - 0.15) / (0.6 - 0.15) = 0.5
        ("go go go go go go now yes", 0.5),
        # 9 of 20 visible signs are letters: (0.45 - 0.3) / (0.6 - 0.3) = 0.5
        ("abc def ghi !!!!!!!!!!!", 0.5),
        # One of two words is longer than 20 letters.
        ("fine " + "x" * 21, 0.5),
    ],
)
def test_textness_by_hand(text, expected):
    assert textness(text) == pytest.approx(expected)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "text", ["", "! ! ! ! !", "-\n-\n-\n-", "????????", "yes yes yes yes yes yes yes yes"]
)
def test_what_is_no_text_earns_almost_nothing(style, text):
    assert STYLES[style](text) * textness(text) < 0.05


@given(st.text(max_size=300))
def test_every_text_has_scores_between_0_and_1(text):
    assert 0 <= textness(text) <= 1
    for score in STYLES.values():
        assert 0 <= score(text) <= 1


@given(st.text(alphabet="ab .!?\n-_", max_size=30))
def test_finished_sentences_are_those_with_a_word_and_an_end(text):
    # As it was written first: clear, and cubic in the length of a text without an end.
    clear = re.findall(r"[^.!?\n]*\w[^.!?\n]*([.!?])", text)
    assert [end for body, end in SENTENCE.findall(text) if end and re.search(r"\w", body)] == clear


@pytest.mark.parametrize("style", STYLES)
def test_a_long_text_without_an_end_takes_no_time(style):
    begun = time.process_time()
    STYLES[style]("word " * 4000)
    assert time.process_time() - begun < 2
