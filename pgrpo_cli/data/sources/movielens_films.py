"""MovieLens films: titles, as a person writes them too, and genres."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError

from .movielens_files import Layout, TableFile, lines
from .movielens_ratings import MAX_ID
from .rejections import Rejections

HEADER = ["movieId", "title", "genres"]
# What stands there instead of a genre in the newer collections.
NO_GENRES = "(no genres listed)"
MAX_TITLE = 300

# MovieLens puts the articles of several languages behind the title and behind the ones in brackets.
_ARTICLES = (
    "The|A|An|Le|La|Les|Un|Une|El|Los|Las|Il|Lo|Gli|I|Der|Die|Das|Den|Det|Ein|Eine|En|Ett|De|Het|O|Os|As"
)
_ARTICLE_BEHIND = re.compile(rf"(^|\()([^()]+), (L'|{_ARTICLES})(?=\)| \(|$)")


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
