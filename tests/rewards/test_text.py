import unicodedata

import pytest

from pgrpo_cli.rewards.text import (
    distinct_hits,
    fold,
    lines,
    listed_terms,
    ramp,
    sentences,
    whole_term,
    words,
)


def test_words_are_runs_of_letters_with_apostrophes_inside():
    assert words("Don't stop — it’s 9 o'clock, naïve_user!") == [
        "Don't",
        "stop",
        "it’s",
        "o'clock",
        "naïve",
        "user",
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("私は寿司が好きです", 9),
        ("我喜欢猫。", 4),
        ("AIが2つ、好き", 5),
        ("ลาบ", 3),
        ("스시가 좋아요", 2),
        ("・。", 0),
        ("ខ្ញុំ", 2),
        ("मुझे हिन्दी बोलना पसंद है", 5),
        ("நான் தமிழ் பேசுகிறேன்", 3),
        ("আমি বাংলা বলি", 3),
        ("مُحَمَّدٌ رَسُولٌ", 2),
        ("می‌خواهم بروم", 2),
        (unicodedata.normalize("NFD", "Việt Nam là một quốc gia"), 6),
    ],
)
def test_a_letter_of_a_script_without_blanks_is_a_word_and_a_mark_belongs_to_its_letter(text, count):
    assert len(words(text)) == count


def test_full_width_stops_end_sentences_without_a_blank():
    assert sentences("好きです。本当？！はい｡ Yes. No") == ["好きです", "本当", "はい", "Yes", "No"]


@pytest.mark.parametrize("text", ["मैं ठीक हूँ। तुम कैसे हो॥", "میں ٹھیک ہوں۔ آپ؟", "ကောင်းတယ်။ဟုတ်တယ်။"])
def test_full_stops_of_other_scripts_end_sentences(text):
    assert len(sentences(text)) == 2


@pytest.mark.parametrize("around", ['""', "“”", "**", "()", "«»", "__"])
def test_a_sentence_may_end_before_closing_signs(around):
    opening, closing = around
    text = f"{opening}It rains.{closing} {opening}It is late!{closing}\n{opening}Is it so?{closing} Yes."
    assert len(sentences(text)) == 4


def test_sentences_end_at_marks_and_line_breaks_and_hold_a_word():
    assert sentences("One. Two!! ... \n- three\n\n42?") == ["One", "Two", "- three"]


def test_a_point_inside_a_number_or_an_address_ends_no_sentence():
    assert len(sentences("Version 2.5 of example.org")) == 1


def test_lines_are_stripped_and_not_blank():
    assert lines("  a \n\n\t\n b") == ["a", "b"]


def test_fold_drops_case_accents_and_curly_apostrophes():
    assert fold("Motörhead’s TIËSTO") == "motorhead's tiesto"
    assert fold("مُحَمَّد") == "محمد"


@pytest.mark.parametrize(("one", "other"), [("かき", "がき"), ("ไม่", "ไม้"), ("कर्म", "करम")])
def test_fold_keeps_marks_that_make_another_letter_or_syllable(one, other):
    assert fold(one) != fold(other)


@pytest.mark.parametrize(
    ("value", "start", "end", "expected"),
    [(5, 0, 10, 0.5), (-1, 0, 10, 0), (11, 0, 10, 1), (30, 40, 20, 0.5), (50, 40, 20, 0), (10, 40, 20, 1)],
)
def test_ramp_is_linear_between_and_flat_outside_in_both_directions(value, start, end, expected):
    assert ramp(value, start, end) == expected


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("rap", "Rap!", 1),
        ("rap", "a rapid trap", 0),
        ("symphon*", "symphonies", 1),
        ("symphon*", "a polysymphony", 0),
        ("hip hop", "HIP-HOP", 1),
        ("hip hop", "hip  hop", 1),
        ("hip hop", "hiphop", 0),
        ("AC/DC", "ac/dc.", 1),
        ("Tiësto", "tiesto", 1),
        ("寿司", "私は寿司が好きです", 1),
        ("寿司", "寿 司", 0),
        ("ラーメン", "豚骨ラーメン屋", 1),
        ("sushi", "私はsushiが好き", 1),
        ("sushi", "私はsushisが好き", 0),
        ("sush*", "私はsushisが好き", 1),
        ("AI 寿司", "このAI-寿司は", 1),
        ("か", "がき", 0),
        ("AI", "ไม่AI", 1),
        ("jazz", "❤️jazz", 1),
        ("कम", "समय की कमी है", 0),
        ("कम", "समय कम है", 1),
        ("कम*", "समय की कमी है", 1),
    ],
)
def test_terms_match_whole_words(term, text, found):
    assert distinct_hits(listed_terms(term), text) == found


@pytest.mark.parametrize(
    ("term", "found"), [("great", 1), ("C++", 1), ("lovely!", 1), ("🎵", 1), ("*Really*", 1)]
)
def test_signs_are_no_part_of_a_word_and_can_be_looked_for(term, found):
    text = "A _great_ C++program, how lovely!Isn't*really*🎵song?"
    assert whole_term(term).occurs(fold(text)) == found
    assert not whole_term(term).occurs("greatly c+ lovely really")


def test_a_blank_term_would_occur_everywhere():
    with pytest.raises(ValueError, match="blank"):
        whole_term(" ")


def test_a_term_counts_once_however_often_it_occurs():
    assert distinct_hits(listed_terms("jazz*, sax*"), "Jazz, jazzy JAZZ and a sax") == 2


def test_a_term_is_compiled_when_it_is_searched_for():
    # Commands that read recipes import the personas' lists, and search for nothing.
    term = whole_term("late night")
    assert not term.occurs("early") and "pattern" not in vars(term)
    assert term.occurs("a late-night tune") and "pattern" in vars(term)
