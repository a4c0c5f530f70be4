"""What is held out is seen by nothing that is trained on: by user, and by a cut through everyone's time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgrpo_cli.errors import DataError
from tests.support.movielens import collection, films, read

NUM_FILMS = 12
# Times from a small range, so that films of the same second are the rule and not the exception.
RATINGS = st.dictionaries(
    st.tuples(st.integers(1, 5), st.integers(1, NUM_FILMS)),
    st.tuples(st.sampled_from([1.0, 3.5, 4.0, 5.0]), st.integers(0, 15)),
    min_size=20,
    max_size=60,
).map(lambda found: [(user, film, stars, time) for (user, film), (stars, time) in found.items()])
TAGS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, NUM_FILMS), st.sampled_from("xyz"), st.integers(0, 15)),
    max_size=30,
)
MOVIES = films(NUM_FILMS)


def title(film):
    return f"Film {film}, The (1990)"


def prepared(folder, ratings, tags=None, **section):
    """What the source reads, or None where nothing can be trained on."""
    path = collection(folder, ratings, MOVIES, tags)
    try:
        return read(path, **section)
    except DataError as error:
        assert "can be a target of training" in str(error)
        return None


def stars_of(stars, time):
    return f": {stars:g} star" + "s" * (stars != 1)


def cut_of(ratings, share):
    times = sorted(time for *_, time in ratings)
    return times[min(int(share * len(times)), len(times) - 1)]


def held_out_from(data):
    """The time of each user's first held-out target."""
    times = {}
    for record in data.eval:
        times[record.user_id] = min(record.time, times.get(record.user_id, record.time))
    return times


@pytest.fixture(autouse=True)
def frequent_tags(monkeypatch):
    monkeypatch.setattr("pgrpo_cli.data.sources.movielens.films.LEAST_FILMS", 1)


@settings(max_examples=50)
@given(RATINGS, st.sampled_from(["last", "cut"]), st.integers(1, 3), st.integers(0, 3))
def test_prompts_show_only_what_the_user_rated_before(tmp_path_factory, ratings, holdout, held_out, seed):
    data = prepared(
        tmp_path_factory.mktemp("ml"),
        ratings,
        holdout=holdout,
        cut=0.7,
        eval_prompts_per_user=held_out,
        seed=seed,
    )
    assume(data is not None)
    rated = {(str(user), title(film)): (stars, time) for user, film, stars, time in ratings}
    first_held_out = held_out_from(data)
    cut = cut_of(ratings, 0.7)
    for part, records in (("train", data.train), ("eval", data.eval)):
        for record in records:
            stars, time = rated[record.user_id, record.columns["target"]]
            assert (stars >= 4, time) == (True, record.time)
            times = [rated[record.user_id, watched][1] for watched in record.columns["watched"]]
            earlier = [
                other for (user, _), (_, other) in rated.items() if user == record.user_id and other < time
            ]
            # The latest two before it, in order; those of the same second are in no order.
            assert times == sorted(earlier)[-2:]
            if part == "train":
                assert time < first_held_out.get(record.user_id, float("inf"))
            if holdout == "cut":
                assert (time < cut) == (part == "train")
            candidates = record.columns["candidates"]
            assert len(candidates) == len(set(candidates))
            assert candidates.count(record.columns["target"]) == 1
            by_then = {
                name for (user, name), (_, other) in rated.items() if user == record.user_id and other <= time
            }
            assert set(candidates) & by_then == {record.columns["target"]}
            text = record.messages[-1]["content"]
            shown = [*record.columns["watched"], *candidates]
            assert [line for line in text.split("\n") if line.startswith("- ")] == [
                "- The "
                + name.replace(", The", "")
                + (stars_of(*rated[record.user_id, name]) if i < 2 else "")
                for i, name in enumerate(shown)
            ]


