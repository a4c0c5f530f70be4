"""Goodreads: write the review that a reader of that rating would, after earlier ones of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgrpo_cli.data.records import PromptRecord, RejectedRow, SourceData, UserProfile, without_held_out
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.recipe.public_sets import GoodreadsSource

from .context import ReadContext
from .files import hashed, matching_files
from .goodreads_sample import Review, id_of, lines, sampled_reviews, text_of
from .json_text import parse_line
from .rejections import Rejections

# Of a reader's earlier reviews the profile keeps so many characters, the latest ones.
PROFILE_CHARACTERS = 2000
MAX_TITLE = 300


@dataclass(frozen=True)
class Book:
    """What prompts say of a book; '' where it is not known."""

    title: str = ""
    description: str = ""


def read_goodreads(section: GoodreadsSource, context: ReadContext) -> SourceData:
    """The sampled reviews, reader by reader in the order of a hash.

    Every reader's last review is held out where one precedes it, unless training would have none of its
    rating. Where no reader has two, the source brings no split and no profiles. Raises DataError where files
    are missing or cannot be read.
    """
    paths = matching_files("path", section.path, context.recipe_dir)
    book_paths = []
    if section.books_path is not None:
        book_paths = matching_files("books_path", section.books_path, context.recipe_dir)
    rejections = Rejections()
    readers = sampled_reviews(section, paths, context.recipe_dir, context.seed, rejections)
    books = _books(book_paths, {review.book_id for reviews in readers for review in reviews})
    if book_paths:
        readers = [list(_with_book(reviews, books, rejections)) for reviews in readers]
    train, held_out = _split([reviews for reviews in readers if reviews], rejections)
    by_reader = {reviews[0].user_id: reviews for reviews in readers if reviews}
    records = {
        part: [_record(review, by_reader[review.user_id], books, section) for review in reviews]
        for part, reviews in (("train", train), ("eval", held_out))
    }
    split_here = any(reviews and reviews[0].time < reviews[-1].time for reviews in readers)
    files = tuple(hashed((*paths, *book_paths), context.recipe_dir))
    if not split_here:
        return SourceData(
            tuple(records["train"]), None, rejections.rows(), files, rows=rejections.rows_by_file
        )
    kept, leaks = without_held_out(records["train"], records["eval"])
    for row in leaks:
        rejections.add(row)
    return SourceData(
        tuple(kept),
        tuple(records["eval"]),
        rejections.rows(),
        files,
        _profiles(train),
        rows=rejections.rows_by_file,
    )


def _books(paths: list[Path], wanted: set[str]) -> dict[str, Book]:
    """The wanted ones of `goodreads_books_*.json.gz`. A row that is not a book is skipped."""
    books: dict[str, Book] = {}
    for path in paths:
        for _, content in lines(path):
            try:
                row = parse_line(content)
                book_id = id_of(row, "book_id")
            except RowProblem:
                continue
            title = text_of(row, "title_without_series", "title")
            if book_id in wanted and title and len(title) <= MAX_TITLE:
                books.setdefault(book_id, Book(title, text_of(row, "description")))
    return books


def _with_book(reviews: list[Review], books: Mapping[str, Book], rejections: Rejections) -> Iterator[Review]:
    for review in reviews:
        if review.book_id in books:
            yield review
        else:
            detail = f"book_id {review.book_id!r} is not in data.source.books_path with a title"
            rejections.add(
                RejectedRow("book without a title", detail, review.file, review.line, left_out=True)
            )


def _split(readers: list[list[Review]], rejections: Rejections) -> tuple[list[Review], list[Review]]:
    train: list[Review] = []
    held_out: list[Review] = []
    for reviews in readers:
        last = reviews[-1]
        earlier = [review for review in reviews if review.time < last.time]
        if not earlier:
            train += reviews
            continue
        train += earlier
        held_out.append(last)
        for review in reviews[len(earlier) : -1]:
            reason = "written in the same second as what is held out"
            detail = f"review_id {last.review_id}"
            rejections.add(RejectedRow(reason, detail, review.file, review.line, left_out=True))
    rated = {review.rating for review in train}
    train += [review for review in held_out if review.rating not in rated]
    return train, [review for review in held_out if review.rating in rated]


def _record(
    review: Review, of_reader: list[Review], books: Mapping[str, Book], section: GoodreadsSource
) -> PromptRecord:
    earlier = [other for other in of_reader if other.time < review.time]
    shown = earlier[-section.earlier_reviews :] if section.earlier_reviews else []
    book = books.get(review.book_id, Book())
    parts = [
        f"Earlier I gave {_named(books.get(other.book_id, Book()))} {other.rating} of 5 stars and wrote:\n"
        f"{other.text}"
        for other in shown
    ]
    description = book.description.split()
    if description and section.description_words:
        cut = "..." if len(description) > section.description_words else ""
        parts.append(f"About {_named(book)}:\n{' '.join(description[: section.description_words])}{cut}")
    parts.append(
        f"I gave {_named(book)} {review.rating} of 5 stars. Write my review of it, and nothing else."
    )
    columns = {"reference": review.text, "rating": review.rating, "title": book.title or None}
    return PromptRecord(
        f"review-{review.review_id}",
        ({"role": "user", "content": "\n\n".join(parts)},),
        _stars(review.rating),
        columns,
        review.user_id,
        float(review.time),
        review.file,
        review.line,
    )


def _profiles(train: list[Review]) -> dict[str, UserProfile]:
    """The share of each rating among a reader's reviews, and the latest of their texts."""
    by_reader: dict[str, list[Review]] = {}
    for review in train:
        by_reader.setdefault(review.user_id, []).append(review)
    profiles = {}
    for user_id, reviews in by_reader.items():
        counts = Counter(review.rating for review in reviews)
        features = {
            _stars(rating): round(count / len(reviews), 4) for rating, count in sorted(counts.items())
        }
        text = "\n".join(review.text for review in reviews)[-PROFILE_CHARACTERS:]
        profiles[user_id] = UserProfile(features, text)
    return profiles


def _named(book: Book) -> str:
    return f'"{book.title}"' if book.title else "a book"


def _stars(rating: int) -> str:
    return "1 star" if rating == 1 else f"{rating} stars"
