from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.goodreads import read_goodreads
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.public_sets import GoodreadsSource
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.tokenizer import byte_tokenizer


def date(seconds):
    return datetime.fromtimestamp(seconds, UTC).strftime("%a %b %d %H:%M:%S +0000 %Y")


def review(user, book, rating=4, words="A fine book", seconds=0, **columns):
    """A row as the collection has them."""
    return {
        "user_id": user,
        "book_id": str(book),
        "review_id": f"{user}-{book}",
        "rating": rating,
        "review_text": words,
        "date_added": date(seconds),
        "date_updated": date(seconds),
        "read_at": "",
        "started_at": "",
        "n_votes": 0,
        "n_comments": 0,
    } | columns


def book(number, description="About things."):
    title = f"Book {number}"
    return {"book_id": str(number), "title": f"{title} (Series, #1)", "title_without_series": title} | {
        "description": description,
        "popular_shelves": [{"count": "3", "name": "to-read"}],
    }


def write(path, rows):
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))


def read(folder, rows, books=None, seed=0, name="goodreads_reviews_x.json.gz", **section):
    write(folder / name, rows)
    if books is not None:
        write(folder / "books.json.gz", books)
        section["books_path"] = "books.json.gz"
    settings = {"path": name, "min_words": 1} | section
    return read_goodreads(GoodreadsSource(**settings), ReadContext(folder, seed))


def text(record):
    return record.messages[-1]["content"]


# Ann writes three reviews, Bob two of the ratings that Ann trains on, Cid one.
ROWS = [
    review("ann", 1, 4, "ann one", 100),
    review("ann", 3, 4, "ann three", 300),
    review("bob", 2, 2, "bob two", 150),
    review("cid", 1, 5, "cid one", 50),
    review("ann", 2, 2, "ann two", 200),
    review("bob", 3, 4, "bob three", 250),
]


def test_the_last_review_of_a_reader_is_held_out_and_earlier_ones_are_shown(tmp_path):
    data = read(tmp_path, ROWS, [book(1), book(2, ""), book(3)])
    records = {record.prompt_id: record for record in (*data.train, *data.eval)}
    assert {record.prompt_id for record in data.eval} == {"review-ann-3", "review-bob-3"}
    assert {record.prompt_id for record in data.train} == {
        f"review-{name}" for name in ("ann-1", "ann-2", "bob-2", "cid-1")
    }
    assert text(records["review-ann-3"]) == (
        'Earlier I gave "Book 1" 4 of 5 stars and wrote:\nann one\n\n'
        'Earlier I gave "Book 2" 2 of 5 stars and wrote:\nann two\n\n'
        'About "Book 3":\nAbout things.\n\n'
        'I gave "Book 3" 4 of 5 stars. Write my review of it, and nothing else.'
    )
    assert text(records["review-bob-2"]) == (
        'I gave "Book 2" 2 of 5 stars. Write my review of it, and nothing else.'
    )
    ann = records["review-ann-3"]
    assert ann.columns == {"reference": "ann three", "rating": 4, "title": "Book 3"}
    assert (ann.preference_group, ann.user_id, ann.time) == ("4 stars", "ann", 300)
    assert (ann.file, ann.line) == ("goodreads_reviews_x.json.gz", 2)
    assert records["review-cid-1"].preference_group == "5 stars"
    assert data.rejected == ()
    assert [file.name for file in data.files] == ["goodreads_reviews_x.json.gz", "books.json.gz"]


def test_profiles_are_of_what_precedes_the_held_out_review(tmp_path):
    data = read(tmp_path, ROWS)
    assert data.profiles["ann"].features == {"2 stars": 0.5, "4 stars": 0.5}
    assert data.profiles["ann"].text == "ann one\nann two"
    assert data.profiles["bob"].features == {"2 stars": 1.0}


def test_settings_limit_what_a_prompt_shows(tmp_path):
    books = [book(1), book(2), book(3, "one two three four")]
    settings = {"earlier_reviews": 1, "description_words": 3}
    (ann,) = [record for record in read(tmp_path, ROWS, books, **settings).eval if record.user_id == "ann"]
    assert text(ann).startswith('Earlier I gave "Book 2" 2 of 5 stars and wrote:\nann two\n\nAbout "Book 3":')
    assert "one two three...\n" in text(ann)
    settings = {"earlier_reviews": 0, "description_words": 0}
    (ann,) = [record for record in read(tmp_path, ROWS, books, **settings).eval if record.user_id == "ann"]
    assert text(ann).startswith('I gave "Book 3"')


