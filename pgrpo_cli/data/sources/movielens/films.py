"""MovieLens films: titles, as a person writes them too, genres, and which films have which frequent tags."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.errors import DataError

from .collection import Layout, TableFile, read_table
from .ratings import MAX_ID, MAX_TIME

TYPES = {"movieId": "int64", "title": "string", "genres": "string"}
RULE = "a film is a number, a title and genres"
# What stands there instead of a genre in the newer collections.
NO_GENRES = "(no genres listed)"
MAX_TITLE = 300

# MovieLens puts the articles of several languages behind the title and behind the ones in brackets. All of
# them must be known to the reward `recommendation`, too (rewards/titles.py).
_ARTICLES = (
    "The|A|An|Le|La|Les|Un|Une|El|Los|Las|Il|Lo|Gli|I|Der|Die|Das|Den|Det|Ein|Eine|En|Ett|De|Het|O|Os|As"
)
_ARTICLE_BEHIND = re.compile(rf"(^|\()([^()]+), (L'|{_ARTICLES})(?=\)| \(|$)")

TAG_TYPES = {"userId": "int64", "movieId": "int64", "tag": "string", "timestamp": "int64"}
TAG_RULE = "a tag is a user, a film, a text and a time"
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
    """All films; rows with impossible values go to `rejections`. Raises DataError where none is left."""
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    for rows in read_table(table, layout, TYPES, RULE, rejections):
        problems: dict[int, tuple[str, str | None]] = {}
        columns = (rows.columns[name].tolist() for name in TYPES)
        for row, (film_id, title, genres) in enumerate(zip(*columns, strict=True)):
            title = title.strip()
            if not 1 <= film_id <= MAX_ID:
                problems[row] = "film id out of range", None
            elif film_id in found:
                problems[row] = "film id twice", f"{film_id} is {found[film_id][0]!r} already"
            elif not title or not title.isprintable() or len(title) > MAX_TITLE:
                rule = f"a printable one of at most {MAX_TITLE} characters is needed"
                problems[row] = "no title", f"found {title[:60]!r}; {rule}"
            else:
                found[film_id] = title, _genres(genres)
        for rejected in rows.rejected(problems):
            rejections.add(rejected)
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
    for rows in read_table(table, layout, TAG_TYPES, TAG_RULE, rejections) if table else ():
        problems: dict[int, tuple[str, str | None]] = {}
        columns = (rows.columns[column].tolist() for column in ("movieId", "tag", "timestamp"))
        for row, (film_id, text, time) in enumerate(zip(*columns, strict=True)):
            if not 0 <= time < MAX_TIME:
                problems[row] = "time is no number of seconds since 1970", None
            elif film_id not in positions:
                problems[row] = "film is not in the collection's table of films", None
            elif (name := _shown_tag(text)) and (until is None or time < until):
                film.append(positions[film_id])
                tag.append(codes.setdefault(name, len(codes)))
                since.append(time)
        for rejected in rows.rejected(problems):
            rejections.add(rejected)
    return _most_frequent(list(codes), np.array(film), np.array(tag), np.array(since), len(films.ids_F), most)


def _shown_tag(text: str) -> str | None:
    """The tag as profiles name it; None for one that cannot be shown."""
    name = " ".join(text.casefold().split())
    return name if 0 < len(name) <= MAX_TAG and name.isprintable() else None


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
