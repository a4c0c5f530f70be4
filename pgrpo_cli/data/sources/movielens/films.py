"""MovieLens films: titles, as a person writes them too, genres, and which films have which frequent tags."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.errors import DataError

from .collection import Layout, TableFile, lines
from .ratings import MAX_ID, MAX_TIME

HEADER = ["movieId", "title", "genres"]
# What stands there instead of a genre in the newer collections.
NO_GENRES = "(no genres listed)"
MAX_TITLE = 300

# MovieLens puts the articles of several languages behind the title and behind the ones in brackets.
_ARTICLES = (
    "The|A|An|Le|La|Les|Un|Une|El|Los|Las|Il|Lo|Gli|I|Der|Die|Das|Den|Det|Ein|Eine|En|Ett|De|Het|O|Os|As"
)
_ARTICLE_BEHIND = re.compile(rf"(^|\()([^()]+), (L'|{_ARTICLES})(?=\)| \(|$)")

TAG_HEADER = ["userId", "movieId", "tag", "timestamp"]
# A tag of fewer films tells little of a taste.
LEAST_FILMS = 10
MAX_TAG = 40
PREFIX = "tag: "


@dataclass(frozen=True)
class Films:
    """F films in the order of their ids, and K genres in alphabetical order.

    `titles` are MovieLens's, `shown` the same with articles in front; `has_genre_FK` says which has which.
    """

    ids_F: NDArray[np.int32]
    titles: tuple[str, ...]
    shown: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    genre_names: tuple[str, ...]
    has_genre_FK: NDArray[np.bool_]


def read_films(table: TableFile, layout: Layout, rejections: Rejections) -> Films:
    """All films; broken rows go to `rejections`. Raises DataError where none is left."""
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    for line, fields in rows_of(table, layout, HEADER, rejections):
        try:
            film_id = whole_number(fields[0], "film id")
            if film_id in found:
                raise RowProblem("film id twice", f"{film_id} is {found[film_id][0]!r} already")
            found[film_id] = (_title(fields[1]), _genres(fields[2]))
        except RowProblem as problem:
            row = layout.separator.join(fields)[:500]
            rejections.add(RejectedRow(problem.reason, problem.detail, table.name, line, row=row))
    if not found:
        raise DataError(
            f"{table.name} has no film: {rejections.first.detail if rejections.first else 'it is empty'}",
            remedy="Set data.source.path to a MovieLens collection as GroupLens gives it out.",
        )
    ids = sorted(found)
    titles = tuple(found[film_id][0] for film_id in ids)
    genres = tuple(found[film_id][1] for film_id in ids)
    names = tuple(sorted({genre for of_film in genres for genre in of_film}))
    has_genre = np.array([[name in of_film for name in names] for of_film in genres], dtype=bool)
    return Films(
        np.array(ids, dtype=np.int32), titles, tuple(map(shown_title, titles)), genres, names,
        has_genre.reshape(len(ids), len(names)),
    )  # fmt: skip


def shown_title(title: str) -> str:
    """'Matrix, The (1999)' as a person writes it: 'The Matrix (1999)'."""
    return _ARTICLE_BEHIND.sub(_article_first, title)


def rows_of(
    table: TableFile, layout: Layout, header: list[str], rejections: Rejections
) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of the rows of a table of text with as many fields as `header`."""
    for line, content in lines(table):
        rejections.looked_at(table.name)
        try:
            fields = _fields(content, layout.separator)
            if len(fields) != len(header):
                raise RowProblem(f"not {', '.join(header)}", f"{len(fields)} fields")
        except RowProblem as problem:
            text = content[:500].decode("utf-8", errors="backslashreplace")
            rejections.add(RejectedRow(problem.reason, problem.detail, table.name, line, row=text))
            continue
        if not (line == 1 and layout.header and fields == header):
            yield line, fields


def whole_number(text: str, what: str) -> int:
    """A positive one that fits an id. Raises RowProblem."""
    if not re.fullmatch(r"[0-9]{1,10}", text.strip()) or not 1 <= int(text) <= MAX_ID:
        raise RowProblem(f"{what} is no whole number", f"found {text[:60]!r}")
    return int(text)