@given(RATINGS, TAGS, st.sampled_from(["last", "cut"]), st.randoms(use_true_random=False), st.integers(1, 2))
def test_training_does_not_depend_on_what_is_held_out(
    tmp_path_factory, ratings, tags, holdout, random, held_out
):
    """Other films and stars from a user's first held-out moment on, or from the cut on: the same training."""
    section = {"holdout": holdout, "cut": 0.7, "eval_prompts_per_user": held_out, "min_ratings": 3}
    before = prepared(tmp_path_factory.mktemp("ml"), ratings, tags, **section)
    assume(before is not None)
    limits = dict.fromkeys({str(user) for user, *_ in ratings}, float("inf")) | held_out_from(before)
    if holdout == "cut":
        limits = dict.fromkeys(limits, cut_of(ratings, 0.7))
    changed, kept = [], {(user, film) for user, film, _, time in ratings if time < limits[str(user)]}
    for user, film, stars, time in ratings:
        if time >= limits[str(user)]:
            film = random.choice([other for other in range(1, NUM_FILMS + 1) if (user, other) not in kept])
            kept.add((user, film))
            stars = random.choice([4.0, 4.5, 5.0]) if stars >= 4 else random.choice([0.5, 3.0])
        changed.append((user, film, stars, time))
    later_tags = [
        (user, random.randrange(1, NUM_FILMS + 1) if time >= min(limits.values()) else film, tag, time)
        for user, film, tag, time in tags
    ]
    if holdout == "last":
        # Which tags are frequent is told by all of them; what they say of a user only by the earlier ones.
        later_tags = tags
    after = prepared(tmp_path_factory.mktemp("ml"), changed, later_tags, **section)
    assert after.train == tuple(
        replace(record, file=ours.file, line=ours.line)
        for record, ours in zip(before.train, after.train, strict=True)
    )
    trained = {record.user_id for record in before.train}
    assert {user: after.profiles[user] for user in trained} == {
        user: before.profiles[user] for user in trained
    }


@settings(max_examples=50)
@given(RATINGS, st.sampled_from(["last", "cut"]), st.integers(1, 3), st.integers(1, 3))
def test_no_user_has_more_prompts_than_asked_for(tmp_path_factory, ratings, holdout, train, held_out):
    data = prepared(
        tmp_path_factory.mktemp("ml"),
        ratings,
        holdout=holdout,
        prompts_per_user=train,
        eval_prompts_per_user=held_out,
    )
    assume(data is not None)
    for records, most in ((data.train, train), (data.eval, held_out)):
        moments = [(record.user_id, record.time) for record in records]
        # Films of the same second would have the same prompt.
        assert len(moments) == len(set(moments))
        assert all(sum(user == other for other, _ in moments) <= most for user, _ in moments)
    ids = [record.prompt_id for record in (*data.train, *data.eval)]
    assert len(ids) == len(set(ids))
    assert data.profiles.keys() >= {record.user_id for record in (*data.train, *data.eval)}
    assert {record.preference_group for record in data.eval} <= {
        record.preference_group for record in data.train
    }


