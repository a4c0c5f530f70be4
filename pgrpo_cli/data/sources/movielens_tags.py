"""MovieLens tags: which films have which of the most frequent ones, and since when."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.row_problem import RowProblem

from .movielens_files import Layout, TableFile
from .movielens_films import Films, rows_of, whole_number
from .movielens_ratings import MAX_TIME
from .rejections import Rejections

HEADER = ["userId", "movieId", "tag", "timestamp"]
# A tag of fewer films tells little of a taste.
LEAST_FILMS = 10
MAX_TAG = 40
PREFIX = "tag: "


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
    for line, fields in rows_of(table, layout, HEADER, rejections) if table else ():
        try:
            position, name, time = _row(fields, positions)
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


def _row(fields: list[str], positions: dict[int, int]) -> tuple[int, str | None, int]:
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
