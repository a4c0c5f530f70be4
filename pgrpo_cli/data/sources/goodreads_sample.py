"""Goodreads reviews, read line by line and drawn reader by reader: memory holds the sample only.

The columns are those of the UCSD Book Graph (https://mengtingwan.github.io/data/goodreads.html): `user_id`,
`book_id`, `review_id`, `rating` (0: none), `review_text`, `date_added` and others in
goodreads_reviews_*.json.gz; in goodreads_interactions_*.json.gz the text is `review_text_incomplete`.
"""

from __future__ import annotations

import codecs
import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.row_problem import LeftOut, RowProblem
from pgrpo_cli.paths import shown
from pgrpo_cli.recipe.public_sets import GoodreadsSource
from pgrpo_cli.seeding import derive_seed

from .files import file_name, opened
from .json_text import parse_line
from .rejections import Rejections
from .text_lines import bounded

MAX_ID = 100
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# 'Fri Apr 19 08:15:15 -0700 2013', whatever the locale.
_DATE = re.compile(
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d) (\d{4})", re.ASCII
)


@dataclass(frozen=True)
class Review:
    """One review. `time` is in seconds since 1970, `rating` 1 to 5 stars."""

    user_id: str
    book_id: str
    review_id: str
    rating: int
    text: str
    time: int
    file: str
    line: int


def sampled_reviews(
    section: GoodreadsSource, paths: list[Path], recipe_dir: Path, seed: int, rejections: Rejections
) -> list[list[Review]]:
    """The reviews of each reader in the order of time, `section.max_rows` in all.

    Readers are taken in the order of a seeded hash, with all of their reviews; the last one brings as many of
    the earliest as there is room for. So the order of lines and files does not matter. A review that stands
    there twice, as in the files of two genres, counts once.
    """
    sample = ReaderSample(section.max_rows, seed)
    for path in paths:
        name = file_name(path, recipe_dir)
        for line, content in lines(path):
            rejections.looked_at(name)
            try:
                sample.add(_review(parse_line(content), section, name, line))
            except RowProblem as problem:
                text = content[:500].decode("utf-8", errors="backslashreplace")
                left_out = isinstance(problem, LeftOut)
                rejections.add(
                    RejectedRow(problem.reason, problem.detail, name, line, row=text, left_out=left_out)
                )
    return sample.readers()


class ReaderSample:
    """The first readers in the order of a hash whose reviews are `size` or more together; None: all.

    A reader who is not among them drops out as soon as that is known: whoever comes before has enough, and
    reviews are only added.
    """

    def __init__(self, size: int | None, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._reviews: dict[tuple[int, str], dict[str, Review]] = {}
        # The reader who would drop out first is on top.
        self._heap: list[tuple[int, str]] = []
        self._count = 0
        self._dropped: tuple[int, str] | None = None

    def add(self, review: Review) -> None:
        key = -derive_seed(self._seed, "reader", review.user_id), review.user_id
        if self._dropped is not None and key <= self._dropped:
            return
        if key not in self._reviews:
            self._reviews[key] = {}
            heapq.heappush(self._heap, key)
        before = len(self._reviews[key])
        self._reviews[key].setdefault(review.review_id, review)
        self._count += len(self._reviews[key]) - before
        while self._size is not None and self._count - len(self._reviews[self._heap[0]]) >= self._size:
            self._dropped = heapq.heappop(self._heap)
            self._count -= len(self._reviews.pop(self._dropped))

    def readers(self) -> list[list[Review]]:
        """The readers in the order of the hash."""
        left = self._count if self._size is None else self._size
        found = []
        for _, reviews in sorted(self._reviews.items(), reverse=True):
            in_time = sorted(reviews.values(), key=lambda review: (review.time, review.review_id))
            found.append(in_time[:left])
            left -= len(found[-1])
        return found


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of each line that is not blank. Raises DataError."""
    with opened(path) as file:
        for number, line in enumerate(bounded(file.readline, shown(path)), start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


def text_of(row: dict[str, Any], *columns: str) -> str:
    """The first of the columns that has text, without space around it; '' where none has."""
    for column in columns:
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            # Half a surrogate pair is no text that can be stored.
            return value.encode("utf-8", errors="replace").decode().strip()
    return ""


def id_of(row: dict[str, Any], column: str) -> str:
    """An id; numbers are taken too. Raises RowProblem."""
    value = row.get(column)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else text_of(row, column)
    if not text or len(text) > MAX_ID or not text.isprintable():
        found = "missing" if column not in row else repr(value)[:60]
        raise RowProblem(f"no {column}", f"column {column!r} is {found}")
    return text


def _review(row: dict[str, Any], section: GoodreadsSource, file: str, line: int) -> Review:
    user_id, book_id, review_id = (id_of(row, column) for column in ("user_id", "book_id", "review_id"))
    rating = row.get("rating")
    if not isinstance(rating, int) or isinstance(rating, bool) or not 0 <= rating <= 5:
        raise RowProblem("rating is no whole number from 0 to 5", f"column 'rating' is {repr(rating)[:60]}")
    time = _time(row.get("date_added"))
    if rating == 0:
        raise LeftOut("review without a rating", "column 'rating' is 0")
    text = text_of(row, "review_text", "review_text_incomplete")
    words = len(text.split())
    if words < section.min_words:
        raise LeftOut("review shorter than data.source.min_words", f"{words} words")
    if words > section.max_words:
        raise LeftOut("review longer than data.source.max_words", f"{words} words")
    return Review(user_id, book_id, review_id, rating, text, time, file, line)


def _time(value: Any) -> int:
    match = _DATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] not in MONTHS:
        example = "Fri Apr 19 08:15:15 -0700 2013"
        raise RowProblem(
            "date_added is no date", f"column 'date_added' is {repr(value)[:60]}; it must be like {example!r}"
        )
    day, hour, minute, second, hours, minutes, year = (int(match[i]) for i in (2, 3, 4, 5, 7, 8, 9))
    offset = timedelta(hours=hours, minutes=minutes)
    try:
        zone = timezone(offset if match[6] == "+" else -offset)
        moment = datetime(year, MONTHS.index(match[1]) + 1, day, hour, minute, second, tzinfo=zone)
        return int(moment.timestamp())
    except (ValueError, OverflowError) as error:
        raise RowProblem("date_added is no date", f"column 'date_added' is {value!r}: {error}") from error