def _fields(line: bytes, separator: str) -> list[str]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        if separator == ",":
            raise RowProblem(
                "not UTF-8", f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
            ) from error
        # 1M is in Latin-1, in which every byte is a character; 10M is in UTF-8.
        text = line.decode("latin-1")
    if separator != ",":
        return text.split(separator)
    try:
        # No title and no tag has a line end in it, so that an open quote costs its own line only.
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise RowProblem("not CSV", str(error)) from error


def _title(text: str) -> str:
    title = text.strip()
    if not title or not title.isprintable() or len(title) > MAX_TITLE:
        rule = f"a printable one of at most {MAX_TITLE} characters is needed"
        raise RowProblem("no title", f"found {title[:60]!r}; {rule}")
    return title


def _genres(text: str) -> tuple[str, ...]:
    names = (name.strip() for name in text.split("|"))
    return tuple(dict.fromkeys(name for name in names if name and name != NO_GENRES and name.isprintable()))


def _article_first(match: re.Match[str]) -> str:
    opening, name, article = match.groups()
    return f"{opening}{article}{name}" if article.endswith("'") else f"{opening}{article} {name}"


@dataclass(frozen=True)
class Tags:
    """V tags by number of films, named as in profiles, and the M pairs of a film and its tag.

    Pair i of film f has starts_F1[f] <= i < starts_F1[f + 1]; `since_M` is when someone first gave the tag.
    """

    names: tuple[str, ...]
    starts_F1: NDArray[np.int64]
    tag_M: NDArray[np.int32]
    since_M: NDArray[np.int64]


def read_tags(
    table: TableFile | None,
    layout: Layout,
    films: Films,
    most: int,
    until: int | None,
    rejections: Rejections,
) -> Tags:
    """The `most` tags that most films have, as they are given before `until` (None: at any time)."""
    codes: dict[str, int] = {}
    film, tag, since = array("i"), array("i"), array("q")
    positions = {film_id: position for position, film_id in enumerate(films.ids_F.tolist())}
    for line, fields in rows_of(table, layout, TAG_HEADER, rejections) if table else ():
        try:
            position, name, time = _tag_row(fields, positions)
        except RowProblem as problem:
            row = layout.separator.join(fields)[:500]
            file = table.name if table else None
            rejections.add(RejectedRow(problem.reason, problem.detail, file, line, row=row))
            continue
        if name is not None and (until is None or time < until):
            film.append(position)
            tag.append(codes.setdefault(name, len(codes)))
            since.append(time)
    return _most_frequent(list(codes), np.array(film), np.array(tag), np.array(since), len(films.ids_F), most)


def _tag_row(fields: list[str], positions: dict[int, int]) -> tuple[int, str | None, int]:
    """(film, tag or None where it is none to show, time)."""
    position = positions.get(whole_number(fields[1], "film id"))
    time = fields[3].strip()
    if not (time.isascii() and time.isdigit() and len(time) <= 10 and int(time) < MAX_TIME):
        raise RowProblem("time is no number of seconds since 1970", f"found {fields[3][:60]!r}")
    if position is None:
        raise RowProblem("film is not in the collection's table of films", f"found {fields[1][:60]!r}")
    name = " ".join(fields[2].casefold().split())
    return position, name if 0 < len(name) <= MAX_TAG and name.isprintable() else None, int(time)


def _most_frequent(
    names: list[str],
    film: NDArray[np.int32],
    tag: NDArray[np.int32],
    since: NDArray[np.int64],
    num_films: int,
    most: int,
) -> Tags:
    # The first of each film and tag, in the order of the films.
    order = np.lexsort((since, tag, film))
    film, tag, since = film[order], tag[order], since[order]
    first = np.ones(len(film), dtype=bool)
    first[1:] = (film[1:] != film[:-1]) | (tag[1:] != tag[:-1])
    film, tag, since = film[first], tag[first], since[first]
    counts = np.bincount(tag, minlength=len(names))
    frequent = [code for code in range(len(names)) if counts[code] >= LEAST_FILMS]
    chosen = sorted(frequent, key=lambda code: (-int(counts[code]), names[code]))[:most]
    rank = np.full(len(names), -1, dtype=np.int32)
    rank[chosen] = np.arange(len(chosen))
    kept = rank[tag] >= 0
    film, tag, since = film[kept], tag[kept], since[kept]
    starts = np.searchsorted(film, np.arange(num_films + 1))
    return Tags(tuple(f"{PREFIX}{names[code]}" for code in chosen), starts, rank[tag], since)
