import pytest

from pgrpo_cli.rewards.text import distinct_hits, fold, lines, listed_terms, ramp, sentences, words


def test_words_are_runs_of_letters_with_apostrophes_inside():
    assert words("Don't stop — it’s 9 o'clock, naïve_user!") == [
        "Don't",
        "stop",
        "it’s",
        "o'clock",
        "naïve",
        "user",
    ]


def test_sentences_end_at_marks_and_line_breaks_and_hold_a_word():
    assert sentences("One. Two!! ... \n- three\n\n42?") == ["One", "Two", "- three"]


def test_a_point_inside_a_number_or_an_address_ends_no_sentence():
    assert len(sentences("Version 2.5 of example.org")) == 1


def test_lines_are_stripped_and_not_blank():
    assert lines("  a \n\n\t\n b") == ["a", "b"]


def test_fold_drops_case_accents_and_curly_apostrophes():
    assert fold("Motörhead’s TIËSTO") == "motorhead's tiesto"


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
    ],
)
def test_terms_match_whole_words(term, text, found):
    assert distinct_hits(listed_terms(term), text) == found


def test_a_term_counts_once_however_often_it_occurs():
    assert distinct_hits(listed_terms("jazz*, sax*"), "Jazz, jazzy JAZZ and a sax") == 2
