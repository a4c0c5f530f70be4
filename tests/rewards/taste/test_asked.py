"""Which pair to ask about next."""

from __future__ import annotations

from pgrpo_cli.rewards.taste.asked import Asked

QUESTION = "Which music?"
SHORT, LONG = "Play jazz", "Play jazz and then play some soul and all of the blues that you can find at home"
CALM, LOUD = "Play jazz and soul", "Play jazz and soul!!!!"


def test_what_was_not_asked_about_tells_more_than_what_was() -> None:
    asked = Asked()
    pairs = [(SHORT, LONG), (CALM, LOUD)]
    first = asked.most_telling(QUESTION, pairs)
    for _ in range(3):
        asked.add(QUESTION, pairs[first])
    assert asked.most_telling(QUESTION, pairs) == 1 - first
    for _ in range(3):
        asked.take_back()
    assert asked.most_telling(QUESTION, pairs) == first


def test_a_great_difference_tells_more_than_a_small_one() -> None:
    middle = "Play jazz and then some soul"
    assert Asked().most_telling(QUESTION, [(SHORT, middle), (SHORT, LONG), (middle, LONG)]) == 1
    # In either order.
    assert Asked().most_telling(QUESTION, [(middle, SHORT), (LONG, SHORT)]) == 1


def test_answers_that_differ_in_nothing_can_be_shown_all_the_same() -> None:
    assert Asked().most_telling(QUESTION, [("Tea one", "Tea two")]) == 0