@settings(max_examples=50)
@given(RATINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_only_the_lines(tmp_path_factory, ratings, random):
    first = prepared(tmp_path_factory.mktemp("ml"), ratings)
    assume(first is not None)
    shuffled = list(ratings)
    random.shuffle(shuffled)
    second = prepared(tmp_path_factory.mktemp("ml"), shuffled)

    def unplaced(records):
        return [replace(record, line=None, file=None) for record in records]

    assert unplaced(first.train) == unplaced(second.train)
    assert unplaced(first.eval) == unplaced(second.eval)
    assert first.profiles == second.profiles


# User 1 rates a film a day, user 2 likewise from day 6 on.
DAYS = [(1, day, 5.0, day) for day in range(1, 9)] + [(2, day, 4.0, day) for day in range(6, 12)]


def times(records, user):
    return [record.time for record in records if record.user_id == user]


def test_each_users_last_targets_are_held_out(tmp_path):
    data = prepared(tmp_path / "ml", DAYS, prompts_per_user=99, eval_prompts_per_user=2)
    # Two films must come before a target: from day 3 on for user 1, from day 8 on for user 2.
    assert (times(data.train, "1"), times(data.eval, "1")) == ([3, 4, 5, 6], [7, 8])
    assert (times(data.train, "2"), times(data.eval, "2")) == ([8, 9], [10, 11])


def test_a_cut_holds_out_what_comes_first_after_it(tmp_path):
    # 14 ratings on days 1 to 5, two each on 6 to 8, 9 to 11; 7/14 of them precede the 8th, of day 7.
    section = {"holdout": "cut", "cut": 0.5, "prompts_per_user": 99, "groups_from_rows": False}
    data = prepared(tmp_path / "ml", DAYS, **section)
    assert (times(data.train, "1"), times(data.eval, "1")) == ([3, 4, 5, 6], [7])
    # User 2 has one rating before the cut and no target there; after it the first with two before is day 8's.
    assert (times(data.train, "2"), times(data.eval, "2")) == ([], [8])


def test_a_user_who_is_new_after_a_cut_is_known_by_what_precedes_the_target(tmp_path):
    # 14 ratings, of which the cut at 5/14 = day 6 has five before it, all user 1's.
    section = {"holdout": "cut", "cut": 5 / 14, "prompts_per_user": 99, "groups_from_rows": False}
    data = prepared(tmp_path / "ml", DAYS, **section)
    assert times(data.eval, "2") == [8]
    assert data.profiles["2"].text == "The Film 6 (1990); The Film 7 (1990)"
    assert data.profiles["1"].text == "; ".join(f"The Film {day} (1990)" for day in range(1, 6))


def test_users_are_drawn_by_the_seed_and_stay_when_more_are_drawn(tmp_path):
    ratings = [(user, film, 5.0, film) for user in range(1, 41) for film in range(1, 7)]

    def users(**section):
        return {record.user_id for record in prepared(tmp_path / "ml", ratings, **section).train}

    five = users(max_users=5)
    assert len(five) == 5
    assert five < users(max_users=10)
    assert five != users(max_users=5, seed=1)
    assert len(users(max_users=100)) == len(users()) == 40


def test_users_who_are_not_drawn_are_told(tmp_path):
    ratings = [(user, film, 5.0, film) for user in range(1, 41) for film in range(1, 7)]
    told = "Users: 5 of 40, drawn at random (data.source.max_users)."
    assert prepared(tmp_path / "ml", ratings, max_users=5).notes == (told,)
    for everyone in (40, 41, None):
        assert prepared(tmp_path / "ml", ratings, max_users=everyone).notes == ()


def test_users_without_targets_are_counted_with_their_reason(tmp_path):
    low = [(3, film, 3.5, film) for film in range(1, 7)]
    data = prepared(tmp_path / "ml", [*DAYS, *low, (4, 1, 5.0, 1), (4, 2, 5.0, 2)], min_ratings=3)
    assert [(row.reason, row.detail) for row in data.rejected] == [
        ("user with too few ratings", "user 4 has 2, min_ratings is 3"),
        ("user without a target", "user 3 has no film of 4 stars or more with 2 before it"),
    ]
    assert all(row.left_out for row in data.rejected)


def test_nothing_to_train_on_is_an_error_with_the_settings_to_change(tmp_path):
    path = collection(tmp_path / "ml", DAYS)
    with pytest.raises(DataError) as caught:
        read(path, history=7)
    message = str(caught.value)
    assert (
        "of 2 users none has 2 ratings and, before what is held out, a film of 4 stars or more with 7"
        in message
    )
    assert "Lower data.source.min_ratings, min_rating or history." in message
    with pytest.raises(DataError, match=r"raise data\.source\.cut"):
        read(path, holdout="cut", cut=0.01)
