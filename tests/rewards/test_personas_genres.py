import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.rewards.personas import CORE_TERMS, MOOD_TERMS, genre_score


def test_every_genre_has_core_and_mood_terms():
    assert CORE_TERMS.keys() == MOOD_TERMS.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Soup and bread.", 0.0),
        ("I like music", 0.1),
        ("music, songs, albums and artists", 0.2),  # two words of music at large at most
        ("Something smooth", 0.25),
        ("A saxophone", 0.6),
        ("A saxophone and a trumpet", 1.0),
        ("saxophone, saxophones, SAX", 0.6),  # one term
        ("Ella Fitzgerald has a smooth album", 0.6 + 0.25 + 0.1),
    ],
)
def test_jazz_by_hand(text, expected):
    assert genre_score("jazz", text) == pytest.approx(expected)


@pytest.mark.parametrize("genre", CORE_TERMS)
def test_a_single_core_term_is_a_single_hit(genre):
    for term in (term.strip(" *\n") for term in CORE_TERMS[genre].split(",")):
        # 0.25 more where the term holds a mood word, 0.1 where it names music at large ("house music").
        allowed = {0.6, 0.7, 0.85, 0.95}
        assert any(genre_score(genre, term) == pytest.approx(score) for score in allowed), term


@pytest.mark.parametrize("genre", CORE_TERMS)
def test_the_name_of_a_genre_speaks_of_it_and_of_no_other(genre):
    scores = {other: genre_score(other, f"{genre} forever") for other in CORE_TERMS}
    assert scores.pop(genre) >= 0.6
    assert max(scores.values()) == 0


@given(st.text(max_size=200), st.sampled_from(sorted(CORE_TERMS)))
def test_every_score_lies_between_0_and_1(text, genre):
    assert 0 <= genre_score(genre, text) <= 1
