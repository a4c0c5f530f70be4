"""MovieLens ratings as compact arrays: tens of millions of them in some hundred megabytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.errors import DataError

from .movielens_files import Layout, TableFile, blocks
from .rejections import Rejections

HEADER = b"userId,movieId,rating,timestamp"
FIELDS = ("user", "film", "rating", "time")
UNIT_SEPARATOR = b"\x1f"
MAX_ID = 2**31 - 1
# Seconds since 1970: the year 2106. Milliseconds are beyond it.
MAX_TIME = 2**32 - 1
# A file in which so many rows, and most of them, are broken is the wrong file.
MANY = 10_000

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
    """All ratings of films in `film_ids` (ascending); broken rows go to `rejections`.

    Of several ratings of a film by one user the first counts. Raises DataError where the header is another
    one, no row is left, or most rows are broken.
    """
    parts: dict[str, list[NDArray[Any]]] = {"user": [], "film": [], "half_stars": [], "time": [], "line": []}
    accepted = 0
    before = rejections.count
    for first_line, block in blocks(table):
        if first_line == 1 and layout.header:
            first_line, block = 2, _without_header(table, block)
        for start, piece, columns in _parsed(block, layout.separator, first_line):
            if columns is None:
                rejections.looked_at(table.name)
                _reject(rejections, table, start, piece, "not a user, a film, a rating and a time", layout)
                continue
            rejections.looked_at(table.name, len(columns["user"]))
            kept = _checked(columns, piece, start, film_ids, table, rejections)
            for name, values in kept.items():
                parts[name].append(values)
            accepted += len(kept["user"])
        _refuse_mostly_broken(table, accepted, rejections, before, at_least=MANY)
    _refuse_mostly_broken(table, accepted, rejections, before, at_least=0)
    return _sorted(table, {name: np.concatenate(parts.pop(name)) for name in list(parts)}, rejections)


def _without_header(table: TableFile, block: bytes) -> bytes:
    line, _, rest = block.partition(b"\n")
    if line.strip().replace(b'"', b"") != HEADER:
        found = line[:80].decode("utf-8", errors="backslashreplace").strip()
        raise DataError(
            f"{table.name}:1 is {found!r}; MovieLens's header is {HEADER.decode()!r}",
            remedy="Set data.source.path to a MovieLens collection as GroupLens gives it out.",
        )
    return rest


def _parsed(block: bytes, separator: str, line: int) -> Iterator[tuple[int, bytes, Columns | None]]:
    """(first line, its bytes, columns) of the block, in pieces; a line that is no rating has None.

    A block that Arrow refuses is halved until the lines at fault stand alone: the others are read by the
    same code, whatever stands beside them.
    """
    pending = [(line, block)]
    while pending:
        start, piece = pending.pop()
        if not piece.strip():
            continue
        columns = _by_arrow(piece, separator)
        middle = piece.find(b"\n", len(piece) // 2) + 1
        if columns is None and middle in (0, len(piece)):
            # No line begins in the second half, but one may in the first.
            middle = piece.rfind(b"\n", 0, len(piece) - 1) + 1
        if columns is not None or middle == 0:
            yield start, piece, columns
        else:
            pending.append((start + piece.count(b"\n", 0, middle), piece[middle:]))
            pending.append((start, piece[:middle]))


def _by_arrow(block: bytes, separator: str) -> Columns | None:
    """The columns of the lines, or None where one of them has not four numbers."""
    import pyarrow
    from pyarrow import csv

    rows = block.count(b"\n")
    delimiter = separator
    if separator == "::":
        if UNIT_SEPARATOR in block:
            return None
        # Arrow's delimiters are of one character.
        block, delimiter = block.replace(b"::", UNIT_SEPARATOR), UNIT_SEPARATOR.decode()
    types = [pyarrow.int64(), pyarrow.int64(), pyarrow.float64(), pyarrow.int64()]
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(block),
            csv.ReadOptions(column_names=FIELDS, use_threads=False, block_size=len(block) + 1),
            csv.ParseOptions(delimiter=delimiter, quote_char=False),
            csv.ConvertOptions(column_types=dict(zip(FIELDS, types, strict=True)), null_values=[]),
        )
    except pyarrow.ArrowInvalid:
        return None
    if table.num_rows != rows:
        return None
    return {name: table.column(name).to_numpy() for name in FIELDS}


def _checked(
    columns: Columns,
    piece: bytes,
    start: int,
    film_ids: NDArray[np.int32],
    table: TableFile,
    rejections: Rejections,
) -> Columns:
    """The rows whose values can be right, in compact types; the others go to `rejections`."""
    user, film, rating, time = (columns[name] for name in FIELDS)
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
    if not good.all():
        texts = piece.split(b"\n")
        for row in np.flatnonzero(~good).tolist():
            reason = next(reason for reason, holds in rules.items() if not holds[row])
            _reject(rejections, table, start + row, texts[row], reason)
    return {
        "user": user[good].astype(np.int32),
        "film": index[good].astype(np.int32),
        "half_stars": half_stars[good].astype(np.int8),
        "time": time[good].astype(np.uint32),
        "line": (start + np.flatnonzero(good)).astype(np.int32),
    }


def _reject(
    rejections: Rejections, table: TableFile, line: int, row: bytes, reason: str, layout: Layout | None = None
) -> None:
    text = row[:500].decode("utf-8", errors="backslashreplace").strip()
    detail = f"found {text[:60]!r}"
    if layout is not None:
        detail += f"; four numbers with {layout.separator!r} in between are needed"
    rejections.add(RejectedRow(reason, detail, table.name, line, row=text))


def _refuse_mostly_broken(
    table: TableFile, accepted: int, rejections: Rejections, before: int, *, at_least: int
) -> None:
    broken = rejections.count - before
    if broken >= max(at_least, 1) and broken > accepted:
        first = next(row for row in rejections.rows() if row.file == table.name)
        raise DataError(
            f"{broken} of the first {broken + accepted} rows of {table.name} are broken; "
            f"the first: {first.where}: {first.reason} ({first.detail})",
            remedy="Set data.source.path to a MovieLens collection as GroupLens gives it out.",
        )
    if at_least == 0 and not accepted:
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
