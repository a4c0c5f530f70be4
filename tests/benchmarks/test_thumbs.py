"""The sample data of the recipe thumbs are what their script makes, and as large as they have to be."""

from __future__ import annotations

from collections import Counter

from benchmarks.thumbs import LIKED, PATH, ROWS, TASTES, rows, text


def test_the_file_is_what_the_script_makes() -> None:
    assert PATH.read_text(encoding="utf-8") == text()


def test_every_user_has_rows_of_both_kinds_and_no_question_is_asked_twice() -> None:
    made = rows()
    users = [user for of_taste in TASTES.values() for user in of_taste]
    assert Counter(row["user"] for row in made) == dict.fromkeys(users, ROWS)
    assert Counter(row["user"] for row in made if row["thumbs_up"]) == dict.fromkeys(users, LIKED)
    assert len({row["prompt"] for row in made}) == len(made)


def test_liked_answers_are_of_the_users_taste_and_disliked_ones_are_not() -> None:
    for row in rows():
        answer = str(row["answer"])
        taste = "stepwise" if answer.startswith("1. ") else "warm" if answer.endswith("!") else "brief"
        assert (taste == row["preference_group"]) == row["thumbs_up"]