def test_without_books_no_title_is_named(tmp_path):
    (record,) = [record for record in read(tmp_path, ROWS).train if record.user_id == "cid"]
    assert text(record) == "I gave a book 5 of 5 stars. Write my review of it, and nothing else."
    assert record.columns["title"] is None


def test_a_book_that_the_books_do_not_have_is_named(tmp_path):
    data = read(tmp_path, ROWS, ["{", {"title": "x"}, book(1), {"book_id": "2", "title": " "}, book(3)])
    assert {(row.where, row.reason) for row in data.rejected} == {
        ("goodreads_reviews_x.json.gz:3", "book without a title"),
        ("goodreads_reviews_x.json.gz:5", "book without a title"),
    }
    # Bob's second review is the only one left: nothing precedes it.
    assert {record.prompt_id for record in data.eval} == {"review-ann-3"}


def test_a_rating_that_training_would_lack_is_not_held_out(tmp_path):
    rows = [*ROWS, review("dan", 1, 4, "dan one", 10), review("dan", 2, 1, "dan two", 20)]
    data = read(tmp_path, rows)
    assert "review-dan-2" in {record.prompt_id for record in data.train}
    assert {record.preference_group for record in data.eval} <= {
        record.preference_group for record in data.train
    }


def test_readers_with_one_review_each_bring_no_split(tmp_path):
    data = read(tmp_path, [review(f"user{i}", i) for i in range(5)])
    assert (len(data.train), data.eval, data.profiles) == (5, None, {})


def test_what_is_written_in_the_same_second_is_neither_shown_nor_trained_on(tmp_path):
    rows = [review("ann", i, 4, f"ann {i}", min(i, 3)) for i in range(1, 6)] + [review("bob", 9)]
    data = read(tmp_path, rows)
    assert {record.prompt_id for record in data.train} == {"review-ann-1", "review-ann-2", "review-bob-9"}
    (record,) = data.eval
    assert record.prompt_id == "review-ann-5"
    assert "ann 3" not in text(record)
    assert "ann 4" not in text(record)
    assert Counter(row.reason for row in data.rejected) == {
        "written in the same second as what is held out": 2
    }


def test_the_same_prompt_is_not_in_both_halves(tmp_path):
    rows = [review("ann", 1, 4, "same", 1), review("ann", 2, 4, "last", 2), review("bob", 3, 4, "same", 3)]
    rows += [review("bob", 4, 4, "middle", 4), review("bob", 5, 4, "end", 5)]
    # Without titles Ann's held-out prompt equals the one of Bob's second review.
    data = read(tmp_path, rows)
    assert not {text(record) for record in data.train} & {text(record) for record in data.eval}
    (row,) = data.rejected
    assert (row.line, row.reason, row.left_out) == (4, "text is held out for evaluation too", True)


BROKEN = [
    ("{", "not JSON"),
    ("[1]", "not a JSON object"),
    (review("", 1), "no user_id"),
    (review("x", 1, review_id=None), "no review_id"),
    (review("x", 1, book_id=True), "no book_id"),
    (review("x", 1, 6), "rating is no whole number from 0 to 5"),
    (review("x", 1, "4"), "rating is no whole number from 0 to 5"),
    (review("x", 1, True), "rating is no whole number from 0 to 5"),
    (review("x", 1, date_added=""), "date_added is no date"),
    (review("x", 1, date_added="Fri Foo 19 08:15:15 -0700 2013"), "date_added is no date"),
    (review("x", 1, date_added="Fri Feb 31 08:15:15 -0700 2013"), "date_added is no date"),
    (review("x", 1, date_added="Fri Feb 01 08:15:15 -0700 0000"), "date_added is no date"),
    (review("x", 1, date_added="Fri Feb 01 08:15:15 -9900 2013"), "date_added is no date"),
    (review("x", 1, date_added=17), "date_added is no date"),
    (review("x", 1, 0), "review without a rating"),
    (review("x", 1, 4, "one"), "review shorter than data.source.min_words"),
    (review("x", 1, 4, None), "review shorter than data.source.min_words"),
    (review("x", 1, 4, "one two three four five"), "review longer than data.source.max_words"),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN)
