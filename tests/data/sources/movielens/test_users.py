import pytest

from pgrpo_cli.errors import DataError
from tests.support.movielens import collection, read

MOVIES = [
    (1, "One (1990)", "Drama"),
    (2, "Two (1990)", "Drama|War"),
    (3, "Three (1990)", "Comedy"),
    (4, "Four (1990)", "(no genres listed)"),
    (5, "Five (1990)", "War"),
    (6, "Six (1990)", "Horror"),
]
# What is held out is film 6, at time 60: the profile is of the first four.
RATINGS = [(1, 1, 5.0, 10), (1, 2, 4.0, 20), (1, 3, 1.5, 30), (1, 4, 4.5, 40), (1, 6, 5.0, 60)]


def profile(folder, ratings=RATINGS, tags=None, user="1", **section):
    path = collection(folder / "ml", ratings, MOVIES, tags)
    return read(path, **section).profiles[user]


def test_a_genre_weighs_what_its_films_are_above_the_mean_shrunk_where_they_are_few(tmp_path):
    # Mean (5 + 4 + 1.5 + 4.5) / 4 = 3.75. Drama: (5 - 3.75 + 4 - 3.75) / (2 + 5) = 1.5 / 7 = 0.2143;
    # War: 0.25 / (1 + 5) = 0.0417; Comedy: -2.25 / 6 = -0.375. Horror is held out, film 4 has no genre.
    assert list(profile(tmp_path).features.items()) == [
        ("Drama", 0.2143),
        ("War", 0.0417),
        ("Comedy", -0.375),
    ]


def test_the_text_names_the_films_liked_last(tmp_path):
    assert profile(tmp_path).text == "One (1990); Two (1990); Four (1990)"


def test_rows_name_the_favourite_genre(tmp_path):
    data = read(collection(tmp_path / "ml", RATINGS, MOVIES))
    assert {record.preference_group for record in (*data.train, *data.eval)} == {"Drama"}


def test_who_likes_all_alike_has_weights_of_zero_with_the_most_watched_genre_first(tmp_path):
    ratings = [(user, film, 4.0, time) for user, film, _, time in RATINGS]
    # (1, 6) is held out; two dramas, one of war, one comedy.
    assert list(profile(tmp_path, ratings).features.items()) == [
        ("Drama", 0.0),
        ("Comedy", 0.0),
        ("War", 0.0),
    ]


@pytest.fixture
def frequent_tags(monkeypatch):
    monkeypatch.setattr("pgrpo_cli.data.sources.movielens.films.LEAST_FILMS", 2)


TAGS = [
    (9, 1, " Slow  Burn", 5),
    (9, 3, "slow burn", 39),
    (8, 3, "slow burn", 70),
    (9, 2, "loud", 59),
    (9, 4, "loud", 61),
    (9, 1, "rare", 5),
]


def test_tags_that_films_had_by_then_weigh_like_genres(tmp_path, frequent_tags):
    # Slow burn: films 1 and 3: (1.25 - 2.25) / (2 + 5) = -0.1429. Loud: before 60 only film 2: 0.25 / 6.
    # Rare is of one film.
    features = profile(tmp_path, tags=TAGS).features
    assert {name: weight for name, weight in features.items() if name.startswith("tag: ")} == {
        "tag: slow burn": -0.1429,
        "tag: loud": 0.0417,
    }


def test_no_more_tags_than_asked_for_those_of_most_films_first(tmp_path, frequent_tags):
    tags = [*TAGS, (9, 5, "loud", 1)]
    assert [name for name in profile(tmp_path, tags=tags, tags_=1).features if "tag" in name] == ["tag: loud"]
    assert not [name for name in profile(tmp_path, tags=tags, tags_=0).features if "tag" in name]


def test_broken_tags_are_named(tmp_path, frequent_tags):
    tags = [
        *TAGS,
        (9, 99, "far", 5),
        (9, 1, "bad", 5_000_000_000),
        (9, 1, "x" * 50, 5),
        (9, 1, "\x07", 5),
    ]
    data = read(collection(tmp_path / "ml", RATINGS, MOVIES, tags))
    assert [(row.where, row.reason) for row in data.rejected] == [
        ("ml/tags.csv:8", "film is not in the collection's table of films"),
        ("ml/tags.csv:9", "time is no number of seconds since 1970"),
    ]


def test_a_line_that_is_no_tag_is_refused(tmp_path, frequent_tags):
    with pytest.raises(DataError, match=r"ml/tags\.csv:8 is '9,1,bad,x'; a tag is a user, a film, a text"):
        read(collection(tmp_path / "ml", RATINGS, MOVIES, [*TAGS, (9, 1, "bad", "x")]))


# User 1 likes dramas most: mean 3.8, Drama (1.2 + 0.2) / 7, Horror 0.2 / 6, with all of the ratings.
OLD_USER = [*RATINGS[:-1], (1, 6, 4.0, 60)]
# User 2 is new after the cut and likes horror most: mean 4.25, Horror 0.75 / 6, Drama -0.25 / 6.
NEW_USER = [(2, film, 5.0 if film == 6 else 4.0, 100 + time) for _, film, _, time in RATINGS if film != 1] + [
    (2, 1, 4.5, 300)
]


@pytest.mark.parametrize(("from_rows", "group"), [(True, "Drama"), (False, "Horror")])
def test_held_out_users_join_a_preference_group_that_has_training_prompts(tmp_path, from_rows, group):
    path = collection(tmp_path / "ml", [*OLD_USER, *NEW_USER], MOVIES)
    data = read(path, holdout="cut", cut=0.5, history=4, groups_from_rows=from_rows)
    assert {record.preference_group for record in data.train} == {"Drama"}
    assert [(record.user_id, record.preference_group) for record in data.eval] == [("2", group)]


def test_a_held_out_user_with_none_of_their_genres_is_left_out(tmp_path):
    new = [(2, 3, 5.0, 100), (2, 6, 5.0, 101), (2, 5, 4.0, 102)]
    path = collection(tmp_path / "ml", [*OLD_USER, *new], MOVIES)
    data = read(path, holdout="cut", cut=0.65)
    assert data.eval == ()
    assert [(row.where, row.reason) for row in data.rejected] == [
        ("ml/ratings.csv:9", "preference group without training prompts")
    ]
