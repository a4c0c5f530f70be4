"""The source as a whole: equal layouts, candidates, real data where they are at hand."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.movielens import read_movielens
from pgrpo_cli.recipe.public_sets import MovielensSource
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.movielens import collection, read
from tests.support.tokenizer import byte_tokenizer

RATINGS = [
    (user, 1 + (7 * user + 5 * day) % 41, 5.0 if (user + day) % 3 else 2.0, 1000 * day + user)
    for user in range(1, 9)
    for day in range(1, 13)
]


@pytest.mark.parametrize("style", ["dat", "csv.zip", "dat.zip"])
def test_the_same_ratings_give_the_same_prompts_in_every_layout(tmp_path, style):
    def unplaced(records):
        return [replace(record, file=None, line=None) for record in records]

    first = read(collection(tmp_path / "a", RATINGS))
    second = read(collection(tmp_path / "b", RATINGS, style=style))
    assert len(first.train) > 20
    assert unplaced(first.train) == unplaced(second.train)
    assert unplaced(first.eval) == unplaced(second.eval)
    assert first.profiles == second.profiles
    header = 0 if style.startswith("dat") else 1
    for record in second.train:
        user, day = int(record.user_id), int(record.time) // 1000
        assert record.line == header + 12 * (user - 1) + day


def test_the_same_seed_gives_the_same_prompts_and_another_one_others(tmp_path):
    path = collection(tmp_path / "ml", RATINGS)
    assert read(path, seed=3) == read(path, seed=3)
    assert read(path, seed=3).train != read(path, seed=4).train


def test_candidates_are_films_that_others_have_rated_by_then(tmp_path):
    # Films 1 to 20 are rated before 2000 by user 2, films 21 to 40 after 9000; the target's time is 5000.
    early = [(2, film, 5.0, 1000 + film) for film in range(1, 21)]
    late = [(3, film, 5.0, 9000 + film) for film in range(21, 41)]
    ours = [(1, film, 5.0, time) for film, time in ((41, 4000), (42, 4500), (43, 5000), (44, 6000))]
    data = read(collection(tmp_path / "ml", [*early, *late, *ours]), candidates=10)
    (record,) = [record for record in data.train if record.user_id == "1"]
    others = set(record.columns["candidates"]) - {record.columns["target"]}
    assert record.columns["target"] == "Film 43, The (1990)"
    assert others < {f"Film {film}, The (1990)" for film in range(1, 21)}
    assert len(others) == 9


def test_candidates_come_as_often_as_they_were_rated(tmp_path):
    # Every user rates film 1 of ten times as many ratings as each of the films 2 to 21 gets.
    popular = [(user, 1, 3.0, user) for user in range(100, 300)]
    rare = [(user, 2 + user % 20, 3.0, user) for user in range(100, 300)]
    ours = [(user, film, 5.0, 1000 + film) for user in range(1, 81) for film in range(50, 54)]
    data = read(collection(tmp_path / "ml", [*popular, *rare, *ours]), candidates=2, prompts_per_user=1)
    chosen = Counter(title for record in data.train for title in record.columns["candidates"])
    # Film 1 has 200 of 400 ratings, each of the others 10.
    assert len(data.train) == 80
    assert 25 <= chosen["Film 1, The (1990)"] <= 55
    assert max(chosen[f"Film {film}, The (1990)"] for film in range(2, 22)) <= 10


def test_candidates_are_of_the_target_s_days(tmp_path, monkeypatch):
    # Otherwise the newest film would mostly be the target.
    monkeypatch.setattr("pgrpo_cli.data.sources.movielens.users.RECENT", 30, raising=False)
    # 100 ratings of films 1 to 20, then 30 of films 21 to 40; the target comes after.
    early = [(user, film, 5.0, 1000 + film) for user in range(2, 7) for film in range(1, 21)]
    recent = [(8, film, 5.0, 2000 + film) for film in range(21, 41)]
    recent += [(9, film, 5.0, 2000 + film) for film in range(21, 31)]
    ours = [(1, film, 5.0, time) for film, time in ((41, 10), (42, 20), (43, 5000), (44, 6000))]
    data = read(collection(tmp_path / "ml", [*early, *recent, *ours]), candidates=10)
    (record,) = [record for record in data.train if record.user_id == "1"]
    others = set(record.columns["candidates"]) - {record.columns["target"]}
    assert record.columns["target"] == "Film 43, The (1990)"
    assert others < {f"Film {film}, The (1990)" for film in range(21, 41)}
    assert len(others) == 9


def test_the_target_is_at_any_place_among_the_candidates(tmp_path):
    data = read(collection(tmp_path / "ml", RATINGS), candidates=4, prompts_per_user=99)
    places = Counter(record.columns["candidates"].index(record.columns["target"]) for record in data.train)
    assert places.keys() == {0, 1, 2, 3}
    assert max(places.values()) < 0.5 * len(data.train)


def test_a_collection_with_few_films_gives_fewer_candidates(tmp_path):
    ratings = [(1, film, 5.0, film) for film in (1, 2, 3, 4)] + [(2, 9, 1.0, 1), (2, 3, 1.0, 9)]
    (record,) = read(collection(tmp_path / "ml", ratings), candidates=10).train
    assert sorted(record.columns["candidates"]) == ["Film 3, The (1990)", "Film 9, The (1990)"]


def test_films_listed_twice_are_one_candidate(tmp_path):
    movies = [
        (film, "Same (1990)" if film in (3, 8, 9) else f"Film {film} (1990)", "Drama")
        for film in range(1, 13)
    ]
    ratings = [(1, film, 5.0, film) for film in (1, 2, 3, 4)] + [(2, film, 1.0, 0) for film in range(6, 13)]
    (record,) = read(collection(tmp_path / "ml", ratings, movies), candidates=12).train
    assert record.columns["target"] == "Same (1990)"
    assert sorted(record.columns["candidates"]) == sorted(
        {title for film, title, _ in movies if film in (3, 6, 7, 10, 11, 12)}
    )


def test_without_candidates_the_title_is_asked_for(tmp_path):
    data = read(collection(tmp_path / "ml", RATINGS), candidates=None)
    record = data.train[0]
    assert "candidates" not in record.columns
    assert record.columns.keys() == {"target", "genres", "watched"}
    assert record.messages[-1]["content"].splitlines()[-1] == (
        "Which film will I watch next and like? Answer with its title only."
    )
    assert record.columns["target"].partition(",")[0] not in record.messages[-1]["content"]


def test_two_users_alike_do_not_share_a_text_between_the_halves(tmp_path):
    # User 2 rates what user 1 does and stops earlier: what they leave held out, user 1 trains on.
    ratings = [(1, film, 5.0, film) for film in range(1, 9)] + [(2, film, 5.0, film) for film in range(1, 6)]
    data = read(collection(tmp_path / "ml", ratings), candidates=None, prompts_per_user=99)
    texts = {record.messages[-1]["content"] for record in data.train}
    assert {record.user_id for record in data.eval} == {"1"}
    assert not texts & {record.messages[-1]["content"] for record in data.eval}
    assert [(row.line, row.reason) for row in data.rejected] == [(14, "the same text is in training too")]
    # 8 + 5 ratings, 8 films.
    assert all(row.left_out for row in data.rejected)
    assert data.rows == {"ml/ratings.csv": 13, "ml/movies.csv": 8}


def recipe(path, **source):
    return Recipe.model_validate(
        {
            "name": "test",
            "model": {"id": "random"},
            "data": {"source": {"type": "movielens", "path": path, "history": 2, "min_ratings": 2} | source},
            "rewards": [{"type": "length", "max": 5}],
        }
    )


def test_the_collection_prepares(tmp_path):
    collection(tmp_path / "ml", RATINGS)
    report = prepare_data(recipe("ml", candidates=3), tmp_path / "run", tmp_path, byte_tokenizer())
    assert report.rejected == {}
    assert (report.train_prompts, report.eval_prompts) == (32, 8)


def small_collection() -> Path:
    """MovieLens latest-small: PGRPO_MOVIELENS_SMALL, or the shared folder beside the checkout."""
    beside = Path(__file__).parents[4] / "../shared/data/ml-latest-small"
    path = Path(os.environ.get("PGRPO_MOVIELENS_SMALL", beside)).resolve()
    if not (path / "ratings.csv").is_file():
        pytest.skip("MovieLens latest-small is not here; PGRPO_MOVIELENS_SMALL names its folder")
    return path


@pytest.mark.parametrize("holdout", ["last", "cut"])
def test_latest_small(holdout):
    path = small_collection()
    section = MovielensSource(path=str(path), holdout=holdout)
    data = read_movielens(section, ReadContext(path.parent))
    assert len(data.train) > 2000
    assert len(data.eval) > (500 if holdout == "last" else 50)
    assert len({record.user_id for record in data.train}) > 500
    assert {len(record.columns["candidates"]) for record in data.train} == {10}
    # By chance one in ten candidates is at each place.
    places = Counter(record.columns["candidates"].index(record.columns["target"]) for record in data.train)
    assert max(places.values()) < 1.5 * len(data.train) / 10
    # So is the newest of the ten right, if not much more often.
    years = [[title[-6:] for title in record.columns["candidates"]] for record in data.train]
    newest = [
        (record.columns["target"][-6:] == max(of_one)) / of_one.count(max(of_one))
        for record, of_one in zip(data.train, years, strict=True)
    ]
    assert sum(newest) / len(newest) < 0.15
    assert not [row for row in data.rejected if row.reason.startswith("not ")]
    assert "tag: atmospheric" in {name for profile in data.profiles.values() for name in profile.features}