def test_a_broken_row_is_named_and_costs_no_other(tmp_path, row, reason):
    rows = [review("ann", 1), row, review("bob", 2), review("x", 1, 5, "good again", 9)]
    data = read(tmp_path, rows, min_words=2, max_words=4)
    assert {record.user_id for record in data.train} == {"ann", "bob", "x"}
    assert [(found.where, found.reason) for found in data.rejected] == [
        ("goodreads_reviews_x.json.gz:2", reason)
    ]
    # A review that is too short or long is in order, and so is one without stars.
    assert data.rejected[0].left_out == reason.startswith("review ")
    assert data.rows == {"goodreads_reviews_x.json.gz": 4}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Thu Jan 01 00:00:00 +0000 1970", 0),
        ("Wed Dec 31 16:00:00 -0800 1969", 0),
        ("Thu Jan 01 05:30:01 +0530 1970", 1),
        # 15,814 days after 1970 began: 43 years, 11 leap days and 108 days; 15:15:15 UTC.
        ("Fri Apr 19 08:15:15 -0700 2013", 15_814 * 86_400 + 15 * 3600 + 15 * 60 + 15),
    ],
)
def test_dates_have_a_zone(tmp_path, text, seconds):
    data = read(tmp_path, [review("ann", 1, date_added=text)])
    assert data.train[0].time == seconds


def test_interactions_are_read_too(tmp_path):
    row = review("ann", 1) | {"is_read": True, "review_text_incomplete": "It was go..."}
    del row["review_text"]
    data = read(tmp_path, [row, row | {"review_id": "b", "review_text_incomplete": ""}])
    assert [record.columns["reference"] for record in data.train] == ["It was go..."]
    assert [row.reason for row in data.rejected] == ["review shorter than data.source.min_words"]


def test_a_review_in_the_files_of_two_genres_counts_once(tmp_path):
    write(tmp_path / "r_a.json.gz", ROWS[:4])
    data = read(tmp_path, ROWS[2:], name="r_b.json.gz", path="r_*.json.gz")
    assert sorted(record.prompt_id for record in (*data.train, *data.eval)) == sorted(
        f"review-{row['review_id']}" for row in ROWS
    )


def test_a_missing_file_names_its_setting(tmp_path):
    with pytest.raises(DataError, match=r"data\.source\.path"):
        read(tmp_path, ROWS, path="gone*.gz")
    with pytest.raises(DataError, match=r"data\.source\.books_path"):
        read(tmp_path, ROWS, books_path="gone.gz")


READERS = st.lists(st.integers(1, 8), min_size=1, max_size=12)


@given(READERS, st.integers(1, 30), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_sample_is_of_whole_readers_and_does_not_depend_on_the_order(
    tmp_path_factory, readers, max_rows, seed, random
):
    rows = [
        review(f"user{user}", book, 1 + book % 5, f"words {book}", book)
        for user, count in enumerate(readers)
        for book in range(count)
    ]
    folder = tmp_path_factory.mktemp("reviews")
    first = read(folder, rows, seed=seed, max_rows=max_rows)
    random.shuffle(rows)
    second = read(folder, rows, seed=seed, max_rows=max_rows)

    def unplaced(records):
        return records and [replace(record, line=None) for record in records]

    assert unplaced(first.train) == unplaced(second.train)
    assert unplaced(first.eval) == unplaced(second.eval)
    taken = Counter(record.user_id for record in (*first.train, *(first.eval or ())))
    rejected = Counter(row.reason for row in first.rejected)
    assert taken.total() + rejected.total() == min(max_rows, len(rows))
    cut_short = [user for user, count in taken.items() if count < readers[int(user.removeprefix("user"))]]
    assert len(cut_short) <= 1 + rejected.total()
    larger = read(folder, rows, seed=seed, max_rows=max_rows + 5)
    assert {record.user_id for record in (*larger.train, *(larger.eval or ()))} >= taken.keys() - set(
        cut_short
    )


def test_what_is_not_sampled_is_not_kept(tmp_path):
    from pgrpo_cli.data.sources.goodreads_sample import ReaderSample, Review

    sample = ReaderSample(50, seed=0)
    most = 0
    for line in range(3000):
        sample.add(Review(f"user{line % 300}", "1", str(line), 4, "x", line, "f", line))
        most = max(most, sum(len(reviews) for reviews in sample._reviews.values()))
    # Fifty, and what the last reader brings beyond them.
    assert most <= 50 + 10
    assert [len(reviews) for reviews in sample.readers()] == [10] * 5


def test_the_collection_prepares(tmp_path):
    rows = [review(f"user{i % 7}", i, 1 + i % 5, f"words of review {i}", i) for i in range(60)]
    write(tmp_path / "r.json.gz", rows)
    source = {"type": "goodreads", "path": "r.json.gz", "min_words": 1}
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "model": {"id": "random"},
            "data": {"source": source},
            "rewards": [{"type": "length", "max": 5}],
        }
    )
    report = prepare_data(recipe, tmp_path / "run", tmp_path, byte_tokenizer())
    assert (report.train_prompts, report.eval_prompts, report.rejected) == (53, 7, {})
    assert {group.preference_group for group in report.groups} == {
        "1 star",
        *(f"{i} stars" for i in range(2, 6)),
    }
