"""MovieLens ratings as compact arrays: tens of millions of them in some hundred megabytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.errors import DataError

from .collection import Layout, Rows, TableFile, read_table

TYPES = {"userId": "int64", "movieId": "int64", "rating": "float64", "timestamp": "int64"}
RULE = "a rating is a user, a film, a rating and a time: four numbers"
MAX_ID = 2**31 - 1
# Seconds since 1970: the year 2106. Milliseconds are beyond it.
MAX_TIME = 2**32 - 1

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Ratings:
    """N ratings of U users, sorted by user, time and film.

    Row i of user u has starts_U1[u] <= i < starts_U1[u + 1]. `film_N` are positions in `Films`,
    `half_stars_N` 1 to 10, `time_N` seconds since 1970, `line_N` lines of the file `name`, from 1.
    """

    name: str
    user_ids_U: NDArray[np.int32]
    starts_U1: NDArray[np.int64]
    film_N: NDArray[np.int32]
    half_stars_N: NDArray[np.int8]
    time_N: NDArray[np.uint32]
    line_N: NDArray[np.int32]


def read_ratings(
    table: TableFile, layout: Layout, film_ids: NDArray[np.int32], rejections: Rejections
) -> Ratings:
    """All ratings of films in `film_ids` (ascending); rows with impossible values go to `rejections`.

    Of several ratings of a film by one user the first counts. Raises DataError where the header is another
    one, a line is no rating, no row is left, or most have impossible values.
    """
    parts = [
        _checked(rows, film_ids, rejections) for rows in read_table(table, layout, TYPES, RULE, rejections)
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    _refuse_mostly_broken(table, len(columns.get("user", ())), rejections)
    return _sorted(table, columns, rejections)


def _checked(rows: Rows, film_ids: NDArray[np.int32], rejections: Rejections) -> Columns:
    """The rows whose values can be right, in compact types; the others go to `rejections`."""
    user, film, rating, time = (rows.columns[name] for name in TYPES)
    half_stars = rating * 2
    index = np.searchsorted(film_ids, film)
    known = index < len(film_ids)
    known[known] = film_ids[index[known]] == film[known]
    rules = {
        "user id out of range": (user >= 1) & (user <= MAX_ID),
        "rating is no half or whole star from 0.5 to 5": (
            (half_stars >= 1) & (half_stars <= 10) & (half_stars == np.floor(half_stars))
        ),
        "time is no number of seconds since 1970": (time >= 0) & (time < MAX_TIME),
        "film is not in the collection's table of films": known,
    }
    good = np.logical_and.reduce(list(rules.values()))
    bad = np.flatnonzero(~good).tolist()
    reasons = {row: next(reason for reason, holds in rules.items() if not holds[row]) for row in bad}
    for rejected in rows.rejected({row: (reason, None) for row, reason in reasons.items()}):
        rejections.add(rejected)
    return {
        "user": user[good].astype(np.int32),
        "film": index[good].astype(np.int32),
        "half_stars": half_stars[good].astype(np.int8),
        "time": time[good].astype(np.uint32),
        "line": rows.line_N[good].astype(np.int32),
    }


def _refuse_mostly_broken(table: TableFile, accepted: int, rejections: Rejections) -> None:
    found = [row for row in rejections.rows() if row.file == table.name]
    broken = sum(row.count for row in found)
    if broken > accepted:
        raise DataError(
            f"{broken} of the {broken + accepted} rows of {table.name} are broken; "
            f"the first: {found[0].where}: {found[0].reason} ({found[0].detail})",
            remedy="Set data.source.path to a MovieLens collection as GroupLens gives it out.",
        )
    if not accepted:
        raise DataError(f"{table.name} has no ratings", remedy="Unpack or download the collection again.")


def _sorted(table: TableFile, columns: Columns, rejections: Rejections) -> Ratings:
    columns = _without_repeats(table, columns, rejections)
    order = np.lexsort((columns["film"], columns["time"], columns["user"]))
    for name in columns:
        columns[name] = columns[name][order]
    del order
    user = columns.pop("user")
    starts = np.concatenate(([0], np.flatnonzero(user[1:] != user[:-1]) + 1, [len(user)]))
    return Ratings(
        table.name, user[starts[:-1]], starts, columns["film"], columns["half_stars"], columns["time"],
        columns["line"],
    )  # fmt: skip


def _without_repeats(table: TableFile, columns: Columns, rejections: Rejections) -> Columns:
    # Ids are below 2^31, so that user and film fit one number.
    pair = (columns["user"].astype(np.int64) << 31) | columns["film"]
    ascending = np.sort(pair)
    if not (ascending[1:] == ascending[:-1]).any():
        return columns
    del ascending
    order = np.lexsort((columns["line"], columns["time"], pair))
    repeats = order[1:][pair[order[1:]] == pair[order[:-1]]]
    for row in np.sort(repeats).tolist():
        detail = f"user {columns['user'][row]} has rated the film before"
        line = int(columns["line"][row])
        reason = "film rated again by the same user"
        rejections.add(RejectedRow(reason, detail, table.name, line, left_out=True))
    kept = np.ones(len(pair), dtype=bool)
    kept[repeats] = False
    return {name: values[kept] for name, values in columns.items()}
